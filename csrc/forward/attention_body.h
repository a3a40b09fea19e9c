/* Attention of a few queries over the blocks of one key-value head.
 *
 * Positions are seen in pieces of DK_PIECE, counted from 0. Per piece: scores, a vector of sixteen keys at a time, each
 * a chain along head_dim; the largest score so far; what was summed before, scaled to it; then exp of the scores and
 * the weighted values, along ascending positions. So the order follows from positions alone: neither the first and the
 * last position that a query sees, nor other queries of its tile, nor the numbers of the blocks move a border.
 * Positions that a query does not see never enter its result: such lanes of scores are replaced, such values skipped.
 *
 * All tiles of queries pass over one block of keys, later over one column of values, while it is in the L1 cache.
 * Meanwhile they prefetch. If there are one or two tiles, each load of a vector is followed by a prefetch of the same
 * vector of the next block, because the processor's own prefetchers begin anew in each block. If there are more, each
 * fetches a part of what comes next into the L2 cache. */
#ifndef DK_ATTENTION_BODY_H
#define DK_ATTENTION_BODY_H

#include <math.h>
#include <stdbool.h>

#include "forward/attention_state.h"
#include "forward/rows_body.h"
#include "forward/tile.h"

/* ---- scores ---- */

/* Scores of a tile of `rows` queries with `blocks` blocks of keys. */
DK_INLINE void score_blocks(const attention_state *state, int32_t row, int rows, int32_t block, int blocks) {
  const int32_t head_dim = state->call->head_dim;
  const float *x = state->packed + (size_t)row * (size_t)head_dim;
  const float *ahead[DK_MAX_WIDE];
  dk_f acc[DK_TILE][DK_MAX_WIDE], step[DK_MAX_WIDE];
  DK_UNROLL
  for (int b = 0; b < blocks; b++) {
    ahead[b] = keys_ahead(state, block + blocks + b);
    DK_UNROLL
    for (int t = 0; t < rows; t++)
      acc[t][b] = f_set(0.0f);
  }
  for (int32_t d = 0; d < head_dim; d++) {
    DK_UNROLL
    for (int b = 0; b < blocks; b++) {
      step[b] = f_load(state->key_blocks[block + b] + 16 * (size_t)d);
      if (state->is_narrow)
        __builtin_prefetch(ahead[b] + 16 * (size_t)d);
    }
    tile_step(acc, rows, blocks, x + (size_t)d * (size_t)rows, 1, step);
  }
  DK_UNROLL
  for (int t = 0; t < rows; t++) {
    DK_UNROLL
    for (int b = 0; b < blocks; b++)
      f_store(state->scores + (row + t) * DK_PIECE + (block + b) * 16, acc[t][b]);
  }
}

/* Blocks [block, end). */
DK_INLINE void score_tile(const attention_state *state, int32_t row, int rows, int32_t block, int32_t end) {
  const int wide = DK_WIDE(rows);
  for (; wide > 1 && block + wide <= end; block += wide)
    score_blocks(state, row, rows, block, wide);
  for (; block < end; block++)
    score_blocks(state, row, rows, block, 1);
}

/* ---- weights ---- */

/* exp of a score below the maximum; 0 for -inf; for NaN anything. */
DK_INLINE dk_f weight_of(dk_f x) {
  dk_f n, shifted, y = exp_polynomial(x, &n, &shifted);
  return f_power_of_two(f_ge(x, f_set(DK_EXP_LOW)), y, n, shifted);
}

/* The scores of `row` in block b, scaled and capped; -inf where the row does not see. */
DK_INLINE dk_f seen_scores(const attention_state *state, const float *scores, int32_t row, int32_t b) {
  const int32_t first = state->first[row] - b * 16, end = state->end[row] - b * 16;
  dk_f s = f_mul(f_load(scores + b * 16), f_set(state->call->scale));
  if (state->call->cap != 0.0f)
    s = soft_cap(s, state->call->cap);
  if (first > 0 || end < 16)
    s = f_select(m_and_not(m_first(end), m_first(larger(first, 0))), s, f_set(-INFINITY));
  return s;
}

