/* The first k tokens, without a sort and with little of the row read: a value that k block maxima reach is a lower
 * bound of the k-th largest token. So the tokens above it are collected in a list, and the list is searched. */
#include "sampling/top_k.h"

#include <float.h>

#include "sampling/float_keys.h"

int32_t dk_nth_equal(const dk_view *view, float value, int64_t n) {
  for (int32_t block = 0; block < view->num_blocks; block++) {
    if (view->block_max[block] < value)
      continue;
    dk_block fetched = dk_fetch(view, block);
    int32_t num_equal = view->kernel->count(fetched, value) - view->kernel->count(fetched, dk_next_above(value));
    if (num_equal < n) {
      n -= num_equal;
      continue;
    }
    const float *values = dk_fetch_floats(view, block);
    for (int32_t i = 0; i < DK_BLOCK; i++)
      if (values[i] == value && --n == 0)
        return dk_id(view, block * DK_BLOCK + i);
  }
  return INT32_MAX;
}

static int64_t count_from(const dk_view *view, uint32_t key) {
  return dk_prefix_count(view, (dk_prefix){dk_value_of(key), INT32_MAX});
}

/* The keys wanted are near the maximum of most rows, so the search begins there, in growing steps. */
#define FIRST_STEP (1u << 20) /* an eighth of a value's power of two */
#define LAST_STEP (1u << 28)

uint32_t dk_key_of_kth(const dk_view *view, uint32_t low, uint32_t high, int64_t k, int64_t most) {
  uint32_t step = FIRST_STEP;
  while (low < high) {
    uint32_t half = (high - low) / 2, middle = high - (half < step ? half : step);
    int64_t n = count_from(view, middle);
    if (n >= k && n <= most)
      return middle;
    if (n >= k) {
      low = middle;
    } else {
      high = middle - 1;
      step = step < LAST_STEP ? 4 * step : LAST_STEP;
    }
  }
  return low;
}

/* Return the prefix of the first k tokens of a view whose tokens all have values of at least `floor`. */
static dk_prefix first_k(const dk_view *view, float floor, int64_t k) {
  float value = dk_value_of(dk_key_of_kth(view, dk_key_of(floor), dk_key_of(view->max), k, k));
  int64_t above = dk_prefix_count(view, dk_prefix_above(value));
  return above == k ? dk_prefix_above(value) : (dk_prefix){value, dk_nth_equal(view, value, k - above)};
}

/* Return a value that k block maxima reach, or a few more, which takes a third of the steps. */
static float bound_of(const dk_view *view, int64_t k) {
  dk_view maxima = dk_view_maxima(view);
  return dk_value_of(dk_key_of_kth(&maxima, dk_key_of(-FLT_MAX), dk_key_of(view->max), k, k + k / 8));
}

/* In entries. A shorter list is cut faster entry by entry than by a second pass over its blocks. */
#define SHORT_LIST 1024

static dk_prefix tied(dk_prefix prefix, bool with_ties) {
  return (dk_prefix){prefix.value, with_ties ? INT32_MAX : prefix.last_id};
}

/* Remove the entries that a prefix does not contain. Returns the number that remain. */
static int32_t cut_list(const dk_entries *list, int32_t n, dk_prefix prefix) {
  int32_t left = 0;
  for (int32_t i = 0; i < n; i++) {
    list->values[left] = list->values[i];
    list->ids[left] = list->ids[i];
    left += dk_prefix_contains(prefix, list->values[i], list->ids[i]);
  }
  return left;
}

int32_t dk_list_first(const dk_view *view, int64_t k, bool with_ties) {
  const dk_entries *entries = &view->workspace->list;
  if (k > view->num_blocks || view->use_plain_search)
    return dk_gather(view, tied(first_k(view, -FLT_MAX, k), with_ties), *entries);
  float bound = bound_of(view, k);
  int32_t above = dk_gather(view, dk_prefix_above(bound), *entries); /* ties at the bound could fill the list */
  if (above < k)
    return dk_gather(view, tied((dk_prefix){bound, dk_nth_equal(view, bound, k - above)}, with_ties), *entries);
  dk_view list = dk_view_list(view, *entries, above, view->workspace->list_max);
  dk_prefix first = tied(first_k(&list, bound, k), with_ties);
  return above > SHORT_LIST ? dk_gather(view, first, *entries) : cut_list(entries, above, first);
}
