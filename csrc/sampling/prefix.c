/* Prefixes of the total order. Blocks whose maximum lies below a prefix are not read. */
#include "sampling/prefix.h"

#include <float.h>
#include <math.h>

#include "sampling/float_keys.h"

dk_prefix dk_prefix_all(void) { return (dk_prefix){-FLT_MAX, INT32_MAX}; }

/* Rounds the bound up to a float. A bound below the range of floats keeps every finite value. */
dk_prefix dk_prefix_from(double bound) {
  if (!(bound > -(double)FLT_MAX))
    return dk_prefix_all();
  float value = (float)bound;
  if ((double)value < bound)
    value = dk_next_above(value);
  return (dk_prefix){value, INT32_MAX};
}

dk_prefix dk_prefix_above(float value) { return (dk_prefix){value, -1}; }

dk_prefix dk_prefix_shorter(dk_prefix a, dk_prefix b) {
  if (a.value != b.value)
    return a.value > b.value ? a : b;
  return a.last_id < b.last_id ? a : b;
}

bool dk_prefix_contains(dk_prefix prefix, float value, int32_t token_id) {
  return value > prefix.value || (value == prefix.value && token_id <= prefix.last_id);
}

/* Return the index in a block at which the tied tokens of a prefix end: below 1 if before it, DK_BLOCK or more if
 * behind it. */
static int32_t end_of_ties(const dk_view *view, dk_prefix prefix, int32_t block) {
  bool has_all_ties = prefix.last_id == INT32_MAX;
  return has_all_ties ? DK_BLOCK : dk_num_ids_up_to(view, prefix.last_id) - block * DK_BLOCK;
}

static float low_of(dk_prefix prefix, int32_t end) { return end > 0 ? prefix.value : dk_next_above(prefix.value); }

/* Only the block in which the tied tokens end must be copied. */
dk_slice dk_slice_of(const dk_view *view, dk_prefix prefix, int32_t block) {
  int32_t end = end_of_ties(view, prefix, block);
  if (end <= 0 || end >= DK_BLOCK)
    return (dk_slice){dk_fetch(view, block), low_of(prefix, end)};
  float *copy = dk_fetch_copy(view, block);
  for (int32_t i = end; i < DK_BLOCK; i++)
    copy[i] = copy[i] == prefix.value ? -INFINITY : copy[i];
  return (dk_slice){{copy, DECODING_FLOAT32}, prefix.value};
}

static int32_t count_in_block(const dk_view *view, dk_prefix prefix, int32_t block) {
  int32_t end = end_of_ties(view, prefix, block);
  if (end <= 0 || end >= DK_BLOCK)
    return dk_count(view, block, low_of(prefix, end));
  dk_slice slice = dk_slice_of(view, prefix, block);
  return view->kernel->count(slice.block, slice.low);
}

int64_t dk_prefix_count(const dk_view *view, dk_prefix prefix) {
  int64_t total = 0;
  for (int32_t block = 0; block < view->num_blocks; block++)
    if (dk_may_contain(view, prefix, block))
      total += count_in_block(view, prefix, block);
  return total;
}

/* Return the number of blocks from this one on that one call can sum: unchanged in the caller's memory, with all their
 * ties. At least 1. */
static int32_t length_of_run(const dk_view *view, dk_prefix prefix, int32_t block) {
  int32_t n = 1, most = view->num_plain - block < DK_MAX_RUN ? view->num_plain - block : DK_MAX_RUN;
  while (n < most && prefix.last_id == INT32_MAX && dk_may_contain(view, prefix, block + n))
    n++;
  return n;
}

uint64_t dk_prefix_mass(const dk_view *view, dk_prefix prefix, const dk_scale *scale, uint64_t *sums) {
  uint64_t total = 0;
  for (int32_t block = 0, n = 1; block < view->num_blocks; block += n) {
    uint64_t sum = 0;
    n = 1;
    if (dk_may_contain(view, prefix, block)) {
      dk_slice slice = dk_slice_of(view, prefix, block);
      n = sums == NULL ? length_of_run(view, prefix, block) : 1;
      sum = view->kernel->mass(slice.block, n, slice.low, scale);
    }
    if (sums != NULL)
      sums[block] = sum;
    total += sum;
  }
  return total;
}

int32_t dk_gather(const dk_view *view, dk_prefix prefix, dk_entries entries) {
  int32_t n = 0, *starts = view->workspace->list_start;
  for (int32_t block = 0; block < view->num_blocks; block++) {
    starts[block] = n;
    if (!dk_may_contain(view, prefix, block))
      continue;
    dk_slice slice = dk_slice_of(view, prefix, block);
    int32_t first = n;
    n += view->kernel->gather(slice.block, slice.low, block * DK_BLOCK, entries.values + n, entries.ids + n);
    for (int32_t i = first; view->ids != NULL && i < n; i++)
      entries.ids[i] = view->ids[entries.ids[i]];
  }
  starts[view->num_blocks] = n;
  return n;
}
