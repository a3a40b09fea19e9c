/* Every loop over a block, written once in the lane operations of lanes.h. Each kernels_<set>.c selects an instruction
 * set, names its table and includes this file. */
#include <math.h>

#include "decoding.h"
#include "sampling/kernels.h"
#include "sampling/kernels_scan.h"
#include "simd/exp16.h"
#include "simd/lanes.h"

/* ---- editing a copy of a block ---- */

static void mask(float *block, const uint32_t *words) {
  for (int v = 0; v < DK_VECTORS; v++) {
    uint32_t bits = words[v / 2] >> (v % 2 * 16) & 0xFFFFu;
    f_store(block + v * DK_LANES, f_select(m_from_bits(bits), f_load(block + v * DK_LANES), f_set(-INFINITY)));
  }
}

static void smooth(float *block, const dk_smoothing *smoothing) {
  const dk_f max = f_set(smoothing->max), banned = f_set(-INFINITY);
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_f d = f_sub(f_load(block + v * DK_LANES), max);
    dk_f smoothed = f_mul(f_mul(d, d), f_fma(f_set(smoothing->cubic), d, f_set(smoothing->quadratic)));
    f_store(block + v * DK_LANES, f_select(f_gt(d, banned), smoothed, banned)); /* avoids 0 * inf */
  }
}

/* ---- elements at or above a value ---- */

static int32_t find(dk_block block, float value) {
  for (int v = 0; v < DK_VECTORS; v++) {
    uint32_t equal = m_bits(f_eq(lanes_of(block, v), f_set(value)));
    if (equal)
      return v * DK_LANES + __builtin_ctz(equal);
  }
  return -1;
}

DK_INLINE int32_t count_of(dk_block block, float low) {
  dk_u total[2] = {u_set(0), u_set(0)};
  for (int v = 0; v < DK_VECTORS; v++)
    total[v % 2] = u_count(total[v % 2], f_ge(lanes_of(block, v), f_set(low)));
  return (int32_t)u_fold_sum(u_add(total[0], total[1]));
}

static int32_t count(dk_block block, float low){DK_BY_DTYPE(count_of, block, low)}

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

static int32_t gather(dk_block block, float low, int32_t first_id, float *values,
                      int32_t *ids){DK_BY_DTYPE(gather_of, block, low, first_id, values, ids)}

/* ---- weights ---- */

/* Compile a loop once per element type for a unit of 1, so that the test for another unit, which is rare, stays outside
 * of it. */
#define DK_BY_SCALE(function, block, scale, ...)                                                                       \
  dk_scale known = scale;                                                                                              \
  if (known.unit != 1.0f) {                                                                                            \
    return function(block, known, __VA_ARGS__);                                                                        \
  }                                                                                                                    \
  known.unit = 1.0f;                                                                                                   \
  DK_BY_DTYPE(function, block, known, __VA_ARGS__)

/* Sum of weights as float bits, modulo 2^32; sum_total subtracts their origins, `count` of each. */
typedef struct dk_sum {
  dk_parts parts;
  int32_t count;
} dk_sum;

DK_INLINE dk_sum sum_none(void) { return (dk_sum){{u_set(0), u_set(0)}, 0}; }

/* Held, because compilers would otherwise add in another order, which needs more registers than there are. */
DK_INLINE dk_u held_sum(dk_u a, dk_u b) { return f_bits(f_hold(u_float(u_add(a, b)))); }

DK_INLINE dk_sum sum_add(dk_sum sum, dk_parts parts) {
  return (dk_sum){{held_sum(sum.parts.high, parts.high), held_sum(sum.parts.low, parts.low)}, sum.count + DK_LANES};
}

/* Leaves the count to the caller. */
DK_INLINE dk_sum sum_add_where(dk_sum sum, dk_m keep, dk_parts parts) {
  return (dk_sum){{u_add_where(sum.parts.high, keep, parts.high), u_add_where(sum.parts.low, keep, parts.low)}, 0};
}

