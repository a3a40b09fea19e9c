/* Internal: the workspace's list with weights, and the search in it by mass. */
#ifndef DK_WEIGHTED_SELECT_H
#define DK_WEIGHTED_SELECT_H

#include "sampling/prefix.h"

/* The first n entries of the workspace's list, padded to whole blocks. Those of the view's block b begin at
 * list_start[b]. */
typedef struct dk_list {
  const dk_view *view;
  dk_entries entries;
  int32_t n;
} dk_list;

/* The value at which the running mass of a list, from the largest value down, reaches a target. */
typedef struct dk_threshold {
  float value;
  uint64_t missing; /* mass that the tokens equal to the value must add to that of the tokens above it */
} dk_threshold;

/* Compute the weights of the n entries whose values and ids are in the workspace's list. */
dk_list dk_list_of(const dk_view *view, int32_t n, const dk_scale *scale);

uint64_t dk_list_mass(const dk_list *list);

/* Find the threshold for a target of at least 1. Returns false if the mass of the list is smaller. */
bool dk_search_list(const dk_list *list, uint64_t target, dk_threshold *threshold);

/* Return the prefix that ends at a threshold of the list. Adds the weights of its listed tokens to the sums of their
 * blocks. */
dk_prefix dk_end_in_list(const dk_list *list, dk_threshold end, uint64_t *sums);

#endif