/* Scales the sums of a row so far to a new maximum. */
DK_INLINE void rescale(const attention_state *state, int32_t row, float highest) {
  float *values = state->values + row * state->padded, *sums = state->sums + row * 16;
  dk_f factor = f_exp(f_set(state->maxima[row] - highest));
  for (int32_t i = 0; i < state->padded; i += 16)
    f_store(values + i, f_mul(f_load(values + i), factor));
  f_store(sums, f_mul(f_load(sums), factor));
  state->maxima[row] = highest;
}

/* Scales, caps and masks the scores of blocks [first, end), and scales the sums so far to their maximum. A NaN score
 * makes the sum NaN, and so the whole result. */
DK_INLINE void prepare_weights(const attention_state *state, int32_t row, int32_t first, int32_t end) {
  float *scores = state->scores + row * DK_PIECE;
  dk_f top = f_set(-INFINITY);
  dk_m nan = m_from_bits(0);
  for (int32_t b = first; b < end; b++) {
    dk_f seen = seen_scores(state, scores, row, b);
    nan = m_or(nan, f_unordered(seen, seen));
    top = f_max(top, seen);
    f_store(scores + b * 16, seen);
  }
  float highest = f_fold_max(top);
  if (m_bits(nan) != 0 || !(highest > -INFINITY && highest < INFINITY))
    f_store(state->sums + row * 16, f_set(NAN));
  else if (highest > state->maxima[row])
    rescale(state, row, highest);
}

DK_INLINE void weigh(const attention_state *state, int32_t row, int32_t first, int32_t end) {
  float *scores = state->scores + row * DK_PIECE, *sums = state->sums + row * 16;
  dk_f maximum = f_set(state->maxima[row]), sum = f_load(sums);
  for (int32_t b = first; b < end; b++) {
    dk_f weight = weight_of(f_sub(f_load(scores + b * 16), maximum));
    f_store(scores + b * 16, weight);
    sum = f_add(sum, weight);
  }
  f_store(sums, sum);
}

/* Weighs all rows that see a part of the piece: first all maxima, then all weights, so that the processor overlaps
 * rows. */
DK_INLINE void weigh_rows(const attention_state *state) {
  for (int32_t row = 0; row < state->call->num_rows; row++)
    if (state->first[row] < state->end[row])
      prepare_weights(state, row, state->first[row] / 16, (state->end[row] + 15) / 16);
  for (int32_t row = 0; row < state->call->num_rows; row++) {
    if (state->first[row] == 0 && state->end[row] == DK_PIECE)
      weigh(state, row, 0, DK_PIECE_BLOCKS);
    else if (state->first[row] < state->end[row])
      weigh(state, row, state->first[row] / 16, (state->end[row] + 15) / 16);
  }
}

/* ---- values ---- */

/* values[row] += weight * value for the positions [first, end) of the piece; `vectors` of sixteen at once. */
DK_INLINE void add_values(const attention_state *state, int32_t row, int rows, int32_t vector, int vectors,
                          int32_t first, int32_t end) {
  const int32_t padded = state->padded;
  float *out = state->values + (size_t)row * (size_t)padded + 16 * vector;
  const float *weights = state->scores + row * DK_PIECE;
  dk_f acc[DK_TILE][DK_MAX_WIDE], step[DK_MAX_WIDE];
  DK_UNROLL
  for (int r = 0; r < rows; r++) {
    DK_UNROLL
    for (int v = 0; v < vectors; v++)
      acc[r][v] = f_load(out + r * padded + 16 * v);
  }
  while (first < end) {
    const float *value = state->value_blocks[first / 16] + 256 * vector + first % 16 * 16;
    const float *ahead = values_ahead(state, first / 16 + 1, vector, vectors);
    const int32_t stop = smaller(end, first / 16 * 16 + 16);
    for (; first < stop; first++, value += 16, ahead += 16) {
      DK_UNROLL
      for (int v = 0; v < vectors; v++) {
        step[v] = f_load(value + 256 * v);
        if (state->is_narrow)
          __builtin_prefetch(ahead + 256 * v);
      }
      tile_step(acc, rows, vectors, weights + first, DK_PIECE, step);
    }
  }
  DK_UNROLL
  for (int r = 0; r < rows; r++) {
    DK_UNROLL
    for (int v = 0; v < vectors; v++)
      f_store(out + r * padded + 16 * v, acc[r][v]);
  }
}

