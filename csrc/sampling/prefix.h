/* Internal: prefixes of the total order of tokens, and what they contain. */
#ifndef DK_PREFIX_H
#define DK_PREFIX_H

#include "sampling/row_view.h"

/* The first tokens of the total order (higher value first, then lower id): all above `value`, and those equal to it
 * with an id up to `last_id`. Most truncations keep a prefix. */
typedef struct dk_prefix {
  float value;
  int32_t last_id;
} dk_prefix;

/* The part of a block that belongs to a prefix: the elements >= low. */
typedef struct dk_slice {
  dk_block block;
  float low;
} dk_slice;

/* Return the prefix of all tokens that are not banned. */
dk_prefix dk_prefix_all(void);

/* Return the prefix of the tokens with values of at least `bound`, which must not exceed FLT_MAX. */
dk_prefix dk_prefix_from(double bound);

/* Return the prefix of the tokens with values above this one. */
dk_prefix dk_prefix_above(float value);

/* Return the shorter of two prefixes. */
dk_prefix dk_prefix_shorter(dk_prefix a, dk_prefix b);

bool dk_prefix_contains(dk_prefix prefix, float value, int32_t token_id);

/* Return false if a block has no token of the prefix; true says nothing. */
static inline bool dk_may_contain(const dk_view *view, dk_prefix prefix, int32_t block) {
  float max = view->block_max[block];
  return max > prefix.value || (max == prefix.value && dk_id(view, block * DK_BLOCK) <= prefix.last_id);
}

/* Return the part of a block that belongs to the prefix. Valid until the next fetch. */
dk_slice dk_slice_of(const dk_view *view, dk_prefix prefix, int32_t block);

/* Return the number of tokens in the prefix. */
int64_t dk_prefix_count(const dk_view *view, dk_prefix prefix);

/* Return the sum of the weights in the prefix. If sums is not null, sums[block] is set to the sum of each block. */
uint64_t dk_prefix_mass(const dk_view *view, dk_prefix prefix, const dk_scale *scale, uint64_t *sums);

/* Collect the tokens of the prefix in order of id, and set the workspace's list_start. The entries need room for the
 * whole row. Returns the number of tokens. */
int32_t dk_gather(const dk_view *view, dk_prefix prefix, dk_entries entries);

#endif
