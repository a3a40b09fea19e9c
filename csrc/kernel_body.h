/* THE kernel: every loop over a block, once, in terms of lanes.h. Each kernel_<set>.c sets the instruction set and the
 * name of its table, and includes this file. */
#include <math.h>

#include "expf16.h"
#include "kernel.h"
#include "lanes.h"

#define DK_VECTORS (DK_BLOCK / DK_LANES)

DK_INLINE dk_f load_as_float(const void *source, int32_t dtype) {
  if (dtype == 1)
    return f_load_f16(source);
  if (dtype == 2)
    return f_load_bf16(source);
  return f_load(source);
}

DK_INLINE dk_f without_nan(dk_f x) { return f_select(f_is_nan(x), f_set(-INFINITY), x); }

DK_INLINE size_t element_size(int32_t dtype) { return dtype == 0 ? 4 : 2; }

static void widen(const void *source, int32_t dtype, int32_t n, float *block) {
  char padded[DK_LANES * sizeof(float)];
  int32_t whole = n / DK_LANES * DK_LANES;
  size_t size = element_size(dtype);
  for (int32_t i = 0; i < whole; i += DK_LANES)
    f_store(block + i, without_nan(load_as_float((const char *)source + (size_t)i * size, dtype)));
  for (int32_t i = whole; i < DK_BLOCK; i += DK_LANES)
    f_store(block + i, f_set(-INFINITY));
  if (whole < n) {
    memset(padded, 0, sizeof padded);
    memcpy(padded, (const char *)source + (size_t)whole * size, (size_t)(n - whole) * size);
    dk_f tail = without_nan(load_as_float(padded, dtype));
    f_store(block + whole, f_select(m_from_bits((1u << (n - whole)) - 1u), tail, f_set(-INFINITY)));
  }
}

DK_INLINE float scan_block(const char *block, int32_t dtype, dk_m *not_finite) {
  size_t step = DK_LANES * element_size(dtype);
  dk_f top[4];
  dk_m seen[4];
  for (int v = 0; v < 4; v++) {
    dk_f x = load_as_float(block + (size_t)v * step, dtype);
    top[v] = x;
    seen[v] = f_not_lt(x, f_set(INFINITY));
  }
  for (int v = 4; v < DK_VECTORS; v += 4) {
    for (int u = 0; u < 4; u++) {
      dk_f x = load_as_float(block + (size_t)(v + u) * step, dtype);
      top[u] = f_max(top[u], x);
      seen[u] = m_or(seen[u], f_not_lt(x, f_set(INFINITY)));
    }
  }
  *not_finite = m_or(m_or(seen[0], seen[1]), m_or(seen[2], seen[3]));
  return f_fold_max(f_max(f_max(top[0], top[1]), f_max(top[2], top[3])));
}

static float maximum(const float *block) {
  dk_m ignored;
  return scan_block((const char *)block, 0, &ignored);
}

/* A block with NaN or +inf in it, or the short last one: widened first, so that NaN counts as -inf. */
static uint32_t scan_slowly(const char *source, int32_t dtype, int32_t n, float *block_max) {
  float block[DK_BLOCK];
  size_t size = element_size(dtype);
  uint32_t seen = 0;
  for (int32_t i = 0; i < n; i++) {
    char padded[DK_LANES * sizeof(float)] = {0};
    memcpy(padded, source + (size_t)i * size, size);
    dk_f x = load_as_float(padded, dtype);
    seen |= (m_bits(f_is_nan(x)) & 1u) ? DK_SAW_NAN : 0u;
    seen |= (m_bits(f_eq(x, f_set(INFINITY))) & 1u) ? DK_SAW_INFINITY : 0u;
  }
  widen(source, dtype, n, block);
  *block_max = maximum(block);
  return seen;
}

