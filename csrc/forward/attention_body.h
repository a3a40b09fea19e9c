/* Attention of a few queries over the blocks of one key-value head.
 *
 * Positions are seen in pieces of DK_PIECE, counted from 0. Per piece: scores, a vector of sixteen keys at a time, each
 * a chain along head_dim; the largest score so far; what was summed before, scaled to it; then exp of the scores and
 * the weighted values, along ascending positions. So the order follows from positions alone: neither the first and the
 * last position that a query sees, nor other queries of its tile, nor the numbers of the blocks move a border. What a
 * query does not see is never read into it: such lanes of scores are replaced, such values skipped. */
#ifndef DK_ATTENTION_BODY_H
#define DK_ATTENTION_BODY_H

#include <math.h>

#include "forward/kernels.h"
#include "forward/rows_body.h"
#include "forward/tile.h"

#define DK_PIECE_BLOCKS (DK_PIECE / 16)

/* The state of all rows, cut from the scratch. */
typedef struct attention_state {
  float *packed; /* [num_rows * head_dim] tile after tile: [head_dim][rows of the tile] */
  float *values; /* [num_rows][padded] weighted so far */
  float *sums;   /* [num_rows][16] of the weights, lane by lane */
  float *maxima; /* [num_rows] */
  float *scores; /* [rows of a tile][DK_PIECE], later the weights */
  int32_t padded;
} attention_state;

/* One tile of rows at one piece of positions. */
typedef struct attention_piece {
  const dk_attention *call;
  const attention_state *state;
  int32_t row;  /* first of the tile */
  int32_t base; /* first position of the piece */
  int32_t low;  /* blocks of the piece that the tile sees: low <= b < high */
  int32_t high;
  const float *keys[DK_PIECE_BLOCKS];
  const float *values[DK_PIECE_BLOCKS];
} attention_piece;

DK_INLINE int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }
DK_INLINE int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }

/* Scores of `rows` queries with `blocks` blocks of keys from `block` on. */
DK_INLINE void score_blocks(const attention_piece *piece, int rows, int32_t block, int blocks) {
  const int32_t head_dim = piece->call->head_dim;
  const float *x = piece->state->packed + (size_t)piece->row * (size_t)head_dim;
  dk_f acc[DK_TILE][DK_MAX_WIDE], step[DK_MAX_WIDE];
  DK_UNROLL
  for (int t = 0; t < rows; t++) {
    DK_UNROLL
    for (int b = 0; b < blocks; b++)
      acc[t][b] = f_set(0.0f);
  }
  for (int32_t d = 0; d < head_dim; d++) {
    DK_UNROLL
    for (int b = 0; b < blocks; b++)
      step[b] = f_load(piece->keys[block + b] + 16 * (size_t)d);
    tile_step(acc, rows, blocks, x + (size_t)d * (size_t)rows, 1, step);
  }
  DK_UNROLL
  for (int t = 0; t < rows; t++) {
    DK_UNROLL
    for (int b = 0; b < blocks; b++)
      f_store(piece->state->scores + t * DK_PIECE + (block + b) * 16, acc[t][b]);
  }
}

DK_INLINE void score_tile(const attention_piece *piece, int rows) {
  const int wide = DK_WIDE(rows);
  int32_t block = piece->low;
  for (; wide > 1 && block + wide <= piece->high; block += wide)
    score_blocks(piece, rows, block, wide);
  for (; block < piece->high; block++)
    score_blocks(piece, rows, block, 1);
}

/* The scores of one row become weights; what the row has summed so far is scaled to the new maximum. Lanes from
 * `first` to `end` of the piece are seen, at least one. */
