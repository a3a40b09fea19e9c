/* Internal: the search for the first k tokens of the total order. */
#ifndef DK_TOP_K_H
#define DK_TOP_K_H

#include "sampling/prefix.h"

/* Collect the first k tokens in the workspace's list, in order of id; with_ties, also all that are equal to the last of
 * them. All tokens that are not banned if there are no more than k. Returns the number of tokens. */
int32_t dk_list_first(const dk_view *view, int64_t k, bool with_ties);

/* Return the id of the nth token, from 1 and in order of id, that is equal to the value; INT32_MAX if there are fewer.
 */
int32_t dk_nth_equal(const dk_view *view, float value, int64_t n);

/* Return a key (float_keys.h) in [low, high] such that at least k tokens have this key or a larger one: any that at
 * most `most` tokens reach, or the largest if there is none of these; low if fewer than k tokens reach it. */
uint32_t dk_key_of_kth(const dk_view *view, uint32_t low, uint32_t high, int64_t k, int64_t most);

#endif
