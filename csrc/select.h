/* Internal: prefixes of the total order, and the search for where one ends. */
#ifndef DK_SELECT_H
#define DK_SELECT_H

#include "row.h"

/* The first tokens of the total order (higher value, then lower id): all above `value`, and those equal to it with an
 * id up to `last_id`. top_k, top_p, min_p and the cut each keep a prefix, so a prefix is all that truncation is. */
typedef struct dk_prefix {
  float value;
  int32_t last_id;
} dk_prefix;

/* Every token that is not banned. */
dk_prefix dk_prefix_all(void);

/* Tokens whose value is at least `bound`. */
dk_prefix dk_prefix_from(double bound);

/* The shorter of two prefixes. */
dk_prefix dk_prefix_tighter(dk_prefix a, dk_prefix b);

int32_t dk_prefix_has(dk_prefix prefix, float value, int32_t token_id);

/* The prefix as block number `block` sees it. */
dk_cutoff dk_prefix_in_block(dk_prefix prefix, int32_t block);

/* Number of tokens of the prefix. */
int64_t dk_prefix_count(const dk_view *view, dk_prefix prefix);

/* Mass of the prefix; sums[block], where not null, gets the mass of each block. */
uint64_t dk_prefix_mass(const dk_view *view, dk_prefix prefix, const dk_scale *scale, uint64_t *sums);

/* The first k tokens; all that are not banned where there are no more than k. */
dk_prefix dk_select_count(const dk_view *view, int64_t k);

/* The shortest prefix of `within` that has at least this mass; 1 <= mass <= the mass of `within`. */
dk_prefix dk_select_mass(const dk_view *view, dk_prefix within, const dk_scale *scale, uint64_t mass);

#endif
