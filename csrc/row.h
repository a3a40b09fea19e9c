/* Internal: a row of logits as the pipeline sees it, in blocks, with the caller's memory left alone.
 *
 * Penalties, biases and masks touch few tokens: they are kept beside the row as a list of edits by block and a
 * bitmask, and are laid over a block when it is fetched. A float32 block that nothing touches is never copied. */
#ifndef DK_ROW_H
#define DK_ROW_H

#include "decoding.h"
#include "kernel.h"

typedef struct dk_edit {
  int32_t token_id;
  float value;
  int32_t next; /* the next edit of the same block, or -1 */
} dk_edit;

/* Everything that one row needs, cut from the caller's workspace. n: blocks of the vocabulary, rounded up to whole
 * blocks of DK_BLOCK, with -inf where there is no block: so maxima can be searched like a row. */
typedef struct dk_workspace {
  float *raw_max;      /* [n] block maxima of the row as it came in */
  float *edited_max;   /* [n] block maxima after the edits */
  int32_t *edit_head;  /* [n] first edit of each block, or -1 */
  uint64_t *sums;      /* [n] block masses of the draw */
  uint64_t *histogram; /* [DK_BINS] */
  uint64_t *weights;   /* [DK_BLOCK] */
  uint32_t *keys;      /* [DK_BLOCK] */
  float *block;        /* [DK_BLOCK] the fetched block */
  uint32_t *mask;      /* [n * DK_MASK_WORDS] */
  dk_edit *edits;      /* [max_edits] */
  int64_t max_edits;
  dk_entries list;   /* [list_capacity], and room for DK_BLOCK more */
  float *list_max;   /* block maxima of the list, padded like the others */
  float *maxima_max; /* [DK_BLOCK] block maxima of block maxima */
  int32_t list_capacity;
} dk_workspace;

#define DK_BINS 2048

/* The row itself (`raw`) and the row after stages 2 to 7 (`edited`) are two views of the same memory. */
typedef struct dk_view {
  const dk_kernel *kernel;
  const char *logits;
  int32_t dtype;
  int32_t vocab_size;
  int32_t num_blocks;
  int32_t has_nan; /* NaN counts as -inf, so no block can be used as it lies */
  int32_t is_edited;
  int32_t plain_search; /* select.c takes the slow and simple way */
  const int32_t *ids;   /* null: token ids are places in the row; else the ids of the tokens that a list holds */
  const uint32_t *mask; /* null: nothing is masked */
  const float *block_max;
  float max;
  dk_workspace *workspace;
} dk_view;

/* Where a row went wrong, in terms of decoding_result. */
typedef struct dk_failure {
  int32_t status;
  int32_t stage;
  int32_t token_id;
} dk_failure;

size_t dk_workspace_layout(int32_t vocab_size, int64_t max_edits, char *memory, dk_workspace *workspace);

/* Stage 0. */
dk_failure dk_view_raw(dk_view *view, const decoding_batch *batch, const void *logits, dk_workspace *workspace);

/* Stages 2 to 7. */
dk_failure dk_view_edited(dk_view *view, const dk_view *raw, const decoding_batch *batch, const decoding_row *row);

/* The DK_BLOCK values of a block, -inf past the end of the row; valid until the next fetch. */
const float *dk_fetch(const dk_view *view, int32_t block);

/* The id of the token at this place. */
static inline int32_t dk_id(const dk_view *view, int32_t place) { return view->ids == NULL ? place : view->ids[place]; }

/* Block maxima, searched like a row themselves. */
dk_view dk_view_maxima(const dk_view *view);

/* The first n entries of the workspace's list, as a row of their own; what lies behind them is overwritten. */
dk_view dk_view_list(const dk_view *view, int32_t n);

/* n logits, spread evenly over the row in runs of DK_LANES, as they lie in the caller's memory; n a multiple of it. */
void dk_peek(const dk_view *view, int32_t n, float *values);

/* The value of one token in this view. */
float dk_value(const dk_view *view, int32_t token_id);

#endif
