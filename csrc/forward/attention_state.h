/* The state of one call of attention, and which keys and values it prefetches: see attention_body.h. */
#ifndef DK_ATTENTION_STATE_H
#define DK_ATTENTION_STATE_H

#include <stdbool.h>

#include "forward/kernels.h"
#include "simd/lanes.h"

#define DK_PIECE_BLOCKS (DK_PIECE / 16)

/* State shared by all rows, carved out of the scratch, and the piece of positions being processed. */
typedef struct attention_state {
  const dk_attention *call;
  int32_t padded; /* head_dim in whole vectors */
  int32_t height; /* rows per tile; the last may have fewer */
  bool is_narrow; /* has one or two tiles */
  float *packed;  /* [num_rows * head_dim] tile after tile: [head_dim][rows of the tile] */
  float *values;  /* [num_rows][padded] weighted so far */
  float *sums;    /* [num_rows][16] of the weights, lane by lane */
  float *maxima;  /* [num_rows] */
  float *scores;  /* [num_rows][DK_PIECE], later the weights */
  /* Within the piece: the positions that each row sees, and the blocks that at least one row sees. */
  int32_t first[DK_ATTENTION_ROWS];
  int32_t end[DK_ATTENTION_ROWS];
  int32_t first_block;
  int32_t end_block;
  const float *key_blocks[DK_PIECE_BLOCKS];
  const float *value_blocks[DK_PIECE_BLOCKS];
  int32_t num_next; /* blocks of the next piece */
  const float *next_key_blocks[DK_PIECE_BLOCKS];
} attention_state;

DK_INLINE int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }
DK_INLINE int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }

typedef enum { SCORES, VALUES } attention_half;

/* ---- what comes next ---- */

/* Return the keys to prefetch for a block; behind the last block, the values. */
DK_INLINE const float *keys_ahead(const attention_state *state, int32_t block) {
  if (block < state->end_block)
    return state->key_blocks[block];
  return state->value_blocks[smaller(state->first_block + block - state->end_block, state->end_block - 1)];
}

/* Return the values to prefetch: the same vectors of `block`; behind the last block, the next vectors of the first one;
 * behind the last vectors, the keys of the next piece. */
DK_INLINE const float *values_ahead(const attention_state *state, int32_t block, int32_t vector, int vectors) {
  if (block < state->end_block)
    return state->value_blocks[block] + 256 * vector;
  if (16 * (vector + vectors) < state->padded)
    return state->value_blocks[state->first_block] + 256 * (vector + vectors);
  return state->num_next > 0 ? state->next_key_blocks[0] : state->key_blocks[state->first_block];
}

/* Fetches part i of n of what comes next into the L2 cache: the values of the piece, or the keys of the next one. */
DK_INLINE void fetch_next(const attention_state *state, attention_half half, int32_t i, int32_t n) {
  const bool is_values = half == SCORES;
  const float *const *blocks = is_values ? state->value_blocks + state->first_block : state->next_key_blocks;
  const int32_t num_blocks = is_values ? state->end_block - state->first_block : state->num_next;
  const int32_t vectors = is_values ? state->padded : state->call->head_dim; /* of a block */
  const int32_t begin = num_blocks * vectors * i / n, end = num_blocks * vectors * (i + 1) / n;
  for (int32_t v = begin, block = begin / vectors; v < end; block++)
    for (; v < smaller(end, (block + 1) * vectors); v++)
      __builtin_prefetch(blocks[block] + 16 * (v - block * vectors), 0, 2);
}

#endif
