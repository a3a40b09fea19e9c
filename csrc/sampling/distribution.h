/* Internal: the distribution of a row, and the operations that the stages on it are made of. */
#ifndef DK_DISTRIBUTION_H
#define DK_DISTRIBUTION_H

#include "sampling/prefix.h"

/* How the weights were computed before the stages adaptive_p and skew. */
typedef struct dk_before {
  float max;
  double temperature;
  double log_total;
} dk_before;

/* Weights exp((x - max) / T) of a prefix of a view, divided by their total. Weights below the cut are zero. */
typedef struct dk_distribution {
  const decoding_row *row;
  uint32_t rules;        /* DECODING_RULE_* */
  const dk_view *edited; /* the logits after the editing stages; ranks refer to them */
  dk_view base;          /* the whole row: edited, or smoothed */
  dk_view view;          /* base, or a list of the tokens that remain of it */
  dk_prefix kept;        /* the tokens of `view` that remain */
  double temperature;    /* 1 before stage temperature */
  bool is_tempered;      /* stage temperature has run: a token without weight will never get one */
  bool by_rejection;     /* how to draw, see draw.h */
  bool is_reshaped;      /* the view is a list of logarithms of weights, at temperature 1 */
  dk_before before;      /* if it is reshaped */
  int32_t point;         /* the only token, if temperature is 0; otherwise -1 */
  dk_scale scale;        /* of `view` at this temperature */
  uint64_t total;        /* sum of the weights, in units of 2^-DK_WEIGHT_BITS; 0 if not computed yet */
  uint64_t *sums;        /* [blocks of view] sum of the weights of each block, if the total is known */
} dk_distribution;

/* Start from all tokens of a view, at temperature 1. */
dk_distribution dk_distribution_of(const dk_view *view, const decoding_row *row, uint32_t rules);

/* Return all tokens of a view at temperature 1, with the total; `sums` is not set. */
dk_distribution dk_whole(const dk_view *view);

/* Return all tokens of the row at this distribution's temperature, with the total; `sums` is not set. */
dk_distribution dk_untruncated(const dk_distribution *d);

/* Recompute the scale after a change of the view or the temperature. Invalidates the total. */
void dk_rescale(dk_distribution *d);

/* Keep only the tokens of a prefix. */
void dk_keep_prefix(dk_distribution *d, dk_prefix prefix);

/* Keep the tokens with values of at least `bound`. If there are none, keep the first token of the order, or with
 * DECODING_RULE_KEEP_TIES all tokens that have the maximum. */
void dk_keep_values(dk_distribution *d, double bound);

/* Keep the tokens with exponents (x - max) / T of at least `bound`, under the same rule. */
void dk_keep_exponents(dk_distribution *d, double bound);

/* Return the prefix of the tokens of `view` with exponents of at least `exponent` <= 0. */
dk_prefix dk_prefix_of_exponent(const dk_distribution *d, double exponent);

/* Return the prefix of the remaining tokens whose weight is not below the cut. */
dk_prefix dk_within_cut(const dk_distribution *d);

/* Compute the total and the sums, if they are not known. */
void dk_find_total(dk_distribution *d);

/* Return the logarithm of the total, in units of the largest weight. */
double dk_log_total(dk_distribution *d);

/* Return (x - max) / T for a logit of `edited`; max is that of `view`. */
double dk_exponent(const dk_distribution *d, float logit);

/* Return (x - max) / T for a value of `view`. */
double dk_exponent_of_value(const dk_distribution *d, float value);

/* Return the first token of the total order. */
int32_t dk_first_token(const dk_view *view);

#endif
