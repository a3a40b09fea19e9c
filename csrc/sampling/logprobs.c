/* Log-probabilities and ranks. */
#include <math.h>

#include "sampling/distribution.h"

/* From the logit itself, in double: the integer weight is only as fine as 2^-43 of the largest. */
double dk_logprob(dk_distribution *d, float logit, int32_t token_id) {
  if (d->point >= 0)
    return token_id == d->point ? 0.0 : -INFINITY;
  int32_t place = logit == -INFINITY ? -1 : dk_index_of(&d->view, token_id);
  if (place < 0 || !dk_prefix_has(d->kept, dk_value(&d->view, place), token_id))
    return -INFINITY;
  return dk_exponent(d, logit) - dk_log_total(d) + 0.0; /* never -0: which zero is the maximum depends on the set */
}

/* Banned tokens come last, by id: all that are not banned are ahead, and banned ones with lower ids. */
static int64_t num_ahead_of_banned(const dk_view *view, int32_t token_id) {
  int64_t num_kept_before = 0;
  for (int32_t block = 0; block * DK_BLOCK < token_id; block++) {
    const float *values = dk_fetch_floats(view, block);
    for (int32_t i = 0; i < DK_BLOCK && block * DK_BLOCK + i < token_id; i++)
      num_kept_before += values[i] > -INFINITY;
  }
  return dk_prefix_count(view, dk_prefix_all()) + token_id - num_kept_before;
}

int32_t dk_rank(const dk_view *view, int32_t token_id) {
  float value = dk_value(view, token_id);
  int64_t num_ahead = value == -INFINITY ? num_ahead_of_banned(view, token_id)
                                         : dk_prefix_count(view, (dk_prefix){value, token_id - 1});
  return 1 + (int32_t)num_ahead;
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

int32_t dk_list_top(const dk_view *view, int32_t n, int32_t *ids, float *values) {
  const dk_entries *list = &view->workspace->list;
  if (n == 0)
    return 0;
  int32_t found = dk_list_first(view, n, 0);
  for (int32_t i = 0; i < found; i++) {
    ids[i] = list->ids[i];
    values[i] = list->values[i];
  }
  sort_entries(ids, values, found);
  return found;
}
