/* Sixteen lanes in four registers: see lanes.h. */
#ifndef DK_LANES_NEON_H
#define DK_LANES_NEON_H

#include <arm_neon.h>

typedef struct dk_f {
  float32x4_t quarter[4];
} dk_f;
typedef struct dk_u {
  uint32x4_t quarter[4];
} dk_u;
typedef dk_u dk_m; /* all bits of a lane */
typedef struct dk_h {
  int16x8_t quarter[4];
} dk_h;
typedef struct dk_w {
  uint64x2_t eighth[8];
} dk_w;

#define DK_QUARTERS(type, expression)                                                                                  \
  type result;                                                                                                         \
  for (int q = 0; q < 4; q++)                                                                                          \
    result.quarter[q] = (expression);                                                                                  \
  return result
#define DK_EIGHTHS(expression)                                                                                         \
  dk_w result;                                                                                                         \
  for (int e = 0; e < 8; e++)                                                                                          \
    result.eighth[e] = (expression);                                                                                   \
  return result

/* Bytes have no alignment to keep. */
DK_INLINE uint32x4_t neon_words(const void *p, int q) {
  return vreinterpretq_u32_u8(vld1q_u8((const uint8_t *)p + 16 * q));
}
DK_INLINE uint16x4_t neon_halves(const void *p, int q) {
  return vreinterpret_u16_u8(vld1_u8((const uint8_t *)p + 8 * q));
}

