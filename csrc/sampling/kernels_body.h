/* THE kernel: every loop over a block, once, in terms of lanes.h. Each kernel_<set>.c sets the instruction set and the
 * name of its table, and includes this file. */
#include <math.h>

#include "sampling/kernels.h"
#include "simd/exp16.h"
#include "simd/lanes.h"

#define DK_VECTORS (DK_BLOCK / DK_LANES)

DK_INLINE size_t element_size(int32_t dtype) { return dtype == 0 ? 4 : 2; }

DK_INLINE dk_f load_as(const char *source, int32_t dtype) {
  if (dtype == 1)
    return f_load_f16(source);
  if (dtype == 2)
    return f_load_bf16(source);
  return f_load(source);
}

/* Vector v of a block. */
DK_INLINE dk_f lanes_of(dk_block block, int v) {
  return load_as((const char *)block.data + (size_t)v * DK_LANES * element_size(block.dtype), block.dtype);
}

/* One copy of a loop for each element type, so that the test for it stays outside. */
#define DK_BY_TYPE(function, block, ...)                                                                               \
  switch (block.dtype) {                                                                                               \
  case 1:                                                                                                              \
    return function((dk_block){block.data, 1}, __VA_ARGS__);                                                           \
  case 2:                                                                                                              \
    return function((dk_block){block.data, 2}, __VA_ARGS__);                                                           \
  default:                                                                                                             \
    return function((dk_block){block.data, 0}, __VA_ARGS__);                                                           \
  }

/* ---- reading a row ---- */

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

/* The maximum of a block, and whether there is a NaN in it; the maximum means nothing then. One comparison looks at two
 * vectors. */
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

/* Both 16-bit types are sign and magnitude, and their NaNs lie beyond their infinities: ordered integers, 32 at a time,
 * tell a block's maximum, and, with the least of all of them, whether there is a NaN. */
DK_INLINE int16_t top_of_halves(const char *block, dk_h *least) {
  dk_h top = h_ordered(h_load(block));
  *least = h_min(*least, top);
  for (int v = 1; v < DK_VECTORS / 2; v++) {
    dk_h x = h_ordered(h_load(block + (size_t)v * 64));
    *least = h_min(*least, x);
    top = h_max(top, x);
  }
  return h_fold_max(top);
}

/* The floats of up to sixteen such integers. */
DK_INLINE void floats_of_tops(const int16_t *tops, int32_t dtype, int32_t n, float *out) {
  uint16_t halves[DK_LANES] = {0};
  float wide[DK_LANES];
  for (int i = 0; i < n; i++)
    halves[i] = (uint16_t)(tops[i] < 0 ? tops[i] ^ 0x7FFF : tops[i]);
  f_store(wide, load_as((const char *)halves, dtype));
  memcpy(out, wide, (size_t)n * sizeof(float));
}

/* Maxima of whole blocks; whether there is a NaN, and the maxima then mean nothing. */
DK_INLINE int32_t scan_halves(const char *source, int32_t dtype, int32_t num_blocks, float *block_max) {
  const int16_t infinity = dtype == 1 ? 0x7C00 : 0x7F80;
  dk_h least = h_ordered(h_load(source));
  int16_t tops[DK_LANES], most = INT16_MIN;
  for (int32_t block = 0; block < num_blocks; block++) {
    int16_t top = tops[block % DK_LANES] = top_of_halves(source + (size_t)block * DK_BLOCK * 2, &least);
    most = top > most ? top : most;
    if (block % DK_LANES == DK_LANES - 1 || block == num_blocks - 1)
      floats_of_tops(tops, dtype, block % DK_LANES + 1, block_max + block / DK_LANES * DK_LANES);
  }
  return most > infinity || h_fold_min(least) < ~infinity;
}

static float maximum(const float *block) {
  dk_m ignored;
  return scan_block((dk_block){block, 0}, &ignored);
}

/* A block with a NaN, or the short last one: widened first, so that NaN counts as -inf. */
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
    block_max[block] = scan_block((dk_block){source, 0}, &nan);
    if (m_bits(nan))
      seen |= scan_slowly(source, 0, DK_BLOCK, block_max + block);
    seen |= block_max[block] == INFINITY ? DK_SAW_INFINITY : 0u;
  }
  return seen;
}