/* Vectors [vector, end_vector) of a tile whose rows all see [first, end). */
DK_INLINE void add_vectors(const attention_state *state, int32_t row, int rows, int32_t vector, int32_t end_vector,
                           int32_t first, int32_t end) {
  const int wide = DK_WIDE(rows);
  for (; wide > 1 && vector + wide <= end_vector; vector += wide)
    add_values(state, row, rows, vector, wide, first, end);
  for (; vector < end_vector; vector++)
    add_values(state, row, rows, vector, 1, first, end);
}

/* Adds positions in ascending order: row by row where only some rows of the tile see them, otherwise all rows at once.
 */
DK_INLINE void value_tile(const attention_state *state, int32_t row, int rows, int32_t vector, int32_t end_vector) {
  const int32_t *first = state->first + row, *end = state->end + row;
  int32_t shared_first = 0, shared_end = DK_PIECE;
  for (int t = 0; t < rows; t++) {
    shared_first = larger(shared_first, first[t]);
    shared_end = smaller(shared_end, end[t]);
  }
  if (shared_first >= shared_end)
    shared_first = shared_end = DK_PIECE; /* nothing is shared: each row by itself */
  for (int t = 0; t < rows; t++)
    add_vectors(state, row + t, 1, vector, end_vector, first[t], smaller(end[t], shared_first));
  add_vectors(state, row, rows, vector, end_vector, shared_first, shared_end);
  for (int t = 0; t < rows; t++)
    add_vectors(state, row + t, 1, vector, end_vector, larger(first[t], shared_end), end[t]);
}

/* ---- tiles ---- */

/* Scores for blocks [first, end), or vectors [first, end) of values. */
DK_INLINE void half_of_tile(const attention_state *state, attention_half half, int32_t row, int rows, int32_t first,
                            int32_t end) {
  if (half == SCORES)
    score_tile(state, row, rows, first, end);
  else
    value_tile(state, row, rows, first, end);
}

static void attend_tile(const attention_state *state, attention_half half, int32_t row, int32_t rows, int32_t first,
                        int32_t end) {
  switch (rows) {
  case 1:
    half_of_tile(state, half, row, 1, first, end);
    break;
  case 2:
    half_of_tile(state, half, row, 2, first, end);
    break;
#if DK_TILE > 2
  case 3:
    half_of_tile(state, half, row, 3, first, end);
    break;
  case 4:
    half_of_tile(state, half, row, 4, first, end);
    break;
  case 5:
    half_of_tile(state, half, row, 5, first, end);
    break;
  case 6:
    half_of_tile(state, half, row, 6, first, end);
    break;
#endif
#if DK_TILE > 6
  case 7:
    half_of_tile(state, half, row, 7, first, end);
    break;
  case 8:
    half_of_tile(state, half, row, 8, first, end);
    break;
  case 9:
    half_of_tile(state, half, row, 9, first, end);
    break;
#endif
  default:
    break;
  }
}

/* Computes one half for all tiles, a few blocks or vectors at a time; a single tile takes all of them at once. */
static void attend_half(const attention_state *state, attention_half half, int32_t first, int32_t end) {
  const int32_t num_rows = state->call->num_rows, num_tiles = (num_rows + state->height - 1) / state->height;
  const int32_t group = num_tiles == 1 ? end - first : DK_WIDE(DK_TILE);
  const int32_t steps = (end - first + group - 1) / group * num_tiles;
  for (int32_t step = 0; first < end; first += group) {
    for (int32_t row = 0; row < num_rows; row += state->height, step++) {
      if (!state->is_narrow)
        fetch_next(state, half, step, steps);
      attend_tile(state, half, row, smaller(state->height, num_rows - row), first, smaller(first + group, end));
    }
  }
}

/* ---- pieces ---- */

