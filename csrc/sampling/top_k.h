/* Internal: prefixes of the total order, and the search for where one ends. */
#ifndef DK_SELECT_H
#define DK_SELECT_H

#include "sampling/row_view.h"

/* The first tokens of the total order (higher value, then lower id): all above `value`, and those equal to it with an
 * id up to `last_id`. Most truncations keep a prefix. */
typedef struct dk_prefix {
  float value;
  int32_t last_id;
} dk_prefix;

/* A block as a prefix sees it: the elements >= low are kept. */
typedef struct dk_slice {
  dk_block block;
  float low;
} dk_slice;

/* Every token that is not banned. */
dk_prefix dk_prefix_all(void);

/* Tokens whose value is at least `bound`. */
dk_prefix dk_prefix_from(double bound);

/* Tokens above a value. */
dk_prefix dk_prefix_above(float value);

/* The shorter of two prefixes. */
dk_prefix dk_prefix_tighter(dk_prefix a, dk_prefix b);

int32_t dk_prefix_has(dk_prefix prefix, float value, int32_t token_id);

/* Whether a block can hold a token of the prefix; 1 where only its values can tell. */
static inline int32_t dk_may_have(const dk_view *view, dk_prefix prefix, int32_t block) {
  float max = view->block_max[block];
  return max > prefix.value || (max == prefix.value && dk_id(view, block * DK_BLOCK) <= prefix.last_id);
}

/* Block number `block`; valid until the next fetch. */
dk_slice dk_slice_of(const dk_view *view, dk_prefix prefix, int32_t block);

/* Number of tokens of the prefix. */
int64_t dk_prefix_count(const dk_view *view, dk_prefix prefix);

/* Mass of the prefix; sums[block], where not null, gets the mass of each block. */
uint64_t dk_prefix_mass(const dk_view *view, dk_prefix prefix, const dk_scale *scale, uint64_t *sums);

/* Takes the tokens of the prefix out of the row, in order of id; the entries have room for all tokens. Returns how
 * many; list_start tells where those of each block begin. */
int32_t dk_gather(const dk_view *view, dk_prefix prefix, dk_entries entries);

/* The id of the nth token (from 1, in order of id) that equals the value; past every id where there are fewer. */
int32_t dk_nth_equal(const dk_view *view, float value, int64_t n);

/* The largest key in [low, high] with at least k tokens from it upwards; low where there is none. */
uint32_t dk_key_of_kth(const dk_view *view, uint32_t low, uint32_t high, int64_t k);

/* The first k tokens into the workspace's list, in order of id, with_ties: and all that equal the last of them; all
 * that are not banned where there are no more than k. Returns how many. */
int32_t dk_list_first(const dk_view *view, int64_t k, int32_t with_ties);

/* ---- list.c: the workspace's list with weights, searched by mass ---- */

/* The first n entries of the workspace's list, padded to whole blocks. Those of the view's block b begin at
 * list_start[b]. */
typedef struct dk_list {
  const dk_view *view;
  dk_entries entries;
  int32_t n;
} dk_list;

/* The list of n entries whose values and ids stand in the workspace, weighed. */
dk_list dk_list_of(const dk_view *view, int32_t n, const dk_scale *scale);

uint64_t dk_list_mass(const dk_list *list);

/* Adds the weights of the entries >= low to the masses of their blocks. */
void dk_spread_list(const dk_list *list, float low, uint64_t *sums);

/* Where the running mass of a list, from the top, reaches a target. */
typedef struct dk_threshold {
  float value;
  uint64_t missing; /* what the tokens that equal the value have to add to those above it */
} dk_threshold;

/* Finds the threshold; 0 where the mass of the list misses the target, which is at least 1. */
int32_t dk_search_list(const dk_list *list, uint64_t target, dk_threshold *threshold);

/* The prefix of the total order that ends at a threshold of the list; sums[block] gets the weights of its tokens that
 * are in the list added. */
dk_prefix dk_end_in_list(const dk_list *list, dk_threshold end, uint64_t *sums);

/* ---- mass.c ---- */

/* The shortest prefix of `within` whose mass is at least top_p times the mass of `within`, and at least one token.
 * sums[block] gets the mass that each block has in the result. */
dk_prefix dk_select_mass(const dk_view *view, dk_prefix within, const dk_scale *scale, float top_p, uint64_t *sums);

#endif