DK_INLINE uint32_t scan_as(dk_block row, int32_t n, float *block_max) {
  const char *source = row.data;
  int32_t num_blocks = n / DK_BLOCK;
  size_t step = DK_BLOCK * element_size(row.dtype);
  uint32_t seen = 0;
  if (row.dtype == 0) {
    seen = scan_floats(source, num_blocks, block_max);
  } else if (num_blocks > 0 && scan_halves(source, row.dtype, num_blocks, block_max)) {
    for (int32_t block = 0; block < num_blocks; block++)
      seen |= scan_slowly(source + (size_t)block * step, row.dtype, DK_BLOCK, block_max + block);
  }
  for (int32_t block = 0; row.dtype != 0 && block < num_blocks; block++)
    seen |= block_max[block] == INFINITY ? DK_SAW_INFINITY : 0u;
  if (n % DK_BLOCK > 0) {
    seen |= scan_slowly(source + (size_t)num_blocks * step, row.dtype, n % DK_BLOCK, block_max + num_blocks);
    seen |= block_max[num_blocks] == INFINITY ? DK_SAW_INFINITY : 0u;
  }
  return seen;
}

static uint32_t scan(const void *row, int32_t dtype, int32_t n, float *block_max) {
  dk_block all = {row, dtype};
  DK_BY_TYPE(scan_as, all, n, block_max)
}

/* ---- editing a copy ---- */

static void mask(float *block, const uint32_t *words) {
  for (int v = 0; v < DK_VECTORS; v++) {
    uint32_t bits = words[v / 2] >> (v % 2 * 16) & 0xFFFFu;
    f_store(block + v * DK_LANES, f_select(m_from_bits(bits), f_load(block + v * DK_LANES), f_set(-INFINITY)));
  }
}

static void shape(float *block, const dk_shape *shape) {
  const dk_f max = f_set(shape->max), banned = f_set(-INFINITY);
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_f d = f_sub(f_load(block + v * DK_LANES), max);
    dk_f shaped = f_mul(f_mul(d, d), f_fma(f_set(shape->cubic), d, f_set(shape->quadratic)));
    f_store(block + v * DK_LANES, f_select(f_gt(d, banned), shaped, banned)); /* no 0 * inf */
  }
}

/* ---- what is at or above a value ---- */

static int32_t find(dk_block block, float value) {
  for (int v = 0; v < DK_VECTORS; v++) {
    uint32_t equal = m_bits(f_eq(lanes_of(block, v), f_set(value)));
    if (equal)
      return v * DK_LANES + __builtin_ctz(equal);
  }
  return -1;
}

DK_INLINE int32_t count_of(dk_block block, float low) {
  int32_t total = 0;
  for (int v = 0; v < DK_VECTORS; v++)
    total += __builtin_popcount(m_bits(f_ge(lanes_of(block, v), f_set(low))));
  return total;
}

static int32_t count(dk_block block, float low){DK_BY_TYPE(count_of, block, low)}

DK_INLINE int32_t gather_of(dk_block block, float low, int32_t first_id, float *values, int32_t *ids) {
  int32_t n = 0;
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_f x = lanes_of(block, v);
    dk_m keep = f_ge(x, f_set(low));
    if (!m_bits(keep))
      continue;
    u_compress(ids + n, u_count_from(first_id + v * DK_LANES), keep);
    n += f_compress(values + n, x, keep);
  }
  return n;
}

static int32_t gather(dk_block block, float low, int32_t first_id, float *values, int32_t *ids) {
  DK_BY_TYPE(gather_of, block, low, first_id, values, ids)
}

/* ---- weights ---- */

/* Weights of a block added up as the bits that they come in, modulo 2^32; their origins are taken out at the end. */
typedef struct dk_sum {
  dk_parts parts;
  int32_t count;
} dk_sum;

DK_INLINE dk_sum sum_none(void) { return (dk_sum){{u_set(0), u_set(0)}, 0}; }

DK_INLINE dk_sum sum_add(dk_sum sum, dk_parts parts) {
  return (dk_sum){{u_add(sum.parts.high, parts.high), u_add(sum.parts.low, parts.low)}, sum.count + DK_LANES};
}

/* The caller sets the count at the end. */
DK_INLINE dk_sum sum_add_where(dk_sum sum, dk_m keep, dk_parts parts) {
  return (dk_sum){{u_add_where(sum.parts.high, keep, parts.high), u_add_where(sum.parts.low, keep, parts.low)}, 0};
}