DK_INLINE dk_f f_load(const void *p) { DK_QUARTERS(dk_f, vreinterpretq_f32_u32(neon_words(p, q))); }
DK_INLINE dk_f f_load_f16(const void *p) { DK_QUARTERS(dk_f, vcvt_f32_f16(vreinterpret_f16_u16(neon_halves(p, q)))); }
DK_INLINE dk_f f_load_bf16(const void *p) {
  DK_QUARTERS(dk_f, vreinterpretq_f32_u32(vshll_n_u16(neon_halves(p, q), 16)));
}
DK_INLINE void f_load_coded(const void *group, const void *table, int pair, dk_f weights[2]) {
  const uint8_t *bytes = group;
  const uint8x16_t upper = vld1q_u8(table);
  for (int half = 0; half < 2; half++) { /* outputs 0 to 3 and 8 to 11, then 4 to 7 and 12 to 15 */
    uint8x16_t low = vld1q_u8(bytes + 32 * pair + 16 * half), packed = vld1q_u8(bytes + 64 + 16 * half);
    uint8x16_t numbers = pair == 0 ? vandq_u8(packed, vdupq_n_u8(15)) : vshrq_n_u8(packed, 4);
    uint8x16_t high = vqtbl1q_u8(upper, numbers);
    /* Of each output: its weight of the first input, then of the second. */
    uint32x4_t both[2] = {vreinterpretq_u32_u8(vzip1q_u8(low, high)), vreinterpretq_u32_u8(vzip2q_u8(low, high))};
    for (int i = 0; i < 2; i++) {
      weights[0].quarter[2 * i + half] = vreinterpretq_f32_u32(vshlq_n_u32(both[i], 16));
      weights[1].quarter[2 * i + half] = vreinterpretq_f32_u32(vandq_u32(both[i], vdupq_n_u32(0xFFFF0000u)));
    }
  }
}
DK_INLINE void f_store(void *p, dk_f a) {
  for (int q = 0; q < 4; q++)
    vst1q_u8((uint8_t *)p + 16 * q, vreinterpretq_u8_f32(a.quarter[q]));
}
DK_INLINE dk_f f_set(float a) { DK_QUARTERS(dk_f, vdupq_n_f32(a)); }
DK_INLINE dk_f f_add(dk_f a, dk_f b) { DK_QUARTERS(dk_f, vaddq_f32(a.quarter[q], b.quarter[q])); }
DK_INLINE dk_f f_sub(dk_f a, dk_f b) { DK_QUARTERS(dk_f, vsubq_f32(a.quarter[q], b.quarter[q])); }
DK_INLINE dk_f f_mul(dk_f a, dk_f b) { DK_QUARTERS(dk_f, vmulq_f32(a.quarter[q], b.quarter[q])); }
DK_INLINE dk_f f_fma(dk_f a, dk_f b, dk_f c) { DK_QUARTERS(dk_f, vfmaq_f32(c.quarter[q], a.quarter[q], b.quarter[q])); }
DK_INLINE dk_f f_fms(dk_f a, dk_f b, dk_f c) {
  DK_QUARTERS(dk_f, vfmaq_f32(vnegq_f32(c.quarter[q]), a.quarter[q], b.quarter[q]));
}
/* Of two zeros this may take the other one than the rest does, as the order of a fold may; nothing depends on it. */
DK_INLINE dk_f f_max(dk_f a, dk_f b) { DK_QUARTERS(dk_f, vmaxq_f32(a.quarter[q], b.quarter[q])); }
DK_INLINE dk_m f_gt(dk_f a, dk_f b) { DK_QUARTERS(dk_m, vcgtq_f32(a.quarter[q], b.quarter[q])); }
DK_INLINE dk_m f_eq(dk_f a, dk_f b) { DK_QUARTERS(dk_m, vceqq_f32(a.quarter[q], b.quarter[q])); }
DK_INLINE dk_m f_ge(dk_f a, dk_f b) { DK_QUARTERS(dk_m, vcgeq_f32(a.quarter[q], b.quarter[q])); }
DK_INLINE dk_m f_unordered(dk_f a, dk_f b) {
  DK_QUARTERS(dk_m, vmvnq_u32(vandq_u32(vceqq_f32(a.quarter[q], a.quarter[q]), vceqq_f32(b.quarter[q], b.quarter[q]))));
}
DK_INLINE dk_f f_select(dk_m m, dk_f yes, dk_f no) {
  DK_QUARTERS(dk_f, vbslq_f32(m.quarter[q], yes.quarter[q], no.quarter[q]));
}
DK_INLINE dk_f f_hold(dk_f a) { return a; } /* no arithmetic instruction reads memory */
DK_INLINE float32x4_t neon_fold_four(const dk_f *rows) {
  float32x4_t top[4];
  for (int i = 0; i < 4; i++)
    top[i] =
        vmaxq_f32(vmaxq_f32(rows[i].quarter[0], rows[i].quarter[1]), vmaxq_f32(rows[i].quarter[2], rows[i].quarter[3]));
  return vpmaxq_f32(vpmaxq_f32(top[0], top[1]), vpmaxq_f32(top[2], top[3]));
}
DK_INLINE dk_f f_fold_max_each(const dk_f rows[16]) { DK_QUARTERS(dk_f, neon_fold_four(rows + 4 * q)); }
DK_INLINE float f_fold_max(dk_f a) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.quarter[0], a.quarter[1]), vmaxq_f32(a.quarter[2], a.quarter[3])));
}
DK_INLINE dk_u f_bits(dk_f a) { DK_QUARTERS(dk_u, vreinterpretq_u32_f32(a.quarter[q])); }
DK_INLINE dk_f u_float(dk_u a) { DK_QUARTERS(dk_f, vreinterpretq_f32_u32(a.quarter[q])); }
DK_INLINE dk_u u_set(uint32_t a) { DK_QUARTERS(dk_u, vdupq_n_u32(a)); }
DK_INLINE dk_u u_add(dk_u a, dk_u b) { DK_QUARTERS(dk_u, vaddq_u32(a.quarter[q], b.quarter[q])); }
DK_INLINE dk_u u_sub(dk_u a, dk_u b) { DK_QUARTERS(dk_u, vsubq_u32(a.quarter[q], b.quarter[q])); }
DK_INLINE dk_u u_shift_23(dk_u a) { DK_QUARTERS(dk_u, vshlq_n_u32(a.quarter[q], 23)); }
DK_INLINE dk_u u_where(dk_m m, dk_u a) { DK_QUARTERS(dk_u, vandq_u32(m.quarter[q], a.quarter[q])); }
/* a + 1 where m is set, all bits of which are -1, otherwise a */
DK_INLINE dk_u u_count(dk_u a, dk_m m) { DK_QUARTERS(dk_u, vsubq_u32(a.quarter[q], m.quarter[q])); }
DK_INLINE uint32_t u_fold_sum(dk_u a) {
  return vaddvq_u32(vaddq_u32(vaddq_u32(a.quarter[0], a.quarter[1]), vaddq_u32(a.quarter[2], a.quarter[3])));
}
DK_INLINE dk_u u_or(dk_u a, dk_u b) { DK_QUARTERS(dk_u, vorrq_u32(a.quarter[q], b.quarter[q])); }
DK_INLINE dk_u u_xor(dk_u a, dk_u b) { DK_QUARTERS(dk_u, veorq_u32(a.quarter[q], b.quarter[q])); }
DK_INLINE dk_u u_sign_fill(dk_u a) {
  DK_QUARTERS(dk_u, vreinterpretq_u32_s32(vshrq_n_s32(vreinterpretq_s32_u32(a.quarter[q]), 31)));
}
DK_INLINE dk_u u_load(const void *p) { DK_QUARTERS(dk_u, neon_words(p, q)); }
DK_INLINE void u_store(uint32_t *p, dk_u a) {
  for (int q = 0; q < 4; q++)
    vst1q_u32(p + 4 * q, a.quarter[q]);
}
DK_INLINE dk_u u_count_from(int32_t first) {
  static const uint32_t count[4] = {0, 1, 2, 3};
  DK_QUARTERS(dk_u, vaddq_u32(vdupq_n_u32((uint32_t)(first + 4 * q)), vld1q_u32(count)));
}
DK_INLINE uint32_t m_bits(dk_m m) {
  static const uint16_t bit[8] = {1, 2, 4, 8, 16, 32, 64, 128};
  uint16x8_t low = vcombine_u16(vmovn_u32(m.quarter[0]), vmovn_u32(m.quarter[1]));
  uint16x8_t high = vcombine_u16(vmovn_u32(m.quarter[2]), vmovn_u32(m.quarter[3]));
  return vaddvq_u16(vandq_u16(low, vld1q_u16(bit))) | (uint32_t)vaddvq_u16(vandq_u16(high, vld1q_u16(bit))) << 8;
}
DK_INLINE dk_m m_from_bits(uint32_t bits) {
  static const uint32_t bit[4] = {1, 2, 4, 8};
  DK_QUARTERS(dk_m, vtstq_u32(vdupq_n_u32(bits >> 4 * q), vld1q_u32(bit)));
}
DK_INLINE dk_m m_or(dk_m a, dk_m b) { return u_or(a, b); }
DK_INLINE dk_m m_and(dk_m a, dk_m b) { DK_QUARTERS(dk_m, vandq_u32(a.quarter[q], b.quarter[q])); }
DK_INLINE dk_m m_and_not(dk_m a, dk_m b) { DK_QUARTERS(dk_m, vbicq_u32(a.quarter[q], b.quarter[q])); }

