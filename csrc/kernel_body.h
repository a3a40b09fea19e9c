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

DK_INLINE dk_f without_nan(dk_f x) { return f_select(f_unordered(x, x), f_set(-INFINITY), x); }

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

/* The maximum of a block, and whether there is a NaN in it; the maximum means nothing then. One comparison looks at two
 * vectors. */
DK_INLINE float scan_block(const char *block, int32_t dtype, dk_m *nan) {
  size_t step = DK_LANES * element_size(dtype);
  dk_f top[2];
  dk_m seen = m_from_bits(0);
  for (int v = 0; v < DK_VECTORS; v += 2) {
    dk_f a = load_as_float(block + (size_t)v * step, dtype);
    dk_f b = load_as_float(block + (size_t)(v + 1) * step, dtype);
    seen = m_or(seen, f_unordered(a, b));
    top[0] = v == 0 ? a : f_max(top[0], a);
    top[1] = v == 0 ? b : f_max(top[1], b);
  }
  *nan = seen;
  return f_fold_max(f_max(top[0], top[1]));
}

static float maximum(const float *block) {
  dk_m ignored;
  return scan_block((const char *)block, 0, &ignored);
}

/* A block with a NaN, or the short last one: widened first, so that NaN counts as -inf. */
static uint32_t scan_slowly(const char *source, int32_t dtype, int32_t n, float *block_max) {
  float block[DK_BLOCK];
  size_t size = element_size(dtype);
  uint32_t seen = 0;
  for (int32_t i = 0; i < n; i++) {
    char padded[DK_LANES * sizeof(float)] = {0};
    memcpy(padded, source + (size_t)i * size, size);
    dk_f x = load_as_float(padded, dtype);
    seen |= (m_bits(f_unordered(x, x)) & 1u) ? DK_SAW_NAN : 0u;
  }
  widen(source, dtype, n, block);
  *block_max = maximum(block);
  return seen;
}

DK_INLINE uint32_t scan_as(const char *source, int32_t dtype, int32_t n, float *block_max) {
  size_t step = DK_BLOCK * element_size(dtype);
  uint32_t seen = 0;
  dk_m nan;
  for (; n >= DK_BLOCK; n -= DK_BLOCK, source += step, block_max++) {
    *block_max = scan_block(source, dtype, &nan);
    if (m_bits(nan))
      seen |= scan_slowly(source, dtype, DK_BLOCK, block_max);
    seen |= *block_max == INFINITY ? DK_SAW_INFINITY : 0u;
  }
  if (n > 0) {
    seen |= scan_slowly(source, dtype, n, block_max);
    seen |= *block_max == INFINITY ? DK_SAW_INFINITY : 0u;
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

/* Most blocks take none of the ties, or all of them: then one comparison tells what is kept. */
DK_INLINE int takes_no_ties(dk_cutoff kept) { return kept.ties <= 0; }
DK_INLINE int takes_all_ties(dk_cutoff kept) { return kept.ties >= DK_BLOCK; }

/* Elements above the cutoff's value, and of those equal to it the first `ties` places of the block. */
DK_INLINE dk_m kept_lanes(dk_f x, dk_cutoff kept, int v) {
  dk_f value = f_set(kept.value);
  if (takes_no_ties(kept))
    return f_gt(x, value);
  if (takes_all_ties(kept))
    return f_ge(x, value);
  int32_t ties = kept.ties - v * DK_LANES;
  uint32_t places = ties >= DK_LANES ? 0xFFFFu : ties > 0 ? (1u << ties) - 1u : 0u;
  return m_or(f_gt(x, value), m_and(f_eq(x, value), m_from_bits(places)));
}

static int32_t find(const float *block, float value) {
  for (int v = 0; v < DK_VECTORS; v++) {
    uint32_t equal = m_bits(f_eq(f_load(block + v * DK_LANES), f_set(value)));
    if (equal)
      return v * DK_LANES + __builtin_ctz(equal);
  }
  return -1;
}

static int32_t count(const float *block, dk_cutoff kept) {
  int32_t total = 0;
  for (int v = 0; v < DK_VECTORS; v++)
    total += __builtin_popcount(m_bits(kept_lanes(f_load(block + v * DK_LANES), kept, v)));
  return total;
}

static int32_t gather(const float *block, dk_cutoff kept, int32_t first_id, float *values, int32_t *ids) {
  int32_t n = 0;
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_f x = f_load(block + v * DK_LANES);
    dk_m keep = kept_lanes(x, kept, v);
    if (!m_bits(keep))
      continue;
    u_compress(ids + n, u_count_from(first_id + v * DK_LANES), keep);
    n += f_compress(values + n, x, keep);
  }
  return n;
}

/* Lanes that are not kept are given the maximum before exp, and are left out after it: no input can make them
 * misbehave. */
DK_INLINE dk_w weights_where(dk_f x, dk_m keep, const dk_scale *scale) {
  dk_f top = f_set(-scale->minus_max / scale->unit);
  return w_round(dk_weight(f_select(keep, x, top), scale));
}

DK_INLINE uint64_t mass_of(const float *block, dk_cutoff kept, const dk_scale *scale) {
  dk_w total = w_zero();
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_f x = f_load(block + v * DK_LANES);
    dk_m keep = kept_lanes(x, kept, v);
    total = w_add_where(total, keep, weights_where(x, keep, scale));
  }
  return w_fold_sum(total);
}

