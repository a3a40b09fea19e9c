/* Part of kernels_body.h: loading the caller's element types, and the first pass over a row. */
#ifndef DK_KERNELS_SCAN_H
#define DK_KERNELS_SCAN_H

#include <math.h>
#include <stdbool.h>

#include "decoding.h"
#include "sampling/kernels.h"
#include "simd/lanes.h"

#define DK_VECTORS (DK_BLOCK / DK_LANES)
#define DK_VECTOR_BYTES (DK_LANES * sizeof(float))
#define DK_ALL_LANES 0xFFFFu

DK_INLINE size_t element_size(int32_t dtype) { return dtype == DECODING_FLOAT32 ? 4 : 2; }

DK_INLINE dk_f load_as(const char *source, int32_t dtype) {
  if (dtype == DECODING_FLOAT16)
    return f_load_f16(source);
  if (dtype == DECODING_BFLOAT16)
    return f_load_bf16(source);
  return f_load(source);
}

/* Vector v of a block. */
DK_INLINE dk_f lanes_of(dk_block block, int v) {
  return load_as((const char *)block.data + (size_t)v * DK_LANES * element_size(block.dtype), block.dtype);
}

/* Compile a loop once per element type, so that the test for the type stays outside of it. */
#define DK_BY_DTYPE(function, block, ...)                                                                              \
  switch (block.dtype) {                                                                                               \
  case DECODING_FLOAT16:                                                                                               \
    return function((dk_block){block.data, DECODING_FLOAT16}, __VA_ARGS__);                                            \
  case DECODING_BFLOAT16:                                                                                              \
    return function((dk_block){block.data, DECODING_BFLOAT16}, __VA_ARGS__);                                           \
  default:                                                                                                             \
    return function((dk_block){block.data, DECODING_FLOAT32}, __VA_ARGS__);                                            \
  }

DK_INLINE dk_f without_nan(dk_f x) { return f_select(f_unordered(x, x), f_set(-INFINITY), x); }

static void widen(const void *source, int32_t dtype, int32_t n, float *block) {
  char padded[DK_LANES * sizeof(float)];
  int32_t whole = n / DK_LANES * DK_LANES;
  size_t size = element_size(dtype);
  for (int32_t i = 0; i < whole; i += DK_LANES)
    f_store(block + i, without_nan(load_as((const char *)source + (size_t)i * size, dtype)));
  for (int32_t i = whole; i < DK_BLOCK; i += DK_LANES)
    f_store(block + i, f_set(-INFINITY));
  if (whole < n) {
    memset(padded, 0, sizeof padded);
    memcpy(padded, (const char *)source + (size_t)whole * size, (size_t)(n - whole) * size);
    dk_f tail = without_nan(load_as(padded, dtype));
    f_store(block + whole, f_select(m_from_bits((1u << (n - whole)) - 1u), tail, f_set(-INFINITY)));
  }
}

#define DK_CHAINS 4 /* of comparisons, so that none waits for the last one */

/* Return the maxima of a block's lanes. Clears the lanes of `ordered` in which a NaN was seen; the maxima are then
 * meaningless. One comparison tests two vectors. */
DK_INLINE dk_f lane_maxima(const char *block, dk_m *ordered) {
  dk_f top[2];
  for (int v = 0; v < DK_VECTORS; v += 2) {
    dk_f a = f_hold(f_load(block + v * DK_VECTOR_BYTES)), b = f_hold(f_load(block + (v + 1) * DK_VECTOR_BYTES));
    ordered[v / 2 % DK_CHAINS] = m_ordered(ordered[v / 2 % DK_CHAINS], a, b);
    top[0] = v == 0 ? a : f_max(top[0], a);
    top[1] = v == 0 ? b : f_max(top[1], b);
  }
  return f_max(top[0], top[1]);
}

/* Both 16-bit types are sign and magnitude, and their NaNs lie beyond their infinities. So ordered integers, 32 at a
 * time, give the maximum of a block, and their overall minimum and maximum show whether there is a NaN. */
DK_INLINE int16_t top_of_halves(const char *block, dk_h *minimum) {
  dk_h top = h_ordered(h_load(block));
  *minimum = h_min(*minimum, top);
  for (int v = 1; v < DK_VECTORS / 2; v++) {
    dk_h x = h_ordered(h_load(block + (size_t)v * 64));
    *minimum = h_min(*minimum, x);
    top = h_max(top, x);
  }
  return h_fold_max(top);
}

/* Convert up to sixteen such integers to the floats that they stand for. */
DK_INLINE void floats_of_tops(const int16_t *tops, int32_t dtype, int32_t n, float *out) {
  uint16_t halves[DK_LANES] = {0};
  float wide[DK_LANES];
  for (int i = 0; i < n; i++)
    halves[i] = (uint16_t)(tops[i] < 0 ? tops[i] ^ 0x7FFF : tops[i]);
  f_store(wide, load_as((const char *)halves, dtype));
  memcpy(out, wide, (size_t)n * sizeof(float));
}

