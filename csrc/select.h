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

/* Takes the tokens of the prefix out of the row, into the workspace's list, in order of id. Returns how many, or -1
 * where the list is too short for them. */
int32_t dk_gather(const dk_view *view, dk_prefix prefix);

/* The first k tokens; all that are not banned where there are no more than k. */
dk_prefix dk_select_count(const dk_view *view, int64_t k);

/* The shortest prefix of `within` whose mass is at least top_p times the mass of `within`, and at least one token.
 * is_short: `within` is expected to hold few tokens. sums[block] gets the mass that each block has in the result. */
dk_prefix dk_select_mass(const dk_view *view, dk_prefix within, int32_t is_short, const dk_scale *scale, float top_p,
                         uint64_t *sums);

/* dk_prefix_mass for a prefix that may be short: then its tokens are weighed, and not the blocks they lie in. */
uint64_t dk_weigh(const dk_view *view, dk_prefix prefix, const dk_scale *scale, uint64_t *sums);

#endif