/* Three loops, so that the kind of cutoff is settled outside of them. */
static uint64_t mass(const float *block, dk_cutoff kept, const dk_scale *scale) {
  if (takes_no_ties(kept))
    return mass_of(block, (dk_cutoff){kept.value, 0}, scale);
  if (takes_all_ties(kept))
    return mass_of(block, (dk_cutoff){kept.value, DK_BLOCK}, scale);
  return mass_of(block, kept, scale);
}

static void weights(const float *block, dk_cutoff kept, const dk_scale *scale, uint64_t *out) {
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_f x = f_load(block + v * DK_LANES);
    dk_m keep = kept_lanes(x, kept, v);
    w_store(out + v * DK_LANES, w_add_where(w_zero(), keep, weights_where(x, keep, scale)));
  }
}

static uint64_t weight(float value, float low, const dk_scale *scale) {
  uint64_t lanes[DK_LANES];
  if (!(value >= low))
    return 0;
  w_store(lanes, w_round(dk_weight(f_set(value), scale)));
  return lanes[0];
}

DK_INLINE dk_split split_of(const float *block, dk_cutoff kept, const dk_scale *scale, float low, float high,
                            int32_t first_id, dk_entries list) {
  dk_w all = w_zero(), above = w_zero();
  int32_t n = 0;
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_f x = f_load(block + v * DK_LANES);
    dk_m keep = kept_lanes(x, kept, v), over = m_and(keep, f_ge(x, f_set(high)));
    dk_m between = m_and_not(m_and(keep, f_ge(x, f_set(low))), over);
    dk_w weight = weights_where(x, keep, scale);
    all = w_add_where(all, keep, weight);
    above = w_add_where(above, over, weight);
    if (m_bits(between)) {
      u_compress(list.ids + n, u_count_from(first_id + v * DK_LANES), between);
      n += f_compress(list.values + n, x, between);
    }
  }
  return (dk_split){w_fold_sum(all), w_fold_sum(above), n};
}

static dk_split split(const float *block, dk_cutoff kept, const dk_scale *scale, float low, float high,
                      int32_t first_id, dk_entries list) {
  if (takes_no_ties(kept))
    return split_of(block, (dk_cutoff){kept.value, 0}, scale, low, high, first_id, list);
  if (takes_all_ties(kept))
    return split_of(block, (dk_cutoff){kept.value, DK_BLOCK}, scale, low, high, first_id, list);
  return split_of(block, kept, scale, low, high, first_id, list);
}

static uint64_t sum_from(const float *block, const uint64_t *weights, float low) {
  dk_w total = w_zero();
  for (int v = 0; v < DK_VECTORS; v++)
    total = w_add_where(total, f_ge(f_load(block + v * DK_LANES), f_set(low)), w_load(weights + v * DK_LANES));
  return w_fold_sum(total);
}

/* Within one block the writes stay behind the reads: a vector is loaded whole before its place is written to. */
static int32_t narrow(dk_entries from, float low, float high, dk_entries to) {
  int32_t n = 0;
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_f x = f_load(from.values + v * DK_LANES);
    dk_u ids = u_load(from.ids + v * DK_LANES);
    dk_w weight = w_load(from.weights + v * DK_LANES);
    dk_m keep = m_and(f_ge(x, f_set(low)), f_ge(f_set(high), x));
    u_compress(to.ids + n, ids, keep);
    w_compress(to.weights + n, weight, keep);
    n += f_compress(to.values + n, x, keep);
  }
  return n;
}

/* The usual map from float to ordered integer: flip all bits of negatives, the sign of the rest. Adding +0 first
 * makes -0 equal to +0. */
static void keys(const float *block, uint32_t *out) {
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_u bits = f_bits(f_add(f_load(block + v * DK_LANES), f_set(0.0f)));
    u_store(out + v * DK_LANES, u_xor(bits, u_or(u_sign_fill(bits), u_set(0x80000000u))));
  }
}

const dk_kernel DK_TABLE = {DK_NAME, scan,    widen,  mask,  maximum,  find,   count, gather,
                            mass,    weights, weight, split, sum_from, narrow, keys};
