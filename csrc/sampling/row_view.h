/* Internal: a row of logits as the pipeline sees it, in blocks, with the caller's memory left alone.
 *
 * A view is a row at one point of the pipeline: as it came in (raw), after stages 2 to 7 (edited), after what stage 8
 * does to logits (shaped), or what some truncation left of it (a list). Penalties, biases and masks touch few tokens:
 * they are kept beside the row, and laid over a block when it is fetched. A block that nothing touches is never copied.
 */
#ifndef DK_ROW_H
#define DK_ROW_H

#include "decoding.h"
#include "sampling/kernels.h"
#include "sampling/workspace.h"

typedef struct dk_view {
  const dk_kernel *kernel;
  const char *logits;
  int32_t dtype;
  int32_t vocab_size; /* places; of a list, with its padding */
  int32_t num_blocks;
  int32_t has_nan; /* NaN counts as -inf, so no block can be used as it lies */
  int32_t is_edited;
  int32_t is_shaped;
  int32_t num_plain;    /* blocks up to here are used as they lie: nothing lies over any of them */
  int32_t plain_search; /* mass.c and select.c take the slow and simple way */
  dk_smoothing shape;   /* where is_shaped */
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

#define DK_FINE ((dk_failure){DECODING_OK, 0, -1})

/* Stage 0. */
dk_failure dk_view_raw(dk_view *view, const decoding_batch *batch, const void *logits, dk_workspace *workspace);

/* Stages 2 to 7. */
dk_failure dk_view_edited(dk_view *view, const dk_view *raw, const decoding_batch *batch, const decoding_row *row);

/* Logits become exponents: d of kernel.h, whose largest is 0. */
dk_view dk_view_shaped(const dk_view *view, dk_smoothing shape);

/* Block maxima, searched like a row themselves. */
dk_view dk_view_maxima(const dk_view *view);

/* The first n entries as a row of their own; the rest of their last block is overwritten. */
dk_view dk_view_list(const dk_view *view, dk_entries entries, int32_t n, float *block_max);

/* The DK_BLOCK values of a block, -inf past the end of the row; valid until the next fetch. */
dk_block dk_fetch(const dk_view *view, int32_t block);

/* The same as float32. */
const float *dk_fetch_floats(const dk_view *view, int32_t block);

/* The copy of a block that dk_fetch_floats makes, to be changed; valid until the next fetch. */
float *dk_fetch_copy(const dk_view *view, int32_t block);

/* The largest of n block maxima; the rest of their last block is overwritten. */
float dk_largest(const dk_kernel *kernel, float *maxima, int32_t n);

#define DK_SAMPLE_SIZE 3072 /* a multiple of DK_BLOCK */

/* DK_SAMPLE_SIZE values, spread evenly over a row of at least DK_LANES in runs of DK_LANES, without edits and masks. */
void dk_peek(const dk_view *view, float *values);

/* The id of the token at this place. */
static inline int32_t dk_id(const dk_view *view, int32_t place) { return view->ids == NULL ? place : view->ids[place]; }

/* The place of a token, or -1 where a list does not have it. */
int32_t dk_place(const dk_view *view, int32_t token_id);

/* How many places hold ids up to this one. */
int32_t dk_places_up_to(const dk_view *view, int32_t token_id);

/* A logit after the view's smoothing. */
float dk_shaped(const dk_view *view, float logit);

/* The value at a place. */
float dk_value(const dk_view *view, int32_t place);

/* One logit of the caller's memory. */
float dk_read_logit(const dk_view *view, int32_t token_id);

/* Whether the batch runs this stage. */
static inline int32_t dk_has_stage(const decoding_batch *batch, int32_t stage) {
  for (int32_t i = 0; i < batch->num_stages; i++)
    if (batch->stages[i] == stage)
      return 1;
  return 0;
}

/* ---- between raw and edited: edits.c, repetition.c, masks.c ---- */

static inline int32_t dk_is_token(const dk_view *view, int32_t token_id) {
  return token_id >= 0 && token_id < view->vocab_size;
}

/* The edit of a token, which is made where there is none yet. */
dk_edit *dk_touch(const dk_view *view, int32_t *num_edits, int32_t token_id);

/* Before stage 3's neighbour DRY: notes for every token how long a repetition it would continue. */
dk_failure dk_find_repetitions(const dk_view *view, const decoding_row *row, int32_t *num_edits);

/* What DRY takes off the logit of a token that would continue a repetition of this length. */
float dk_dry_penalty(const decoding_row *row, int32_t match);

/* Clears the bits of tokens that no_repeat_ngram and the bad words forbid. */
dk_failure dk_ban_sequences(const dk_view *view, const decoding_row *row, uint32_t *mask);

/* Stage 7: sets view->mask where there is anything to mask. */
dk_failure dk_mask_tokens(dk_view *view, const decoding_batch *batch, const decoding_row *row);

/* The eight words of a block, or null where every token of it is allowed. */
const uint32_t *dk_block_mask(const dk_view *view, int32_t block);

#endif
