/* Prefixes of the total order: what they hold, how many, how much. Blocks whose maximum lies below a prefix are not
 * touched. */
#include <float.h>

#include "ordered.h"
#include "select.h"

dk_prefix dk_prefix_all(void) { return (dk_prefix){-FLT_MAX, INT32_MAX}; }

/* The least float that is not below the bound; bounds under the float range keep every finite value. */
dk_prefix dk_prefix_from(double bound) {
  if (!(bound > -(double)FLT_MAX))
    return dk_prefix_all();
  float value = (float)bound;
  if ((double)value < bound)
    value = dk_value_of(dk_key_of(value) + 1);
  return (dk_prefix){value, INT32_MAX};
}

dk_prefix dk_prefix_tighter(dk_prefix a, dk_prefix b) {
  if (a.value != b.value)
    return a.value > b.value ? a : b;
  return a.last_id < b.last_id ? a : b;
}

int32_t dk_prefix_has(dk_prefix prefix, float value, int32_t token_id) {
  return value > prefix.value || (value == prefix.value && token_id <= prefix.last_id);
}

dk_cutoff dk_prefix_in_block(dk_prefix prefix, int32_t block) {
  int64_t ties = (int64_t)prefix.last_id + 1 - (int64_t)block * DK_BLOCK;
  return (dk_cutoff){prefix.value, ties > DK_BLOCK ? DK_BLOCK : ties < 0 ? 0 : (int32_t)ties};
}

int64_t dk_prefix_count(const dk_view *view, dk_prefix prefix) {
  int64_t total = 0;
  for (int32_t block = 0; block < view->num_blocks; block++)
    if (view->block_max[block] >= prefix.value)
      total += view->kernel->count(dk_fetch(view, block), dk_prefix_in_block(prefix, block));
  return total;
}

uint64_t dk_prefix_mass(const dk_view *view, dk_prefix prefix, const dk_scale *scale, uint64_t *sums) {
  uint64_t total = 0;
  for (int32_t block = 0; block < view->num_blocks; block++) {
    uint64_t sum = 0;
    if (view->block_max[block] >= prefix.value)
      sum = view->kernel->mass(dk_fetch(view, block), dk_prefix_in_block(prefix, block), scale);
    if (sums != NULL)
      sums[block] = sum;
    total += sum;
  }
  return total;
}

int32_t dk_gather(const dk_view *view, dk_prefix prefix) {
  const dk_entries *list = &view->workspace->list;
  int32_t n = 0;
  for (int32_t block = 0; block < view->num_blocks; block++) {
    if (view->block_max[block] < prefix.value)
      continue;
    n += view->kernel->gather(dk_fetch(view, block), dk_prefix_in_block(prefix, block), block * DK_BLOCK,
                              list->values + n, list->ids + n);
    if (n > view->workspace->list_capacity)
      return -1;
  }
  return n;
}
