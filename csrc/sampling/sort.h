/* Internal: tokens in the total order. The few stages that need it sort a list, never the row. */
#ifndef DK_SORT_H
#define DK_SORT_H

#include "sampling/prefix.h"

/* The workspace's list, and the order of its entries. Valid until the list is used again. */
typedef struct dk_sorted {
  dk_entries list;       /* n entries, in order of id */
  const uint64_t *order; /* [n]: the low 32 bits are the index in the list, first token of the total order first */
  int32_t n;
} dk_sorted;

/* Sort the first n entries of the workspace's list, which are in order of id. */
dk_sorted dk_sort_list(const dk_workspace *workspace, int32_t n);

/* List and sort the first k tokens of a view; all of them if there are fewer. */
dk_sorted dk_sort_first(const dk_view *view, int64_t k);

static inline int32_t dk_sorted_index(const dk_sorted *sorted, int32_t i) {
  return (int32_t)(uint32_t)sorted->order[i];
}

static inline float dk_sorted_value(const dk_sorted *sorted, int32_t i) {
  return sorted->list.values[dk_sorted_index(sorted, i)];
}

/* Return the prefix that ends with the k-th token, k >= 1. */
static inline dk_prefix dk_sorted_prefix(const dk_sorted *sorted, int32_t k) {
  return (dk_prefix){dk_sorted_value(sorted, k - 1), sorted->list.ids[dk_sorted_index(sorted, k - 1)]};
}

#endif
