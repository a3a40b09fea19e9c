/* Part of kernels_body.h: loading the caller's element types, and the first pass over a row. */
#ifndef DK_KERNELS_SCAN_H
#define DK_KERNELS_SCAN_H

#include <math.h>
#include <stdbool.h>

#include "decoding.h"
#include "sampling/kernels.h"
#include "simd/lanes.h"

#define DK_VECTORS (DK_BLOCK / DK_LANES)

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

/* Return the maximum of a block and set the lanes of *nan in which a NaN was seen. If there is one, the maximum is
 * meaningless. One comparison tests two vectors. */
DK_INLINE float scan_block(dk_block block, dk_m *nan) {
  dk_f top[2];
  dk_m seen = m_from_bits(0);
  for (int v = 0; v < DK_VECTORS; v += 2) {
    dk_f a = lanes_of(block, v), b = lanes_of(block, v + 1);
    seen = m_or(seen, f_unordered(a, b));
    top[0] = v == 0 ? a : f_max(top[0], a);
    top[1] = v == 0 ? b : f_max(top[1], b);
  }
  *nan = seen;
  return f_fold_max(f_max(top[0], top[1]));
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
  dk_m ignored;
  return scan_block((dk_block){block, DECODING_FLOAT32}, &ignored);
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

DK_INLINE uint32_t scan_floats(const char *source, int32_t num_blocks, float *block_max) {
  uint32_t seen = 0;
  dk_m nan;
  for (int32_t block = 0; block < num_blocks; block++, source += DK_BLOCK * sizeof(float)) {
    block_max[block] = scan_block((dk_block){source, DECODING_FLOAT32}, &nan);
    if (m_bits(nan))
      seen |= scan_slowly(source, DECODING_FLOAT32, DK_BLOCK, block_max + block);
    seen |= block_max[block] == INFINITY ? DK_SAW_INFINITY : 0u;
  }
  return seen;
}

DK_INLINE uint32_t scan_as(dk_block row, int32_t n, float *block_max) {
  const char *source = row.data;
  int32_t num_blocks = n / DK_BLOCK;
  size_t step = DK_BLOCK * element_size(row.dtype);
  uint32_t seen = 0;
  if (row.dtype == DECODING_FLOAT32) {
    seen = scan_floats(source, num_blocks, block_max);
  } else if (num_blocks > 0 && scan_halves(source, row.dtype, num_blocks, block_max)) {
    for (int32_t block = 0; block < num_blocks; block++)
      seen |= scan_slowly(source + (size_t)block * step, row.dtype, DK_BLOCK, block_max + block);
  }
  for (int32_t block = 0; row.dtype != DECODING_FLOAT32 && block < num_blocks; block++)
    seen |= block_max[block] == INFINITY ? DK_SAW_INFINITY : 0u;
  if (n % DK_BLOCK > 0) {
    seen |= scan_slowly(source + (size_t)num_blocks * step, row.dtype, n % DK_BLOCK, block_max + num_blocks);
    seen |= block_max[num_blocks] == INFINITY ? DK_SAW_INFINITY : 0u;
  }
  return seen;
}

static uint32_t scan(const void *row, int32_t dtype, int32_t n, float *block_max) {
  dk_block all = {row, dtype};
  DK_BY_DTYPE(scan_as, all, n, block_max)
}

#endif