/* Two lanes as signed 64-bit integers; of a truth value, all bits of them. */
DK_INLINE int64x2_t neon_wide(dk_u a, int e) {
  uint32x2_t pair = e % 2 ? vget_high_u32(a.quarter[e / 2]) : vget_low_u32(a.quarter[e / 2]);
  return vmovl_s32(vreinterpret_s32_u32(pair));
}
DK_INLINE dk_w w_zero(void) { DK_EIGHTHS(vdupq_n_u64(0)); }
/* high * 2^22 + low, both signed */
DK_INLINE dk_w w_join(dk_u high, dk_u low) {
  DK_EIGHTHS(vreinterpretq_u64_s64(vaddq_s64(vshlq_n_s64(neon_wide(high, e), 22), neon_wide(low, e))));
}
DK_INLINE dk_w w_add_where(dk_w a, dk_m m, dk_w b) {
  DK_EIGHTHS(vaddq_u64(a.eighth[e], vandq_u64(b.eighth[e], vreinterpretq_u64_s64(neon_wide(m, e)))));
}
DK_INLINE uint64_t w_fold_sum(dk_w a) {
  for (int width = 4; width > 0; width /= 2)
    for (int e = 0; e < width; e++)
      a.eighth[e] = vaddq_u64(a.eighth[e], a.eighth[e + width]);
  return vaddvq_u64(a.eighth[0]);
}
DK_INLINE dk_w w_load(const uint64_t *p) { DK_EIGHTHS(vld1q_u64(p + 2 * e)); }
DK_INLINE void w_store(uint64_t *p, dk_w a) {
  for (int e = 0; e < 8; e++)
    vst1q_u64(p + 2 * e, a.eighth[e]);
}