DK_INLINE int32_t count_bits(const uint16_t *bits) {
  uint64_t words[DK_BLOCK / 64];
  int32_t count = 0;
  memcpy(words, bits, sizeof words);
  for (int w = 0; w < DK_BLOCK / 64; w++)
    count += __builtin_popcountll(words[w]);
  return count;
}

DK_INLINE uint64_t sum_total(dk_sum sum) {
  uint32_t high = u_fold_sum(sum.parts.high) - (uint32_t)sum.count * DK_HIGH_ORIGIN_BITS;
  uint32_t low = u_fold_sum(sum.parts.low) - (uint32_t)sum.count * DK_LOW_ORIGIN_BITS;
  return dk_join((int32_t)high, (int32_t)low);
}

DK_INLINE uint64_t mass_of(dk_block block, float low, dk_scale scale) {
  dk_sum sum = sum_none();
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_f x = lanes_of(block, v);
    sum = sum_add(sum, dk_weight_parts(x, f_ge(x, f_set(low)), scale));
  }
  return sum_total(sum);
}

static uint64_t mass(dk_block block, float low, const dk_scale *scale){DK_BY_TYPE(mass_of, block, low, *scale)}

DK_INLINE int32_t weights_of(dk_block block, float low, dk_scale scale, uint64_t *out) {
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_f x = lanes_of(block, v);
    dk_parts parts = dk_weight_parts(x, f_ge(x, f_set(low)), scale);
    w_store(out + v * DK_LANES, w_join(dk_high(parts), dk_low(parts)));
  }
  return 0;
}

static int32_t weights_by_type(dk_block block, float low, const dk_scale *scale, uint64_t *out) {
  DK_BY_TYPE(weights_of, block, low, *scale, out)
}

static void weights(dk_block block, float low, const dk_scale *scale, uint64_t *out) {
  (void)weights_by_type(block, low, scale, out);
}

static uint64_t weight(float value, const dk_scale *scale) {
  uint64_t lanes[DK_LANES];
  dk_f x = f_set(value);
  dk_parts parts = dk_weight_parts(x, f_eq(x, x), *scale);
  w_store(lanes, w_join(dk_high(parts), dk_low(parts)));
  return lanes[0];
}

/* The elements whose bit is set, in order. How many there are cannot be guessed, so that a loop over them would be
 * guessed wrong once a word: the first four are written always, whether or not there are as many. */
DK_INLINE int32_t list_bits(const float *values, uint64_t bits, int32_t first_id, dk_entries list) {
  int32_t n = __builtin_popcountll(bits);
  for (int32_t i = 0; i < 4 || i < n; i++, bits &= bits - 1) {
    int place = __builtin_ctzll(bits | (uint64_t)1 << 63);
    list.ids[i] = first_id + place;
    memcpy(list.values + i, (const char *)values + (size_t)place * sizeof(float), sizeof(float)); /* any alignment */
  }
  return n;
}

/* Four vectors at a time, so that their comparisons fill a word of bits. */
DK_INLINE dk_split split_of(dk_block block, float low, dk_scale scale, float middle, float high, int32_t first_id,
                            dk_entries list) {
  dk_sum all = sum_none(), above = sum_none();
  float copy[DK_BLOCK];
  const float *values = block.dtype == 0 ? block.data : copy;
  int32_t n = 0;
  for (int v = 0; v < DK_VECTORS; v += 4) {
    uint64_t over_bits = 0, bits = 0;
    for (int j = 0; j < 4; j++) {
      dk_f x = lanes_of(block, v + j);
      dk_m over = f_ge(x, f_set(high));
      dk_parts parts = dk_weight_parts(x, f_ge(x, f_set(low)), scale);
      all = sum_add(all, parts);
      above.parts = sum_add_where(above, over, parts).parts;
      over_bits |= (uint64_t)m_bits(over) << (j * DK_LANES);
      bits |= (uint64_t)m_bits(f_ge(x, f_set(middle))) << (j * DK_LANES);
      if (values == copy)
        f_store(copy + (v + j) * DK_LANES, x);
    }
    above.count += __builtin_popcountll(over_bits);
    dk_entries rest = {list.values + n, list.ids + n, NULL};
    n += list_bits(values + v * DK_LANES, bits & ~over_bits, first_id + v * DK_LANES, rest);
  }
  return (dk_split){.all = sum_total(all), .between = n, .above = sum_total(above)};
}