DK_INLINE const float *block_address(const dk_attention *call, const char *in_block_0, int32_t block) {
  return (const float *)(const void *)(in_block_0 + (size_t)call->block_table[block] * call->block_size);
}

/* Finds the positions that each row sees in the piece beginning at `base`, and the addresses of its blocks. Returns
 * false if no row sees any. */
DK_INLINE bool find_piece(attention_state *state, int32_t base) {
  const dk_attention *call = state->call;
  int32_t first = DK_PIECE, end = 0;
  for (int32_t row = 0; row < call->num_rows; row++) {
    state->first[row] = smaller(larger(call->first[row] - base, 0), DK_PIECE);
    state->end[row] = larger(smaller(call->end[row] - base, DK_PIECE), state->first[row]);
    if (state->first[row] < state->end[row]) {
      first = smaller(first, state->first[row]);
      end = larger(end, state->end[row]);
    }
  }
  state->first_block = first / 16;
  state->end_block = (end + 15) / 16;
  for (int32_t b = state->first_block; b < state->end_block; b++) {
    state->key_blocks[b] = block_address(call, call->keys, base / 16 + b);
    state->value_blocks[b] = block_address(call, call->values, base / 16 + b);
  }
  return first < end;
}

/* The keys of the piece beginning at `base`, of which positions before `end` are in blocks. */
DK_INLINE void find_next_keys(attention_state *state, int32_t base, int32_t end) {
  state->num_next = smaller((larger(end - base, 0) + 15) / 16, DK_PIECE_BLOCKS);
  for (int32_t b = 0; b < state->num_next; b++)
    state->next_key_blocks[b] = block_address(state->call, state->call->keys, base / 16 + b);
}

static void attend_piece(const attention_state *state) {
  attend_half(state, SCORES, state->first_block, state->end_block);
  weigh_rows(state);
  attend_half(state, VALUES, 0, state->padded / 16);
}

/* Packs queries tile by tile as [head_dim][rows], and clears the sums. */
DK_INLINE void begin_rows(attention_state *state) {
  const int32_t num_rows = state->call->num_rows, dim = state->call->head_dim;
  memset(state->values, 0, (size_t)num_rows * (size_t)(state->padded + 16) * sizeof(float));
  for (int32_t row = 0; row < num_rows; row++) {
    int32_t tile = row / state->height * state->height, rows = smaller(state->height, num_rows - tile);
    for (int32_t d = 0; d < dim; d++)
      state->packed[tile * dim + d * rows + row - tile] = state->call->queries[row][d];
    state->maxima[row] = -INFINITY;
  }
}

static void attend(const dk_attention *call) {
  const int32_t rows = call->num_rows, dim = call->head_dim, padded = (dim + 15) / 16 * 16;
  const int32_t tiles = (rows + DK_TILE - 1) / DK_TILE;
  attention_state state = {
      .call = call, .padded = padded, .height = (rows + tiles - 1) / tiles, .is_narrow = tiles <= 2};
  state.scores = call->scratch;
  state.values = state.scores + DK_ATTENTION_ROWS * DK_PIECE;
  state.sums = state.values + (size_t)rows * (size_t)padded;
  state.maxima = state.sums + (size_t)rows * 16;
  state.packed = state.maxima + rows;
  begin_rows(&state);
  int32_t begin = INT32_MAX, end = 0;
  for (int32_t row = 0; row < rows; row++) {
    begin = smaller(begin, call->first[row]);
    end = larger(end, call->end[row]);
  }
  for (int32_t base = begin / DK_PIECE * DK_PIECE; base < end; base += DK_PIECE) {
    if (find_piece(&state, base)) {
      find_next_keys(&state, base + DK_PIECE, end);
      attend_piece(&state);
    }
  }
  for (int32_t row = 0; row < rows; row++) {
    dk_f sum = f_set(f_fold_sum(f_load(state.sums + row * 16)));
    for (int32_t i = 0; i < dim; i += 16)
      f_store_part(call->queries[row] + i, f_div(f_load(state.values + row * padded + i), sum), dim - i);
  }
}

#endif