DK_INLINE uint64_t sum_total(dk_sum sum) {
  uint32_t high = u_fold_sum(sum.parts.high) - (uint32_t)sum.count * DK_HIGH_ORIGIN_BITS;
  uint32_t low = u_fold_sum(sum.parts.low) - (uint32_t)sum.count * DK_LOW_ORIGIN_BITS;
  return dk_join((int32_t)high, (int32_t)low);
}

/* Return what sum_total does for more than a block, where a sum over all lanes would not fit 32 bits. */
DK_INLINE uint64_t sum_of_run(dk_sum sum) {
  uint32_t per_lane = (uint32_t)sum.count / DK_LANES;
  dk_u high = u_sub(sum.parts.high, u_set(per_lane * DK_HIGH_ORIGIN_BITS));
  dk_u low = u_sub(sum.parts.low, u_set(per_lane * DK_LOW_ORIGIN_BITS));
  return w_fold_sum(w_join(high, low));
}

DK_INLINE uint64_t mass_of(dk_block first, dk_scale scale, int32_t n, float low) {
  dk_sum sum = sum_none();
  for (int v = 0; v < n * DK_VECTORS; v++) {
    dk_f x = lanes_of(first, v);
    sum = sum_add(sum, dk_weight_parts(x, f_ge(x, f_set(low)), scale));
  }
  return n == 1 ? sum_total(sum) : sum_of_run(sum);
}

static uint64_t mass(dk_block first, int32_t n, float low,
                     const dk_scale *scale){DK_BY_SCALE(mass_of, first, *scale, n, low)}

DK_INLINE int32_t weights_of(dk_block block, dk_scale scale, float low, uint64_t *out) {
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_f x = lanes_of(block, v);
    dk_parts parts = dk_weight_parts(x, f_ge(x, f_set(low)), scale);
    w_store(out + v * DK_LANES, w_join(dk_high(parts), dk_low(parts)));
  }
  return 0;
}

static int32_t weights_by_dtype(dk_block block, float low, const dk_scale *scale, uint64_t *out) {
  DK_BY_SCALE(weights_of, block, *scale, low, out)
}

static void weights(dk_block block, float low, const dk_scale *scale, uint64_t *out) {
  (void)weights_by_dtype(block, low, scale, out);
}

static uint64_t weight(float value, const dk_scale *scale) {
  uint64_t lanes[DK_LANES];
  dk_f x = f_set(value);
  dk_parts parts = dk_weight_parts(x, f_eq(x, x), *scale);
  w_store(lanes, w_join(dk_high(parts), dk_low(parts)));
  return lanes[0];
}

DK_INLINE void list_bit(const float *values, int index, int32_t first_id, int32_t i, dk_entries list) {
  list.ids[i] = first_id + index;
  memcpy(list.values + i, (const char *)values + (size_t)index * sizeof(float), sizeof(float)); /* any alignment */
}

/* Append the elements whose bit is set, in order. The CPU cannot predict how many there are, and a loop over them would
 * be mispredicted once per word. So the first four are always written, whether or not there are that many. */
DK_INLINE int32_t list_bits(const float *values, uint64_t bits, int32_t first_id, dk_entries list) {
  int32_t n = __builtin_popcountll(bits), i = 0;
  for (; i < 4; i++, bits &= bits - 1)
    list_bit(values, __builtin_ctzll(bits | (uint64_t)1 << 63), first_id, i, list);
  for (; i < n; i++, bits &= bits - 1)
    list_bit(values, __builtin_ctzll(bits), first_id, i, list);
  return n;
}

typedef struct dk_split_sums {
  dk_sum all, above;
  int32_t num_between;
} dk_split_sums;