DK_INLINE dk_h h_load(const void *p) { DK_QUARTERS(dk_h, vreinterpretq_s16_u32(neon_words(p, q))); }
/* All bits but the sign of negatives. */
DK_INLINE int16x8_t neon_magnitude_fill(int16x8_t a) {
  return vreinterpretq_s16_u16(vshrq_n_u16(vreinterpretq_u16_s16(vshrq_n_s16(a, 15)), 1));
}
DK_INLINE dk_h h_ordered(dk_h a) { DK_QUARTERS(dk_h, veorq_s16(a.quarter[q], neon_magnitude_fill(a.quarter[q]))); }
DK_INLINE dk_h h_min(dk_h a, dk_h b) { DK_QUARTERS(dk_h, vminq_s16(a.quarter[q], b.quarter[q])); }
DK_INLINE dk_h h_max(dk_h a, dk_h b) { DK_QUARTERS(dk_h, vmaxq_s16(a.quarter[q], b.quarter[q])); }
DK_INLINE int16_t h_fold_min(dk_h a) {
  return vminvq_s16(vminq_s16(vminq_s16(a.quarter[0], a.quarter[1]), vminq_s16(a.quarter[2], a.quarter[3])));
}
DK_INLINE int16_t h_fold_max(dk_h a) {
  return vmaxvq_s16(vmaxq_s16(vmaxq_s16(a.quarter[0], a.quarter[1]), vmaxq_s16(a.quarter[2], a.quarter[3])));
}

