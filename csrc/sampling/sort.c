/* A list in the total order, by radix sort, least significant digit first. It is stable, so entries of one value stay
 * in order of id. Its two buffers are the list's room for weights. */
#include "sampling/sort.h"

#include <string.h>

#include "sampling/float_keys.h"
#include "sampling/top_k.h"

#define DIGIT_BITS 11 /* DK_HISTOGRAM_SIZE values */
#define NUM_PASSES 3  /* for 32 bits */

/* Keys that ascend as the values descend, above the index of each entry. */
static void fill(const dk_entries *list, int32_t n, uint64_t *out) {
  for (int32_t i = 0; i < n; i++)
    out[i] = (uint64_t)~dk_key_of(list->values[i]) << 32 | (uint32_t)i;
}

static void sort_by_digit(const uint64_t *from, int32_t n, int shift, uint64_t *places, uint64_t *to) {
  uint64_t start = 0;
  memset(places, 0, DK_HISTOGRAM_SIZE * sizeof *places);
  for (int32_t i = 0; i < n; i++)
    places[from[i] >> shift & (DK_HISTOGRAM_SIZE - 1)]++;
  for (int32_t digit = 0; digit < DK_HISTOGRAM_SIZE; digit++) {
    uint64_t count = places[digit];
    places[digit] = start;
    start += count;
  }
  for (int32_t i = 0; i < n; i++)
    to[places[from[i] >> shift & (DK_HISTOGRAM_SIZE - 1)]++] = from[i];
}

dk_sorted dk_sort_list(const dk_workspace *workspace, int32_t n) {
  uint64_t *from = workspace->list.weights, *to = from + dk_whole_blocks(n);
  fill(&workspace->list, n, from);
  for (int pass = 0; pass < NUM_PASSES; pass++) {
    sort_by_digit(from, n, 32 + pass * DIGIT_BITS, workspace->histogram, to);
    uint64_t *other = from;
    from = to;
    to = other;
  }
  return (dk_sorted){workspace->list, from, n};
}

dk_sorted dk_sort_first(const dk_view *view, int64_t k) {
  return dk_sort_list(view->workspace, dk_list_first(view, k, false));
}