DK_INLINE uint32_t scan_as(const char *source, int32_t dtype, int32_t n, float *block_max) {
  size_t step = DK_BLOCK * element_size(dtype);
  uint32_t seen = 0;
  for (; n > 0; n -= DK_BLOCK, source += step, block_max++) {
    dk_m not_finite = m_from_bits(1);
    if (n >= DK_BLOCK)
      *block_max = scan_block(source, dtype, &not_finite);
    if (m_bits(not_finite))
      seen |= scan_slowly(source, dtype, n < DK_BLOCK ? n : DK_BLOCK, block_max);
  }
  return seen;
}

/* One loop for each element type, so that the test for it stays outside. */
static uint32_t scan(const void *row, int32_t dtype, int32_t n, float *block_max) {
  if (dtype == 1)
    return scan_as(row, 1, n, block_max);
  if (dtype == 2)
    return scan_as(row, 2, n, block_max);
  return scan_as(row, 0, n, block_max);
}

static void mask(float *block, const uint32_t *words) {
  for (int v = 0; v < DK_VECTORS; v++) {
    uint32_t bits = words[v / 2] >> (v % 2 * 16) & 0xFFFFu;
    f_store(block + v * DK_LANES, f_select(m_from_bits(bits), f_load(block + v * DK_LANES), f_set(-INFINITY)));
  }
}

/* Elements above the cutoff's value, and of those equal to it the first `ties` places of the block. */
DK_INLINE dk_m kept_lanes(dk_f x, dk_cutoff kept, int v) {
  int32_t ties = kept.ties - v * DK_LANES;
  uint32_t places = ties >= DK_LANES ? 0xFFFFu : ties > 0 ? (1u << ties) - 1u : 0u;
  dk_f value = f_set(kept.value);
  return m_or(f_gt(x, value), m_and(f_eq(x, value), m_from_bits(places)));
}

static int32_t count(const float *block, dk_cutoff kept) {
  int32_t total = 0;
  for (int v = 0; v < DK_VECTORS; v++)
    total += __builtin_popcount(m_bits(kept_lanes(f_load(block + v * DK_LANES), kept, v)));
  return total;
}

/* Lanes that are not kept are given the maximum before exp and zero after it: no input can make them misbehave. */
DK_INLINE dk_w kept_weights(const float *block, dk_cutoff kept, const dk_scale *scale, dk_f top, int v) {
  dk_f x = f_load(block + v * DK_LANES);
  dk_m keep = kept_lanes(x, kept, v);
  dk_f weight = dk_weight(f_select(keep, x, top), scale);
  return w_round(f_select(keep, weight, f_set(0.0f)));
}

/* Any value whose weight is finite will do: the maximum has weight one. */
DK_INLINE dk_f stand_in(const dk_scale *scale) { return f_set(-scale->minus_max / scale->unit); }

static uint64_t mass(const float *block, dk_cutoff kept, const dk_scale *scale) {
  dk_f top = stand_in(scale);
  dk_w total = w_zero();
  for (int v = 0; v < DK_VECTORS; v++)
    total = w_add(total, kept_weights(block, kept, scale, top, v));
  return w_fold_sum(total);
}

static void weights(const float *block, dk_cutoff kept, const dk_scale *scale, uint64_t *out) {
  dk_f top = stand_in(scale);
  for (int v = 0; v < DK_VECTORS; v++)
    w_store(out + v * DK_LANES, kept_weights(block, kept, scale, top, v));
}

/* The usual map from float to ordered integer: flip all bits of negatives, the sign of the rest. Adding +0 first
 * makes -0 equal to +0. */
static void keys(const float *block, uint32_t *out) {
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_u bits = f_bits(f_add(f_load(block + v * DK_LANES), f_set(0.0f)));
    u_store(out + v * DK_LANES, u_xor(bits, u_or(u_sign_fill(bits), u_set(0x80000000u))));
  }
}

const dk_kernel DK_TABLE = {DK_NAME, scan, widen, mask, maximum, count, mass, weights, keys};