static dk_split split(dk_block block, float low, const dk_scale *scale, float middle, float high, int32_t first_id,
                      dk_entries list) {
  DK_BY_TYPE(split_of, block, low, *scale, middle, high, first_id, list)
}

/* ---- lists ---- */

static dk_tally tally(dk_weighed from, float value) {
  dk_w above = w_zero(), equal = w_zero();
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_f x = f_load(from.values + v * DK_LANES);
    dk_w weight = w_load(from.weights + v * DK_LANES);
    above = w_add_where(above, f_gt(x, f_set(value)), weight);
    equal = w_add_where(equal, f_eq(x, f_set(value)), weight);
  }
  return (dk_tally){w_fold_sum(above), w_fold_sum(equal)};
}

/* Within one block the writes stay behind the reads: a vector is loaded whole before its place is written to. */
static int32_t narrow(dk_weighed from, float low, float high, dk_weighed to) {
  int32_t n = 0;
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_f x = f_load(from.values + v * DK_LANES);
    dk_w weight = w_load(from.weights + v * DK_LANES);
    dk_m keep = m_and(f_ge(x, f_set(low)), f_ge(f_set(high), x));
    w_compress(to.weights + n, weight, keep);
    n += f_compress(to.values + n, x, keep);
  }
  return n;
}

static uint64_t sum(dk_weighed from, int32_t n, float low) {
  dk_w total = w_zero();
  for (int32_t i = 0; i < n; i += DK_LANES) {
    uint32_t places = n - i < DK_LANES ? (1u << (n - i)) - 1u : 0xFFFFu;
    dk_m keep = m_and(f_ge(f_load(from.values + i), f_set(low)), m_from_bits(places));
    total = w_add_where(total, keep, w_load(from.weights + i));
  }
  return w_fold_sum(total);
}

/* ---- odds and ends ---- */

/* The usual map from float to ordered integer: flip all bits of negatives, the sign of the rest. Adding +0 first
 * makes -0 equal to +0. */
static void keys(dk_block block, uint32_t *out) {
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_u bits = f_bits(f_add(lanes_of(block, v), f_set(0.0f)));
    u_store(out + v * DK_LANES, u_xor(bits, u_or(u_sign_fill(bits), u_set(0x80000000u))));
  }
}

/* Adding 2^23 leaves the integer in the low bits. */
static void bins(const float *block, float top, float low, float bins_per_value, int32_t last, uint32_t *out) {
  const dk_f magic = f_set(0x1p23f), limit = f_set((float)last), outside = f_set((float)(last + 1));
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_f x = f_load(block + v * DK_LANES);
    dk_f place = f_mul(f_sub(f_set(top), x), f_set(bins_per_value));
    place = f_select(f_ge(limit, place), place, limit); /* 0 * inf, where values hardly differ, is the limit too */
    place = f_select(m_and(f_ge(f_set(top), x), f_ge(x, f_set(low))), place, outside);
    u_store(out + v * DK_LANES, u_sub(f_bits(f_add(place, magic)), f_bits(magic)));
  }
}

/* Plain loops over sixteen sums, which the compiler makes vectors of: each lane has an order of its own. */
static void moments(dk_block block, float low, const dk_scale *scale, double origin, double *sums) {
  uint64_t integers[DK_BLOCK];
  float values[DK_LANES];
  if (scale != NULL)
    weights(block, low, scale, integers);
  for (int v = 0; v < DK_VECTORS; v++) {
    f_store(values, lanes_of(block, v));
    for (int i = 0; i < DK_LANES; i++) {
      int kept = values[i] >= low;
      double weight = !kept ? 0.0 : scale != NULL ? (double)integers[v * DK_LANES + i] : 1.0;
      double x = kept ? (double)values[i] - origin : 0.0;
      sums[i] += weight;
      sums[DK_LANES + i] += weight * x;
      sums[2 * DK_LANES + i] += weight * x * x;
    }
  }
}

const dk_kernel DK_TABLE = {DK_NAME, scan,   widen, mask,  shape,  maximum, find, count, gather, mass,
                            weights, weight, split, tally, narrow, sum,     keys, bins,  moments};
