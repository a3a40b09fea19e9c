/* Internal: the scratch arrays of one row, laid out in the caller's workspace. */
#ifndef DK_WORKSPACE_H
#define DK_WORKSPACE_H

#include <stddef.h>
#include <stdint.h>

#include "sampling/edits.h"
#include "sampling/kernels.h"

#define DK_HISTOGRAM_SIZE 2048

/* n: number of blocks of the vocabulary, rounded up to a multiple of DK_BLOCK. Block maxima are padded with -inf, so
 * that they can be searched like a row.
 * v: the vocabulary in whole blocks, plus one block for what the kernels write past the end of a list. */
typedef struct dk_workspace {
  float *raw_max;           /* [n] block maxima of the caller's row */
  float *edited_max;        /* [n] after the edits and masks */
  float *smoothed_max;      /* [n] after quadratic smoothing */
  float *survivor_max;      /* [n] of the survivors */
  float *list_max;          /* [n] of the list */
  float *maxima_max;        /* [DK_BLOCK] block maxima of block maxima */
  uint64_t *sums;           /* [n] mass of each block, for the draw by inversion */
  uint64_t *rejection_sums; /* [n] running sum of the blocks' largest weights, for the draw by rejection */
  uint64_t *histogram;      /* [DK_HISTOGRAM_SIZE] */
  uint64_t *weights;        /* [DK_BLOCK] */
  uint32_t *keys;           /* [DK_BLOCK] */
  float *block;             /* [DK_BLOCK] copy of the block that was fetched last */
  uint32_t *mask;           /* [n * DK_MASK_WORDS] */
  dk_edits edits;           /* of max_edits items */
  int32_t *matches;         /* [max_edits] */
  int32_t *list_start;      /* [n + 1] index in the list of the first entry of each block */
  dk_entries list;      /* [v] scratch of the searches; values and weights [2 v]: a search narrows a list behind it */
  dk_entries survivors; /* [v] the remaining tokens after a truncation that keeps no prefix; without weights */
} dk_workspace;

/* Lay out the arrays from `memory`, which needs no alignment. Returns the number of bytes needed. If memory is null,
 * the pointers are meaningless. */
size_t dk_workspace_layout(int32_t vocab_size, int64_t max_edits, char *memory, dk_workspace *workspace);

#endif
