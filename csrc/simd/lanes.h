/* Operations on sixteen lanes, the same for every instruction set. Only this file, lanes_<set>.h and dispatch.c know
 * instruction sets.
 *
 *   dk_f    16 float32      dk_u    16 uint32      dk_m    16 truth values
 *   dk_h    32 int16        dk_w    16 uint64
 *
 * The including file defines exactly one of DK_ISA_*. Every operation is exact or correctly rounded, so the sets agree
 * bit for bit. Loads and stores take any alignment. f_hold(a) is a, kept in a register: where an instruction can read
 * memory, compilers would otherwise load a value again for each use. f_fold_max_each(rows) has the maximum of rows[i]
 * in lane i. f_load_coded(group, table, pair, weights) decodes two of the four inputs of a group, for 16 outputs: see
 * coded_bfloat16.h. */
#ifndef DK_LANES_H
#define DK_LANES_H

#include <stdint.h>
#include <string.h>

#include "simd/coded_bfloat16.h"
#include "simd/strict_math.h"

#if defined(DK_WITHOUT_INLINING) /* for instrumented and emulated builds, which take minutes otherwise */
#define DK_INLINE static inline
#else
#define DK_INLINE static inline __attribute__((always_inline))
#endif

#if defined(DK_ISA_AVX512)
#include "simd/lanes_avx512.h"
#elif defined(DK_ISA_AVX2)
#include "simd/lanes_avx2.h"
#elif defined(DK_ISA_NEON)
#include "simd/lanes_neon.h"
#elif defined(DK_ISA_PORTABLE)
#include "simd/lanes_portable.h"
#else
#error "define one of DK_ISA_* before including lanes.h"
#endif

/* Return m without the lanes in which a or b is NaN. */
#ifndef DK_MASKED_COMPARE
DK_INLINE dk_m m_ordered(dk_m m, dk_f a, dk_f b) { return m_and_not(m, f_unordered(a, b)); }
#endif

#ifndef DK_MASKED_ADD
DK_INLINE dk_u u_add_where(dk_u a, dk_m m, dk_u b) { return u_add(a, u_where(m, b)); }
#endif

/* Return a * 2^n where m is set, otherwise 0, whatever a and n are there. n is also in the low bits of `shifted`, and
 * a * 2^n is normal. */
#ifndef DK_SCALED
DK_INLINE dk_f f_power_of_two(dk_m m, dk_f a, dk_f n, dk_f shifted) {
  (void)n;
  return u_float(u_where(m, u_add(f_bits(a), u_shift_23(f_bits(shifted)))));
}
#endif

/* For sets without a better instruction. An integer sum does not depend on its order. */
#ifdef DK_PLAIN_SUM
DK_INLINE uint64_t w_fold_sum(dk_w a) {
  uint64_t lanes[16], total = 0;
  w_store(lanes, a);
  for (int i = 0; i < 16; i++)
    total += lanes[i];
  return total;
}
#endif

/* Store the lanes where m is set, in order, and return their number; p needs room for all 16. */
#ifdef DK_PLAIN_COMPRESS
DK_INLINE int32_t f_compress(float *p, dk_f a, dk_m m) {
  float lanes[16];
  int32_t n = 0;
  f_store(lanes, a);
  for (uint32_t bits = m_bits(m); bits != 0; bits &= bits - 1)
    p[n++] = lanes[__builtin_ctz(bits)];
  return n;
}
DK_INLINE void u_compress(int32_t *p, dk_u a, dk_m m) {
  uint32_t lanes[16];
  u_store(lanes, a);
  for (uint32_t bits = m_bits(m); bits != 0; bits &= bits - 1)
    *p++ = (int32_t)lanes[__builtin_ctz(bits)];
}
DK_INLINE void w_compress(uint64_t *p, dk_w a, dk_m m) {
  uint64_t lanes[16];
  w_store(lanes, a);
  for (uint32_t bits = m_bits(m); bits != 0; bits &= bits - 1)
    *p++ = lanes[__builtin_ctz(bits)];
}
#endif

/* ---- Quantised matrix multiplication ----
 *
 *   dk_q    64 bytes: four weights of each of 16 outputs, unsigned (packed nibbles before q_low and q_high)
 *   dk_s    the same, int8, as s_step takes them
 *   dk_a    four int8 inputs, |a| <= 127, for all outputs
 *   dk_n    16 sums of products, perhaps narrower than 32 bits; n_wide(n) are 16 int32
 *
 * n_step(n, w, a) adds, for each output, the products of four weights and four inputs. Before n_wide, at most 8 steps
 * with weights below 16, 4 with weights below 32, 2 with weights below 64: an int16 that holds two products per step
 * then has at most 8 * 2 * 15 * 127 = 30,480, 4 * 2 * 31 * 127 = 31,496 or 2 * 2 * 63 * 127 = 32,004. s_step(total,
 * s_weights(w), a) adds them plus DK_SIGNED_OFFSET times the sum of the inputs to int32. q_merge(low, bits, left, mask)
 * is low | ((bits << left) & mask) per byte; a negative `left` shifts right. */

#endif