/* Four vectors at a time, from vector v on, so that their comparisons fill a word of bits. */
DK_INLINE dk_split_sums split_four(dk_split_sums sums, dk_block block, int v, float low, dk_scale scale, float middle,
                                   float high, int32_t first_id, dk_entries list) {
  uint64_t over_bits = 0, bits = 0;
  float copy[4 * DK_LANES];
  const float *values = block.dtype == DECODING_FLOAT32 ? (const float *)block.data + v * DK_LANES : copy;
  for (int j = 0; j < 4; j++) {
    dk_f x = lanes_of(block, v + j);
    dk_m over = f_ge(x, f_set(high));
    dk_parts parts = dk_weight_parts(x, f_ge(x, f_set(low)), scale);
    sums.all = sum_add(sums.all, parts);
    sums.above.parts = sum_add_where(sums.above, over, parts).parts;
    over_bits |= (uint64_t)m_bits(over) << (j * DK_LANES);
    bits |= (uint64_t)m_bits(f_ge(x, f_set(middle))) << (j * DK_LANES);
    if (block.dtype != DECODING_FLOAT32)
      f_store(copy + j * DK_LANES, x);
  }
  sums.above.count += __builtin_popcountll(over_bits);
  dk_entries rest = {list.values + sums.num_between, list.ids + sums.num_between, NULL};
  sums.num_between += list_bits(values, bits & ~over_bits, first_id + v * DK_LANES, rest);
  return sums;
}

DK_INLINE dk_split split_of(dk_block block, dk_scale scale, float low, float middle, float high, int32_t first_id,
                            dk_entries list) {
  dk_split_sums sums = {sum_none(), sum_none(), 0};
  for (int v = 0; v < DK_VECTORS; v += 4)
    sums = split_four(sums, block, v, low, scale, middle, high, first_id, list);
  return (dk_split){.all = sum_total(sums.all), .num_between = sums.num_between, .above = sum_total(sums.above)};
}

static dk_split split(dk_block block, float low, const dk_scale *scale, float middle, float high, int32_t first_id,
                      dk_entries list) {
  DK_BY_SCALE(split_of, block, *scale, low, middle, high, first_id, list)
}

/* ---- lists of values and weights ---- */

static dk_tally tally(dk_weighted from, float value) {
  dk_w above = w_zero(), equal = w_zero();
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_f x = f_load(from.values + v * DK_LANES);
    dk_w weight = w_load(from.weights + v * DK_LANES);
    above = w_add_where(above, f_gt(x, f_set(value)), weight);
    equal = w_add_where(equal, f_eq(x, f_set(value)), weight);
  }
  return (dk_tally){w_fold_sum(above), w_fold_sum(equal)};
}

/* In place, writes stay behind reads: each vector is loaded before anything is written over it. */
static int32_t narrow(dk_weighted from, float low, float high, dk_weighted to) {
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

static uint64_t sum(dk_weighted from, int32_t n, float low) {
  dk_w total = w_zero();
  for (int32_t i = 0; i < n; i += DK_LANES) {
    uint32_t lanes = n - i < DK_LANES ? (1u << (n - i)) - 1u : 0xFFFFu;
    dk_m keep = m_and(f_ge(f_load(from.values + i), f_set(low)), m_from_bits(lanes));
    total = w_add_where(total, keep, w_load(from.weights + i));
  }
  return w_fold_sum(total);
}

/* ---- keys, bins, moments ---- */

/* The usual map from float to ordered integer: flip all bits of negative values, and the sign bit of the others. Adding
 * +0 first makes -0 equal to +0. */
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
    dk_f bin = f_mul(f_sub(f_set(top), x), f_set(bins_per_value));
    bin = f_select(f_ge(limit, bin), bin, limit); /* 0 * inf, if values hardly differ, becomes the limit too */
    bin = f_select(m_and(f_ge(f_set(top), x), f_ge(x, f_set(low))), bin, outside);
    u_store(out + v * DK_LANES, u_sub(f_bits(f_add(bin, magic)), f_bits(magic)));
  }
}

/* Plain loops over sixteen sums, which the compiler vectorises. The order within each lane is fixed. */
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

const dk_kernel DK_TABLE = {
    .scan = scan,
    .widen = widen,
    .mask = mask,
    .smooth = smooth,
    .maximum = maximum,
    .find = find,
    .count = count,
    .gather = gather,
    .mass = mass,
    .weights = weights,
    .weight = weight,
    .split = split,
    .tally = tally,
    .narrow = narrow,
    .sum = sum,
    .keys = keys,
    .bins = bins,
    .moments = moments,
};
