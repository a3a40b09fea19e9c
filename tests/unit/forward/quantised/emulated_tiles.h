/* The tile registers of Intel AMX in plain C, written after Intel's description of the instructions, for machines without
 * AMX. With `-include emulated_tiles.h` it takes the place of csrc/simd/tiles.h. */
#ifndef DK_TILES_H
#define DK_TILES_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct emulated_tile {
  uint8_t rows[16][64];
  int num_rows, row_bytes;
} emulated_tile;

static __thread emulated_tile emulated_tiles[8];

static inline void tiles_configure(int depth) {
  for (int tile = 0; tile < 8; tile++) {
    memset(&emulated_tiles[tile], 0, sizeof emulated_tiles[tile]);
    emulated_tiles[tile].num_rows = tile < 6 ? 16 : depth / 4;
    emulated_tiles[tile].row_bytes = tile == 4 || tile == 5 ? depth : 64;
  }
}

static inline void emulated_zero(int tile) {
  if (emulated_tiles[tile].num_rows == 0)
    abort(); /* a fault: not configured */
  memset(emulated_tiles[tile].rows, 0, sizeof emulated_tiles[tile].rows);
}

static inline void emulated_load(int tile, const void *rows, int64_t stride) {
  emulated_tile *t = &emulated_tiles[tile];
  emulated_zero(tile);
  for (int r = 0; r < t->num_rows; r++)
    memcpy(t->rows[r], (const uint8_t *)rows + r * stride, (size_t)t->row_bytes);
}

static inline void emulated_store(int tile, void *rows, int64_t stride) {
  const emulated_tile *t = &emulated_tiles[tile];
  for (int r = 0; r < t->num_rows; r++)
    memcpy((uint8_t *)rows + r * stride, t->rows[r], (size_t)t->row_bytes);
}

/* sums[m][n] += inputs[m][4k + i] * weights[k][4n + i], signed bytes. */
static inline void emulated_dot(int sums, int inputs, int weights) {
  emulated_tile *c = &emulated_tiles[sums];
  const emulated_tile *a = &emulated_tiles[inputs], *b = &emulated_tiles[weights];
  if (c->num_rows != a->num_rows || c->row_bytes != b->row_bytes || a->row_bytes != 4 * b->num_rows)
    abort(); /* a fault: sizes do not fit */
  for (int m = 0; m < c->num_rows; m++)
    for (int n = 0; n < c->row_bytes / 4; n++) {
      int32_t sum;
      memcpy(&sum, c->rows[m] + 4 * n, sizeof sum);
      for (int k = 0; k < a->row_bytes; k++)
        sum += (int8_t)a->rows[m][k] * (int8_t)b->rows[k / 4][4 * n + k % 4];
      memcpy(c->rows[m] + 4 * n, &sum, sizeof sum);
    }
}

#define TILES_RELEASE() memset(emulated_tiles, 0, sizeof emulated_tiles)
#define TILE_ZERO(tile) emulated_zero(tile)
#define TILE_LOAD(tile, rows, stride) emulated_load(tile, rows, (int64_t)(stride))
#define TILE_STORE(tile, rows, stride) emulated_store(tile, rows, (int64_t)(stride))
#define TILE_DOT(sums, inputs, weights) emulated_dot(sums, inputs, weights)

#endif