/* Write the maxima of whole blocks. Returns true if there is a NaN; the maxima are then meaningless. */
DK_INLINE bool scan_halves(const char *source, int32_t dtype, int32_t num_blocks, float *block_max) {
  const int16_t infinity = dtype == DECODING_FLOAT16 ? 0x7C00 : 0x7F80;
  dk_h minimum = h_ordered(h_load(source));
  int16_t tops[DK_LANES], maximum = INT16_MIN;
  for (int32_t block = 0; block < num_blocks; block++) {
    int16_t top = tops[block % DK_LANES] = top_of_halves(source + (size_t)block * DK_BLOCK * 2, &minimum);
    maximum = top > maximum ? top : maximum;
    if (block % DK_LANES == DK_LANES - 1 || block == num_blocks - 1)
      floats_of_tops(tops, dtype, block % DK_LANES + 1, block_max + block / DK_LANES * DK_LANES);
  }
  return maximum > infinity || h_fold_min(minimum) < ~infinity;
}

static float maximum(const float *block) {
  dk_f top = f_load(block);
  for (int v = 1; v < DK_VECTORS; v++)
    top = f_max(top, f_load(block + v * DK_LANES));
  return f_fold_max(top);
}

/* The slow path, for a block with a NaN and for the short last block: widened first, so that NaN counts as -inf. */
static uint32_t scan_slowly(const char *source, int32_t dtype, int32_t n, float *block_max) {
  char padded[DK_BLOCK * sizeof(float)] = {0};
  float block[DK_BLOCK];
  uint32_t nan = 0;
  memcpy(padded, source, (size_t)n * element_size(dtype));
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_f x = lanes_of((dk_block){padded, dtype}, v);
    nan |= m_bits(f_unordered(x, x));
  }
  widen(source, dtype, n, block);
  *block_max = maximum(block);
  return nan ? DK_SAW_NAN : 0u;
}

/* Write the maxima of up to DK_LANES whole blocks, and -inf behind them. Returns false if there is a NaN. */
DK_INLINE bool scan_group(const char *source, int32_t num_blocks, float *block_max) {
  dk_f tops[DK_LANES];
  dk_m ordered[DK_CHAINS];
  for (int c = 0; c < DK_CHAINS; c++)
    ordered[c] = m_from_bits(DK_ALL_LANES);
  for (int32_t i = 0; i < num_blocks; i++)
    tops[i] = lane_maxima(source + (size_t)i * DK_BLOCK * sizeof(float), ordered);
  for (int32_t i = num_blocks; i < DK_LANES; i++)
    tops[i] = f_set(-INFINITY);
  f_store(block_max, f_fold_max_each(tops));
  return m_bits(m_and(m_and(ordered[0], ordered[1]), m_and(ordered[2], ordered[3]))) == DK_ALL_LANES;
}

static uint32_t scan_blocks_slowly(const char *source, int32_t dtype, int32_t num_blocks, float *block_max) {
  uint32_t seen = 0;
  for (int32_t block = 0; block < num_blocks; block++)
    seen |= scan_slowly(source + (size_t)block * DK_BLOCK * element_size(dtype), dtype, DK_BLOCK, block_max + block);
  return seen;
}

DK_INLINE uint32_t scan_floats(const char *source, int32_t num_blocks, float *block_max) {
  uint32_t seen = 0;
  for (int32_t first = 0; first < num_blocks; first += DK_LANES, block_max += DK_LANES) {
    int32_t n = num_blocks - first < DK_LANES ? num_blocks - first : DK_LANES;
    const char *group = source + (size_t)first * DK_BLOCK * sizeof(float);
    if (!scan_group(group, n, block_max))
      seen |= scan_blocks_slowly(group, DECODING_FLOAT32, n, block_max);
    seen |= m_bits(f_eq(f_load(block_max), f_set(INFINITY))) ? DK_SAW_INFINITY : 0u;
  }
  return seen;
}

DK_INLINE uint32_t scan_as(dk_block row, int32_t n, float *block_max) {
  const char *source = row.data;
  int32_t num_blocks = n / DK_BLOCK;
  uint32_t seen = 0;
  if (row.dtype == DECODING_FLOAT32) {
    seen = scan_floats(source, num_blocks, block_max);
  } else if (num_blocks > 0 && scan_halves(source, row.dtype, num_blocks, block_max)) {
    seen = scan_blocks_slowly(source, row.dtype, num_blocks, block_max);
  }
  for (int32_t block = 0; row.dtype != DECODING_FLOAT32 && block < num_blocks; block++)
    seen |= block_max[block] == INFINITY ? DK_SAW_INFINITY : 0u;
  if (n % DK_BLOCK > 0) {
    source += (size_t)num_blocks * DK_BLOCK * element_size(row.dtype);
    seen |= scan_slowly(source, row.dtype, n % DK_BLOCK, block_max + num_blocks);
    seen |= block_max[num_blocks] == INFINITY ? DK_SAW_INFINITY : 0u;
  }
  return seen;
}

static uint32_t scan(const void *row, int32_t dtype, int32_t n, float *block_max) {
  dk_block all = {row, dtype};
  DK_BY_DTYPE(scan_as, all, n, block_max)
}

#endif
