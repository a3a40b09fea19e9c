/* Internal: a row's distribution, from stage 8 to draw and report. */
#ifndef DK_DISTRIBUTION_H
#define DK_DISTRIBUTION_H

#include "sampling/top_k.h"

#define DK_GREEDY_TEMPERATURE 0x1p-20f /* below it the distribution is a point */

/* exp(x / T) over a prefix of a view, zero below the cut, divided by its total; x is the view's value less its maximum.
 */
typedef struct dk_distribution {
  const decoding_row *row;
  const dk_view *edited; /* logits after stage 7: ranks come from them */
  dk_view base;          /* after smoothing: edited itself, or shaped */
  dk_view view;          /* base, or a list of what is left of it */
  dk_prefix kept;        /* of the view */
  double temperature;    /* 1 before stage 8 */
  int32_t is_tempered;   /* stage 8 has run: what has no weight now never will */
  dk_scale scale;        /* from the largest of the view and the temperature */
  uint64_t total; /* mass of `kept` within the cut, in units of 2^-DK_WEIGHT_BITS; 0 where nobody has asked yet */
  uint64_t *sums; /* [blocks of view] where total is not 0: the mass of each */
  int32_t by_rejection;
  int32_t point; /* greedy: the one token; else -1 */
} dk_distribution;

/* Everything that is not banned, at temperature 1, with its total. */
dk_distribution dk_whole(const dk_view *view);

/* Stages 8 to 12, in the order of the batch: what the row draws from. Unless drawn by rejection, it has its total. */
dk_distribution dk_truncated(const dk_view *edited, const decoding_batch *batch, const decoding_row *row);

/* The same row and temperature before any truncation, with its total. */
dk_distribution dk_scaled(const dk_distribution *d);

/* Finds the total and the sums, where they are not there yet. */
void dk_find_total(dk_distribution *d);

/* The scale of the view as it now is, whose total nobody knows. */
void dk_rescale(dk_distribution *d);

/* x / T of a logit of `edited`, relative to the largest of the view. */
double dk_exponent(const dk_distribution *d, float logit);

/* Keeps only tokens with at least this value, but the first of the order always. */
void dk_keep_values(dk_distribution *d, const decoding_batch *batch, double least);

/* What is kept and has a weight: weights below the cut are zero. */
dk_prefix dk_within_cut(const dk_distribution *d);

/* The first token of the order. */
int32_t dk_first(const dk_view *view);

/* Log of the total, relative to the largest weight. */
double dk_log_total(dk_distribution *d);

/* ---- shape.c: stage 8, and what looks at the whole distribution ---- */

void dk_apply_temperature(dk_distribution *d);

/* Mean of x / T under the distribution. */
double dk_mean_exponent(dk_distribution *d);

/* Entropy in nats. */
double dk_entropy(dk_distribution *d);

void dk_apply_top_n_sigma(dk_distribution *d, const decoding_batch *batch);

/* ---- survivors.c: truncations whose result is no prefix ---- */

/* The first n entries of the workspace's list, tokens of the view, and of them what is kept, become the view: few
 * tokens, with a maximum of their own, which no later stage has to look for again. */
void dk_use_list(dk_distribution *d, int32_t n);

/* The same with all that is kept. */
void dk_make_list(dk_distribution *d);

void dk_apply_typical_p(dk_distribution *d, const decoding_batch *batch);
void dk_apply_xtc(dk_distribution *d);

/* ---- draw.c ---- */

/* Draw ids: which use of randomness at a position this is. */
#define DK_DRAW_SAMPLING 0
#define DK_DRAW_XTC 1

void dk_random_words(const decoding_row *row, uint64_t draw_id, uint64_t attempt, uint64_t words[4]);

/* Whether the row is drawn by rejection: nothing but stage 8 and then min_p shapes it, so its total is not needed. */
int32_t dk_by_rejection(const decoding_batch *batch, const decoding_row *row);

/* Stage 13: one token. */
int32_t dk_draw(const dk_distribution *d);

/* ---- report.c ---- */

/* Log-probability of a token with this logit in `edited`; the distribution must have its total. */
double dk_logprob(dk_distribution *d, float logit, int32_t token_id);

/* The first n tokens of the order of a view, with their values; fewer where the rest is banned. Returns how many. */
int32_t dk_list_top(const dk_view *view, int32_t n, int32_t *ids, float *values);

/* 1 + the number of tokens ahead of this one in the order of the view. */
int32_t dk_rank(const dk_view *view, int32_t token_id);

#endif