DK_INLINE void weigh_row(const attention_piece *piece, int t, int32_t first, int32_t end) {
  const attention_state *state = piece->state;
  const float scale = piece->call->scale, cap = piece->call->cap;
  float *scores = state->scores + t * DK_PIECE, *sums = state->sums + (piece->row + t) * 16;
  float *maximum = state->maxima + piece->row + t, *values = state->values + (piece->row + t) * state->padded;
  dk_f seen[DK_PIECE_BLOCKS], top = f_set(-INFINITY), lanes[2];
  for (int32_t b = first / 16; b * 16 < end; b++) {
    dk_f s = f_mul(f_load(scores + b * 16), f_set(scale));
    if (cap != 0.0f)
      s = soft_cap(s, cap);
    dk_m mask = m_and_not(m_first(end - b * 16), first > b * 16 ? m_first(first - b * 16) : m_from_bits(0));
    seen[b] = f_select(mask, s, f_set(-INFINITY));
    top = f_max(top, seen[b]);
  }
  float highest = f_fold_max(top), factor[16];
  highest = highest > *maximum ? highest : *maximum;
  f_store(factor, f_exp(f_set(*maximum - highest)));
  *maximum = highest;
  lanes[0] = f_set(0.0f);
  for (int32_t b = first / 16; b * 16 < end; b++) {
    lanes[1] = f_exp(f_sub(seen[b], f_set(highest)));
    f_store(scores + b * 16, lanes[1]);
    lanes[0] = f_add(lanes[0], lanes[1]);
  }
  f_store(sums, f_fma(f_load(sums), f_set(factor[0]), lanes[0]));
  for (int32_t i = 0; i < state->padded && factor[0] != 1.0f; i += 16)
    f_store(values + i, f_mul(f_load(values + i), f_set(factor[0])));
}

/* values[row] += weight * value for the positions from `first` to `end` of the piece; `vectors` of sixteen at once. */
DK_INLINE void add_values(const attention_piece *piece, int t, int rows, int32_t vector, int vectors, int32_t first,
                          int32_t end) {
  const attention_state *state = piece->state;
  const int32_t padded = state->padded;
  float *out = state->values + (size_t)(piece->row + t) * (size_t)padded + 16 * vector;
  const float *weights = state->scores + t * DK_PIECE;
  dk_f acc[DK_TILE][DK_MAX_WIDE], step[DK_MAX_WIDE];
  DK_UNROLL
  for (int r = 0; r < rows; r++) {
    DK_UNROLL
    for (int v = 0; v < vectors; v++)
      acc[r][v] = f_load(out + r * padded + 16 * v);
  }
  for (int32_t b = first / 16; b * 16 < end; b++) {
    const float *value = piece->values[b] + 16 * vector;
    for (int32_t j = larger(first - b * 16, 0); j < smaller(end - b * 16, 16); j++) {
      DK_UNROLL
      for (int v = 0; v < vectors; v++)
        step[v] = f_load(value + j * padded + 16 * v);
      tile_step(acc, rows, vectors, weights + b * 16 + j, DK_PIECE, step);
    }
  }
  DK_UNROLL
  for (int r = 0; r < rows; r++) {
    DK_UNROLL
    for (int v = 0; v < vectors; v++)
      f_store(out + r * padded + 16 * v, acc[r][v]);
  }
}

DK_INLINE void add_all_values(const attention_piece *piece, int t, int rows, int32_t first, int32_t end) {
  const int wide = DK_WIDE(rows);
  int32_t vector = 0, count = piece->state->padded / 16;
  for (; wide > 1 && vector + wide <= count; vector += wide)
    add_values(piece, t, rows, vector, wide, first, end);
  for (; vector < count; vector++)
    add_values(piece, t, rows, vector, 1, first, end);
}

/* Row by row the positions that not all of the tile see, together those that all see. */
DK_INLINE void value_tile(const attention_piece *piece, int rows) {
  int32_t first[DK_TILE], end[DK_TILE], shared_first = 0, shared_end = DK_PIECE;
  for (int t = 0; t < rows; t++) {
    first[t] = larger(piece->call->first[piece->row + t] - piece->base, 0);
    end[t] = smaller(piece->call->end[piece->row + t] - piece->base, DK_PIECE);
    shared_first = larger(shared_first, first[t]);
    shared_end = smaller(shared_end, end[t]);
  }
  for (int t = 0; t < rows; t++)
    if (first[t] < end[t])
      weigh_row(piece, t, first[t], end[t]);
  if (shared_first >= shared_end) {
    for (int t = 0; t < rows; t++)
      if (first[t] < end[t])
        add_all_values(piece, t, 1, first[t], end[t]);
    return;
  }
  for (int t = 0; t < rows; t++)
    if (first[t] < shared_first)
      add_all_values(piece, t, 1, first[t], shared_first);
  add_all_values(piece, 0, rows, shared_first, shared_end);
  for (int t = 0; t < rows; t++)
    if (shared_end < end[t])
      add_all_values(piece, t, 1, shared_end, end[t]);
}

