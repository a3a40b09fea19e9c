/* Log-probabilities: of the drawn token, of the first tokens of the order, and the drawn token's rank. */
#include <math.h>

#include "distribution.h"
#include "logarithm.h"

/* From the logit itself, in double: the integer weight is only as fine as 2^-43 of the largest. */
float dk_logprob(const dk_distribution *d, float value, int32_t token_id) {
  if (d->point >= 0)
    return token_id == d->point ? 0.0f : -INFINITY;
  if (value == -INFINITY || !dk_prefix_has(d->kept, value, token_id))
    return -INFINITY;
  double log_total = dk_log((double)d->total) - (double)DK_WEIGHT_BITS * DK_LN2;
  return (float)(((double)value - (double)d->view->max) / (double)d->temperature - log_total);
}

static int32_t rank_of(const dk_view *view, int32_t token_id) {
  return 1 + (int32_t)dk_prefix_count(view, (dk_prefix){dk_value(view, token_id), token_id - 1});
}

/* Whether entry a of the report comes after entry b in the total order. */
static int32_t comes_after(const int32_t *ids, const float *values, int32_t a, int32_t b) {
  return values[a] < values[b] || (values[a] == values[b] && ids[a] > ids[b]);
}

static void swap_entries(int32_t *ids, float *values, int32_t a, int32_t b) {
  int32_t id = ids[a];
  float value = values[a];
  ids[a] = ids[b];
  values[a] = values[b];
  ids[b] = id;
  values[b] = value;
}

/* Heapsort: the entries of the report, never the row. */
static void sort_entries(int32_t *ids, float *values, int32_t n) {
  for (int32_t start = n / 2 - 1, end = n; end > 1;) {
    if (start >= 0)
      start--;
    else
      swap_entries(ids, values, 0, --end);
    for (int32_t parent = start + 1, child; (child = 2 * parent + 1) < end; parent = child) {
      if (child + 1 < end && comes_after(ids, values, child + 1, child))
        child++;
      if (!comes_after(ids, values, child, parent))
        break;
      swap_entries(ids, values, parent, child);
    }
  }
}

/* The first n tokens of the order, with their values; fewer where the rest is banned. Returns how many. */
static int32_t list_top(const dk_view *view, int32_t n, int32_t *ids, float *values) {
  if (n == 0)
    return 0;
  dk_prefix top = dk_select_count(view, n);
  int32_t found = 0;
  for (int32_t block = 0; block < view->num_blocks && found < n; block++) {
    if (view->block_max[block] < top.value)
      continue;
    const float *block_values = dk_fetch(view, block);
    for (int32_t i = 0; i < DK_BLOCK && found < n; i++) {
      if (!dk_prefix_has(top, block_values[i], block * DK_BLOCK + i))
        continue;
      ids[found] = block * DK_BLOCK + i;
      values[found++] = block_values[i];
    }
  }
  sort_entries(ids, values, found);
  return found;
}

void dk_report(const dk_distribution *d, const decoding_row *row, decoding_result *result, int32_t *top_token_ids,
               float *top_logprobs) {
  result->logprob = dk_logprob(d, dk_value(d->view, result->token_id), result->token_id);
  result->rank = rank_of(d->view, result->token_id);
  result->num_top = list_top(d->view, row->num_top, top_token_ids, top_logprobs);
  for (int32_t i = 0; i < result->num_top; i++)
    top_logprobs[i] = dk_logprob(d, top_logprobs[i], top_token_ids[i]);
}
