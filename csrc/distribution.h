/* Internal: a row's distribution, from truncation to draw and report. */
#ifndef DK_DISTRIBUTION_H
#define DK_DISTRIBUTION_H

#include "select.h"

/* exp((x - max) / T) over a prefix of the total order, divided by its total. */
typedef struct dk_distribution {
  const dk_view *view;
  dk_prefix kept;
  float temperature;
  dk_scale scale;
  uint64_t total; /* mass of `kept`, in units of 2^-DK_WEIGHT_BITS; 0 where nobody has asked yet */
  int32_t point;  /* greedy: the one token; else -1 */
} dk_distribution;

/* Everything that is not banned, at this temperature. */
dk_distribution dk_whole(const dk_view *view, float temperature);

/* All of the mass on the first token of the order. */
dk_distribution dk_point(const dk_view *view);

int32_t dk_is_greedy(const decoding_row *row);

/* Whether the row is drawn by rejection: nothing but temperature and min_p shapes it, so its total is not needed. */
int32_t dk_by_rejection(const decoding_row *row);

/* Stages 8 to 12: what the row draws from. Unless drawn by rejection, sums[block] gets the mass of each block. */
dk_distribution dk_truncated(const dk_view *view, const decoding_row *row, uint64_t *sums);

/* Finds the total of a distribution that has none yet, and its sums[]. */
void dk_find_total(dk_distribution *d, uint64_t *sums);

/* Stage 13: one token. */
int32_t dk_draw(const dk_distribution *d, const decoding_row *row, dk_workspace *workspace);

/* Log-probability of a token with this value; the distribution must have its total. */
float dk_logprob(const dk_distribution *d, float value, int32_t token_id);

/* Fills in logprob, rank and num_top of the result, and the first num_top tokens of the order. */
void dk_report(const dk_distribution *d, const decoding_row *row, decoding_result *result, int32_t *top_token_ids,
               float *top_logprobs);

#endif
