/* Intel AMX: tile registers of up to 16 rows of 64 bytes, and their products of signed bytes.
 *
 * Written as assembly, because gcc 12's intrinsics do not tell the compiler which memory they read. A tile register is
 * named by a literal. Tiles 0 to 3 are sums, 16 rows of 16 int32; tiles 4 and 5 are inputs, 16 rows of `depth` bytes;
 * tiles 6 and 7 are weights, depth / 4 rows of [16 outputs][4 inputs]. */
#ifndef DK_TILES_H
#define DK_TILES_H

#include <stdint.h>
#include <string.h>

/* Layout of the operand of ldtilecfg, palette 1. */
typedef struct tile_config {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} tile_config;

/* Sets the sizes for this thread, until TILES_RELEASE. */
static inline void tiles_configure(int depth) {
  tile_config config;
  memset(&config, 0, sizeof config);
  config.palette = 1;
  for (int t = 0; t < 8; t++) {
    config.rows[t] = t < 6 ? 16 : (uint8_t)(depth / 4);
    config.row_bytes[t] = t == 4 || t == 5 ? (uint16_t)depth : 64;
  }
  __asm__ volatile("ldtilecfg %0" ::"m"(config));
}

#define TILES_RELEASE() __asm__ volatile("tilerelease" ::: "memory")
#define TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile::)
#define TILE_LOAD(tile, rows, stride)                                                                                  \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile::"r"(rows), "r"((int64_t)(stride)) : "memory")
#define TILE_STORE(tile, rows, stride)                                                                                 \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(rows), "r"((int64_t)(stride)) : "memory")
/* sums += inputs times weights */
#define TILE_DOT(sums, inputs, weights) __asm__ volatile("tdpbssd %%tmm" #weights ", %%tmm" #inputs ", %%tmm" #sums::)

#endif