DK_INLINE void piece_of_tile(const attention_piece *piece, int rows) {
  score_tile(piece, rows);
  value_tile(piece, rows);
}

static void attend_piece(const attention_piece *piece, int32_t rows) {
  switch (rows) {
  case 1:
    piece_of_tile(piece, 1);
    break;
  case 2:
    piece_of_tile(piece, 2);
    break;
  case 3:
    piece_of_tile(piece, 3);
    break;
  case 4:
    piece_of_tile(piece, 4);
    break;
#if DK_TILE > 4
  case 5:
    piece_of_tile(piece, 5);
    break;
  case 6:
    piece_of_tile(piece, 6);
    break;
#endif
#if DK_TILE > 6
  case 7:
    piece_of_tile(piece, 7);
    break;
  case 8:
    piece_of_tile(piece, 8);
    break;
  case 9:
    piece_of_tile(piece, 9);
    break;
#endif
  default:
    break;
  }
}

/* Where the blocks of the piece lie, if the tile sees any of it. */
DK_INLINE int32_t find_piece(attention_piece *piece, int32_t rows) {
  const dk_attention *call = piece->call;
  int32_t first = INT32_MAX, end = 0;
  for (int32_t t = piece->row; t < piece->row + rows; t++) {
    first = smaller(first, call->first[t]);
    end = larger(end, call->end[t]);
  }
  first = larger(first - piece->base, 0);
  end = smaller(end - piece->base, DK_PIECE);
  if (first >= end)
    return 0;
  piece->low = first / 16;
  piece->high = (end + 15) / 16;
  for (int32_t b = piece->low; b < piece->high; b++) {
    size_t offset = (size_t)call->block_table[piece->base / 16 + b] * call->block_size;
    piece->keys[b] = (const float *)(const void *)(call->keys + offset);
    piece->values[b] = (const float *)(const void *)(call->values + offset);
  }
  return 1;
}

/* Tiles of about equal height. */
DK_INLINE int32_t rows_of_tile(int32_t num_rows, int32_t row) {
  int32_t tiles = (num_rows + DK_TILE - 1) / DK_TILE, height = (num_rows + tiles - 1) / tiles;
  return smaller(height, num_rows - row);
}

static void attend(const dk_attention *call) {
  const int32_t rows = call->num_rows, dim = call->head_dim, padded = (dim + 15) / 16 * 16;
  attention_state state = {.scores = call->scratch, .packed = call->scratch + DK_MAX_TILE * DK_PIECE, .padded = padded};
  state.values = state.packed + (size_t)rows * (size_t)dim;
  state.sums = state.values + (size_t)rows * (size_t)padded;
  state.maxima = state.sums + (size_t)rows * 16;
  memset(state.values, 0, (size_t)rows * (size_t)(padded + 16) * sizeof(float));
  int32_t begin = INT32_MAX, end = 0;
  for (int32_t row = 0, height; row < rows; row += height) {
    height = rows_of_tile(rows, row);
    for (int32_t t = 0; t < height; t++) {
      state.maxima[row + t] = -INFINITY;
      begin = smaller(begin, call->first[row + t]);
      end = larger(end, call->end[row + t]);
      for (int32_t d = 0; d < dim; d++)
        state.packed[row * dim + d * height + t] = call->queries[row + t][d];
    }
  }
  attention_piece piece = {.call = call, .state = &state};
  for (piece.base = begin / DK_PIECE * DK_PIECE; piece.base < end; piece.base += DK_PIECE) {
    for (int32_t height; piece.row < rows; piece.row += height) {
      height = rows_of_tile(rows, piece.row);
      if (find_piece(&piece, height))
        attend_piece(&piece, height);
    }
    piece.row = 0;
  }
  for (int32_t row = 0; row < rows; row++) {
    dk_f sum = f_set(f_fold_sum(f_load(state.sums + row * 16)));
    for (int32_t i = 0; i < dim; i += 16)
      f_store_part(call->queries[row] + i, f_div(f_load(state.values + row * padded + i), sum), dim - i);
  }
}

#endif
