/* Internal: everything that one row needs, cut from the caller's workspace. */
#ifndef DK_WORKSPACE_H
#define DK_WORKSPACE_H

#include "sampling/kernels.h"

#define DK_BINS 2048

/* One token's edited logit: see edits.c. */
typedef struct dk_edit {
  int32_t token_id;
  int32_t next; /* the next edit of the same block, or -1 */
  float raw;
  float value;
  int32_t match; /* how long a repetition the token would continue, for DRY */
} dk_edit;

/* n: blocks of the vocabulary, rounded up to whole blocks of DK_BLOCK, with -inf where there is no block: so maxima can
 * be searched like a row. v: the vocabulary in whole blocks, and one block more for what the kernel writes past the end
 * of a list. */
typedef struct dk_workspace {
  float *raw_max;       /* [n] block maxima of the row as it came in */
  float *edited_max;    /* [n] after the edits */
  float *shaped_max;    /* [n] after what stage 8 does to logits */
  float *survivor_max;  /* [n] of the survivors */
  float *list_max;      /* [n] of the list */
  float *maxima_max;    /* [DK_BLOCK * ...] block maxima of block maxima */
  int32_t *edit_head;   /* [n] first edit of each block, or -1 */
  uint64_t *sums;       /* [n] block masses of the draw */
  uint64_t *histogram;  /* [DK_BINS] */
  uint64_t *weights;    /* [DK_BLOCK] */
  uint32_t *keys;       /* [DK_BLOCK] */
  float *block;         /* [DK_BLOCK] the fetched block */
  uint32_t *mask;       /* [n * DK_MASK_WORDS] */
  dk_edit *edits;       /* [max_edits] */
  int32_t *matches;     /* [max_edits] */
  int32_t *list_start;  /* [n + 1] where the entries of each block begin in the list */
  dk_entries list;      /* [2 v] scratch of the searches: a list, and behind it what a search narrows it to */
  dk_entries survivors; /* [v] what is left where that is no prefix of the total order; no weights */
} dk_workspace;

/* With memory = NULL this only measures. */
size_t dk_workspace_layout(int32_t vocab_size, int64_t max_edits, char *memory, dk_workspace *workspace);

#endif
