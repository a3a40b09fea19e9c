/* Internal: a row of logits at one point of the pipeline, read in blocks. The caller's memory is not changed.
 *
 * A view is the caller's row (raw), the row after the editing stages (edited), after quadratic smoothing (smoothed), or
 * what a truncation left of it (a list). Edits, masks and smoothing are applied to a copy of a block when it is
 * fetched. A block without any of them is never copied. */
#ifndef DK_ROW_VIEW_H
#define DK_ROW_VIEW_H

#include <stdbool.h>
#include <stdint.h>

#include "decoding.h"
#include "sampling/failure.h"
#include "sampling/kernels.h"
#include "sampling/workspace.h"

/* An element is a logit of the row. Its index is its token id, but in a list. */
typedef struct dk_view {
  const dk_kernel *kernel;
  const char *logits;
  int32_t dtype;
  int32_t num_elements; /* the vocabulary size; for a list, its length with padding */
  int32_t num_blocks;
  int32_t num_plain;     /* number of leading blocks that have no edits, mask, smoothing or NaN */
  bool has_nan;          /* NaN counts as -inf, so every block must be copied */
  bool is_smoothed;      /* by `smoothing` */
  bool use_plain_search; /* DECODING_PLAIN_SEARCH */
  dk_smoothing smoothing;
  const int32_t *ids;     /* token ids of a list, in ascending order; null if an index is a token id */
  const uint32_t *mask;   /* bit i % 32 of word i / 32 is 1 if token i is allowed; null if all are */
  dk_edits *edits;        /* null if there are none */
  const float *block_max; /* maximum of each block, padded to whole blocks with -inf */
  float max;
  dk_workspace *workspace;
} dk_view;

/* View the caller's row, and check that it is finite. */
dk_failure dk_view_raw(dk_view *view, const decoding_batch *batch, const void *logits, dk_workspace *workspace);

/* View a row after quadratic smoothing. Its maximum is 0. */
dk_view dk_view_smoothed(const dk_view *view, dk_smoothing smoothing);

/* View the block maxima as a row. */
dk_view dk_view_maxima(const dk_view *view);

/* View the first n entries as a row. Entries up to the next whole block are overwritten. */
dk_view dk_view_list(const dk_view *view, dk_entries entries, int32_t n, float *block_max);

/* Return the DK_BLOCK values of a block, -inf past the end of the row. Valid until the next fetch. */
dk_block dk_fetch(const dk_view *view, int32_t block);

/* Return the number of values of a block that are >= low. Edits are counted, not applied to a copy. */
int32_t dk_count(const dk_view *view, int32_t block, float low);

/* Return the values as float32. Valid until the next fetch. */
const float *dk_fetch_floats(const dk_view *view, int32_t block);

/* Return a copy of the values, which the caller may change. Valid until the next fetch. */
float *dk_fetch_copy(const dk_view *view, int32_t block);

/* Return the 8 mask words of a block, or null if all of its tokens are allowed. */
const uint32_t *dk_block_mask(const dk_view *view, int32_t block);

/* Clear the bit of a token. */
static inline void dk_ban(uint32_t *mask, int32_t token_id) { mask[token_id / 32] &= ~(1u << token_id % 32); }

/* Return the edit of a token; add one if there is none. */
dk_edit *dk_edit_of(const dk_view *view, int32_t token_id);

/* Return the maximum of n block maxima. Elements up to the next whole block are overwritten. */
float dk_maximum_of(const dk_kernel *kernel, float *maxima, int32_t n);

#define DK_SAMPLE_SIZE 3072 /* a multiple of DK_BLOCK */

/* Copy DK_SAMPLE_SIZE values, spread evenly over a row of at least DK_LANES elements in runs of DK_LANES. Edits and
 * masks are not applied. */
void dk_sample_values(const dk_view *view, float *values);

static inline int32_t dk_id(const dk_view *view, int32_t index) { return view->ids == NULL ? index : view->ids[index]; }

/* Return the index of a token, or -1 if a list does not contain it. */
int32_t dk_index_of(const dk_view *view, int32_t token_id);

/* Return the number of elements with ids up to this one. */
int32_t dk_num_ids_up_to(const dk_view *view, int32_t token_id);

/* Apply the view's smoothing to one logit. */
float dk_smooth_logit(const dk_view *view, float logit);

/* Return the value of one element. */
float dk_value(const dk_view *view, int32_t index);

/* Return one logit from the caller's memory, NaN as -inf. */
float dk_read_logit(const dk_view *view, int32_t token_id);

#endif