/* For the forward pass. The sum of the lanes is (i, i + 8), then (i, i + 4), (i, i + 2), (i, i + 1) on every set. */
DK_INLINE dk_f f_div(dk_f a, dk_f b) { DK_QUARTERS(dk_f, vdivq_f32(a.quarter[q], b.quarter[q])); }
DK_INLINE dk_f f_sqrt(dk_f a) { DK_QUARTERS(dk_f, vsqrtq_f32(a.quarter[q])); }
DK_INLINE dk_u u_and(dk_u a, dk_u b) { DK_QUARTERS(dk_u, vandq_u32(a.quarter[q], b.quarter[q])); }
DK_INLINE float f_fold_sum(dk_f a) {
  float32x4_t low = vaddq_f32(a.quarter[0], a.quarter[2]), high = vaddq_f32(a.quarter[1], a.quarter[3]);
  float32x4_t four = vaddq_f32(low, high);
  float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
#undef DK_EIGHTHS
#define DK_PLAIN_COMPRESS

/* ---- Quantised matrix multiplication: see lanes.h ---- */

typedef struct dk_q {
  uint8x16_t quarter[4]; /* four outputs each */
} dk_q;
typedef int8x16_t dk_a;
typedef dk_q dk_s;

DK_INLINE dk_q q_load(const void *p) { DK_QUARTERS(dk_q, vld1q_u8((const uint8_t *)p + 16 * q)); }
DK_INLINE dk_q q_low(dk_q a) { DK_QUARTERS(dk_q, vandq_u8(a.quarter[q], vdupq_n_u8(15))); }
DK_INLINE dk_q q_high(dk_q a) { DK_QUARTERS(dk_q, vshrq_n_u8(a.quarter[q], 4)); }
DK_INLINE dk_q q_merge(dk_q low, dk_q bits, int left, int mask) {
  DK_QUARTERS(dk_q, vorrq_u8(low.quarter[q],
                             vandq_u8(vshlq_u8(bits.quarter[q], vdupq_n_s8((int8_t)left)), vdupq_n_u8((uint8_t)mask))));
}
DK_INLINE dk_a a_load(const void *p) {
  int32_t four;
  memcpy(&four, p, sizeof four);
  return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
DK_INLINE dk_u u_shift_left(dk_u a, int n) { DK_QUARTERS(dk_u, vshlq_u32(a.quarter[q], vdupq_n_s32(n))); }
#define DK_SIGNED_OFFSET 0
DK_INLINE dk_s s_weights(dk_q w) { return w; }
#if defined(__ARM_FEATURE_DOTPROD)
typedef dk_u dk_n;
DK_INLINE dk_n n_zero(void) { return u_set(0); }
DK_INLINE dk_n n_step(dk_n n, dk_q w, dk_a a) {
  DK_QUARTERS(dk_n, vreinterpretq_u32_s32(
                        vdotq_s32(vreinterpretq_s32_u32(n.quarter[q]), vreinterpretq_s8_u8(w.quarter[q]), a)));
}
DK_INLINE dk_u n_wide(dk_n n) { return n; }
DK_INLINE dk_u s_step(dk_u total, dk_s w, dk_a a) { return n_step(total, w, a); }
#else
typedef struct dk_n {
  int16x8_t eighth[8]; /* sums over the steps, of two outputs each: four products per output */
} dk_n;
DK_INLINE dk_n n_zero(void) {
  dk_n result;
  for (int e = 0; e < 8; e++)
    result.eighth[e] = vdupq_n_s16(0);
  return result;
}
DK_INLINE dk_n n_step(dk_n n, dk_q w, dk_a a) {
  for (int q = 0; q < 4; q++) {
    int8x16_t weights = vreinterpretq_s8_u8(w.quarter[q]);
    n.eighth[2 * q] = vmlal_s8(n.eighth[2 * q], vget_low_s8(weights), vget_low_s8(a));
    n.eighth[2 * q + 1] = vmlal_high_s8(n.eighth[2 * q + 1], weights, a);
  }
  return n;
}
DK_INLINE dk_u n_wide(dk_n n) {
  DK_QUARTERS(dk_u, vreinterpretq_u32_s32(vpaddq_s32(vpaddlq_s16(n.eighth[2 * q]), vpaddlq_s16(n.eighth[2 * q + 1]))));
}
DK_INLINE dk_u s_step(dk_u total, dk_s w, dk_a a) { return u_add(total, n_wide(n_step(n_zero(), w, a))); }
#endif
DK_INLINE dk_f u_to_float(dk_u a) { DK_QUARTERS(dk_f, vcvtq_f32_s32(vreinterpretq_s32_u32(a.quarter[q]))); }
DK_INLINE dk_f f_load_u8(const void *p) {
  uint8x16_t bytes = vld1q_u8((const uint8_t *)p);
  uint16x8_t wide[2] = {vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes)};
  DK_QUARTERS(dk_f, vcvtq_f32_u32(q % 2 ? vmovl_high_u16(wide[q / 2]) : vmovl_u16(vget_low_u16(wide[q / 2]))));
}
DK_INLINE dk_f f_load_s8(const void *p) {
  int8x16_t bytes = vreinterpretq_s8_u8(vld1q_u8((const uint8_t *)p));
  int16x8_t wide[2] = {vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes)};
  DK_QUARTERS(dk_f, vcvtq_f32_s32(q % 2 ? vmovl_high_s16(wide[q / 2]) : vmovl_s16(vget_low_s16(wide[q / 2]))));
}
DK_INLINE dk_u u_max(dk_u a, dk_u b) { DK_QUARTERS(dk_u, vmaxq_u32(a.quarter[q], b.quarter[q])); }
DK_INLINE uint32_t u_fold_max(dk_u a) {
  return vmaxvq_u32(vmaxq_u32(vmaxq_u32(a.quarter[0], a.quarter[1]), vmaxq_u32(a.quarter[2], a.quarter[3])));
}
DK_INLINE void u_store_low_bytes(void *p, dk_u a) {
  uint16x8_t first = vcombine_u16(vmovn_u32(a.quarter[0]), vmovn_u32(a.quarter[1]));
  uint16x8_t second = vcombine_u16(vmovn_u32(a.quarter[2]), vmovn_u32(a.quarter[3]));
  vst1q_u8((uint8_t *)p, vcombine_u8(vmovn_u16(first), vmovn_u16(second)));
}
#undef DK_QUARTERS

#endif
