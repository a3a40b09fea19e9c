/* Sixteen lanes in one register: see lanes.h. */
#ifndef DK_LANES_AVX512_H
#define DK_LANES_AVX512_H

#include "simd/coded_x86.h"

#include <immintrin.h>

typedef __m512 dk_f;
typedef __m512i dk_u;
typedef __m512i dk_h;
typedef __mmask16 dk_m;
typedef struct dk_w {
  __m512i half[2];
} dk_w;

DK_INLINE dk_f f_load(const void *p) { return _mm512_loadu_ps(p); }
DK_INLINE dk_f f_load_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i_u *)p)); }
DK_INLINE dk_f f_load_bf16(const void *p) {
  __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i_u *)p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
DK_INLINE void f_load_coded(const void *group, const void *table, int pair, dk_f weights[2]) {
  const dk_coded_pair halves = load_coded_pair(group, table, pair);
  const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(halves.first), halves.last, 1);
  weights[0] = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
  weights[1] = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(-65536)));
}
DK_INLINE void f_store(void *p, dk_f a) { _mm512_storeu_ps(p, a); }
DK_INLINE dk_f f_set(float a) { return _mm512_set1_ps(a); }
DK_INLINE dk_f f_add(dk_f a, dk_f b) { return _mm512_add_ps(a, b); }
DK_INLINE dk_f f_sub(dk_f a, dk_f b) { return _mm512_sub_ps(a, b); }
DK_INLINE dk_f f_mul(dk_f a, dk_f b) { return _mm512_mul_ps(a, b); }
DK_INLINE dk_f f_fma(dk_f a, dk_f b, dk_f c) { return _mm512_fmadd_ps(a, b, c); }
DK_INLINE dk_f f_fms(dk_f a, dk_f b, dk_f c) { return _mm512_fmsub_ps(a, b, c); }
DK_INLINE dk_f f_max(dk_f a, dk_f b) { return _mm512_max_ps(a, b); }
DK_INLINE dk_m f_gt(dk_f a, dk_f b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
DK_INLINE dk_m f_eq(dk_f a, dk_f b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
DK_INLINE dk_m f_ge(dk_f a, dk_f b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
DK_INLINE dk_m f_unordered(dk_f a, dk_f b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
DK_INLINE dk_f f_select(dk_m m, dk_f yes, dk_f no) { return _mm512_mask_blend_ps(m, no, yes); }
#if defined(__AVX512F__) /* not where a test emulates the set */
#define DK_IN_REGISTER(a) __asm__("" : "+v"(a))
#else
#define DK_IN_REGISTER(a) (void)0
#endif
DK_INLINE dk_f f_hold(dk_f a) {
  DK_IN_REGISTER(a);
  return a;
}
#define DK_MASKED_COMPARE
DK_INLINE dk_m m_ordered(dk_m m, dk_f a, dk_f b) { return _mm512_mask_cmp_ps_mask(m, a, b, _CMP_ORD_Q); }
DK_INLINE float f_fold_max(dk_f a) { return _mm512_reduce_max_ps(a); }
/* Each step folds two vectors into one: by halves, quarters, pairs and single lanes. */
DK_INLINE dk_f f_fold_max_each(const dk_f rows[16]) {
  dk_f halves[8], quarters[4], pairs[2];
  for (int i = 0; i < 8; i++) { /* rows r and r + 4 */
    dk_f a = rows[i + (i & 4)], b = rows[i + (i & 4) + 4];
    halves[i] = f_max(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
  }
  for (int i = 0; i < 4; i++) { /* r and r + 8 */
    dk_f a = halves[i], b = halves[i + 4];
    quarters[i] = f_max(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
  }
  for (int i = 0; i < 2; i++) { /* r and r + 1 */
    dk_f a = quarters[2 * i], b = quarters[2 * i + 1];
    pairs[i] = f_max(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));
  }
  return f_max(_mm512_shuffle_ps(pairs[0], pairs[1], 0x88), _mm512_shuffle_ps(pairs[0], pairs[1], 0xDD));
}
DK_INLINE int32_t f_compress(float *p, dk_f a, dk_m m) {
  _mm512_storeu_ps(p, _mm512_maskz_compress_ps(m, a));
  return __builtin_popcount(m);
}
DK_INLINE dk_u f_bits(dk_f a) { return _mm512_castps_si512(a); }
DK_INLINE dk_f u_float(dk_u a) { return _mm512_castsi512_ps(a); }
DK_INLINE dk_u u_set(uint32_t a) { return _mm512_set1_epi32((int)a); }
DK_INLINE dk_u u_add(dk_u a, dk_u b) { return _mm512_add_epi32(a, b); }
DK_INLINE dk_u u_sub(dk_u a, dk_u b) { return _mm512_sub_epi32(a, b); }
DK_INLINE dk_u u_where(dk_m m, dk_u a) { return _mm512_maskz_mov_epi32(m, a); }
#define DK_SCALED
DK_INLINE dk_f f_power_of_two(dk_m m, dk_f a, dk_f n, dk_f shifted) {
  (void)shifted;
  return _mm512_maskz_scalef_ps(m, a, n);
}
#define DK_MASKED_ADD
DK_INLINE dk_u u_add_where(dk_u a, dk_m m, dk_u b) { return _mm512_mask_add_epi32(a, m, a, b); }
/* a + 1 where m is set, otherwise a */
DK_INLINE dk_u u_count(dk_u a, dk_m m) { return _mm512_mask_add_epi32(a, m, a, _mm512_set1_epi32(1)); }
/* By hand: gcc's own _mm512_reduce_add_epi32 adds signed integers in C, where an overflow is undefined. */
DK_INLINE uint32_t u_fold_sum(dk_u a) {
  __m256i eight = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  return (uint32_t)_mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xB1)));
}
DK_INLINE dk_u u_or(dk_u a, dk_u b) { return _mm512_or_si512(a, b); }
DK_INLINE dk_u u_xor(dk_u a, dk_u b) { return _mm512_xor_si512(a, b); }
DK_INLINE dk_u u_sign_fill(dk_u a) { return _mm512_srai_epi32(a, 31); }
DK_INLINE void u_store(uint32_t *p, dk_u a) { _mm512_storeu_si512(p, a); }
DK_INLINE dk_u u_load(const void *p) { return _mm512_loadu_si512(p); }
DK_INLINE dk_u u_count_from(int32_t first) {
  const __m512i count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_add_epi32(_mm512_set1_epi32(first), count);
}
DK_INLINE dk_m m_and_not(dk_m a, dk_m b) { return (dk_m)(a & ~b); }
DK_INLINE void u_compress(int32_t *p, dk_u a, dk_m m) { _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(m, a)); }
DK_INLINE uint32_t m_bits(dk_m m) { return m; }
DK_INLINE dk_m m_from_bits(uint32_t bits) { return (dk_m)bits; }
DK_INLINE dk_m m_or(dk_m a, dk_m b) { return (dk_m)(a | b); }
DK_INLINE dk_m m_and(dk_m a, dk_m b) { return (dk_m)(a & b); }
DK_INLINE dk_w w_zero(void) { return (dk_w){{_mm512_setzero_si512(), _mm512_setzero_si512()}}; }
/* high * 2^22 + low, both signed */
DK_INLINE dk_w w_join(dk_u high, dk_u low) {
  __m512i h0 = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(high));
  __m512i h1 = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(high, 1));
  __m512i l0 = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(low));
  __m512i l1 = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(low, 1));
  return (dk_w){{_mm512_add_epi64(_mm512_slli_epi64(h0, 22), l0), _mm512_add_epi64(_mm512_slli_epi64(h1, 22), l1)}};
}
DK_INLINE dk_w w_add_where(dk_w a, dk_m m, dk_w b) {
  return (dk_w){{_mm512_mask_add_epi64(a.half[0], (__mmask8)m, a.half[0], b.half[0]),
                 _mm512_mask_add_epi64(a.half[1], (__mmask8)(m >> 8), a.half[1], b.half[1])}};
}
DK_INLINE uint64_t w_fold_sum(dk_w a) {
  return (uint64_t)_mm512_reduce_add_epi64(_mm512_add_epi64(a.half[0], a.half[1]));
}
DK_INLINE dk_w w_load(const uint64_t *p) { return (dk_w){{_mm512_loadu_si512(p), _mm512_loadu_si512(p + 8)}}; }
DK_INLINE void w_compress(uint64_t *p, dk_w a, dk_m m) {
  _mm512_storeu_si512(p, _mm512_maskz_compress_epi64((__mmask8)m, a.half[0]));
  _mm512_storeu_si512(p + __builtin_popcount(m & 0xFF), _mm512_maskz_compress_epi64((__mmask8)(m >> 8), a.half[1]));
}
DK_INLINE void w_store(uint64_t *p, dk_w a) {
  _mm512_storeu_si512(p, a.half[0]);
  _mm512_storeu_si512(p + 8, a.half[1]);
}

DK_INLINE dk_h h_load(const void *p) { return _mm512_loadu_si512(p); }
DK_INLINE dk_h h_ordered(dk_h a) { return _mm512_xor_si512(a, _mm512_srli_epi16(_mm512_srai_epi16(a, 15), 1)); }
DK_INLINE dk_h h_min(dk_h a, dk_h b) { return _mm512_min_epi16(a, b); }
DK_INLINE dk_h h_max(dk_h a, dk_h b) { return _mm512_max_epi16(a, b); }
/* phminposuw finds the least of eight unsigned. */
DK_INLINE int16_t h_fold_min(dk_h a) {
  __m256i half = _mm256_min_epi16(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
  __m128i eight = _mm_min_epi16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  __m128i flipped = _mm_xor_si128(eight, _mm_set1_epi16(INT16_MIN));
  return (int16_t)(_mm_extract_epi16(_mm_minpos_epu16(flipped), 0) ^ 0x8000);
}
DK_INLINE int16_t h_fold_max(dk_h a) { return (int16_t)~h_fold_min(_mm512_xor_si512(a, _mm512_set1_epi16(-1))); }

/* For the forward pass. The sum of the lanes is (i, i + 8), then (i, i + 4), (i, i + 2), (i, i + 1) on every set. */
DK_INLINE dk_f f_div(dk_f a, dk_f b) { return _mm512_div_ps(a, b); }
DK_INLINE dk_f f_sqrt(dk_f a) { return _mm512_sqrt_ps(a); }
DK_INLINE dk_u u_and(dk_u a, dk_u b) { return _mm512_and_si512(a, b); }
DK_INLINE float f_fold_sum(dk_f a) {
  __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* ---- Quantised matrix multiplication: see lanes.h ---- */

typedef __m512i dk_q;
typedef __m512i dk_a;
typedef __m512i dk_n; /* VNNI: 16 int32. Otherwise 32 int16, each the sum of two of the four products per step */

DK_INLINE dk_q q_load(const void *p) { return _mm512_loadu_si512(p); }
DK_INLINE dk_q q_low(dk_q a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
DK_INLINE dk_q q_high(dk_q a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15)); }
/* Shifts of 16 bits: the mask removes what came from the neighbouring byte. */
DK_INLINE dk_q q_merge(dk_q low, dk_q bits, int left, int mask) {
  __m512i shifted = left < 0 ? _mm512_srli_epi16(bits, (unsigned)-left) : _mm512_slli_epi16(bits, (unsigned)left);
  return _mm512_or_si512(low, _mm512_and_si512(shifted, _mm512_set1_epi8((char)mask)));
}
DK_INLINE dk_a a_load(const void *p) {
  int32_t four;
  memcpy(&four, p, sizeof four);
  return _mm512_set1_epi32(four);
}
DK_INLINE dk_u u_shift_left(dk_u a, int n) { return _mm512_slli_epi32(a, (unsigned)n); }
DK_INLINE dk_n n_zero(void) { return _mm512_setzero_si512(); }
#if defined(DK_VNNI)
typedef __m512i dk_s;
DK_INLINE dk_n n_step(dk_n n, dk_q w, dk_a a) { return _mm512_dpbusd_epi32(n, w, a); }
DK_INLINE dk_u n_wide(dk_n n) { return n; }
#define DK_SIGNED_OFFSET 128
DK_INLINE dk_s s_weights(dk_q w) { return _mm512_xor_si512(w, _mm512_set1_epi8((char)0x80)); }
DK_INLINE dk_u s_step(dk_u total, dk_s w, dk_a a) { return _mm512_dpbusd_epi32(total, w, a); }
#else
typedef struct dk_s {
  __m512i magnitude;
  __mmask64 negative;
} dk_s;
/* Compilers turn a chain of integer additions into a tree, which has more terms at once than there are registers. */
DK_INLINE __m512i chain(__m512i a) {
  DK_IN_REGISTER(a);
  return a;
}
DK_INLINE dk_n n_step(dk_n n, dk_q w, dk_a a) { return chain(_mm512_add_epi16(n, _mm512_maddubs_epi16(w, a))); }
DK_INLINE dk_u n_wide(dk_n n) { return _mm512_madd_epi16(n, _mm512_set1_epi16(1)); }
#define DK_SIGNED_OFFSET 0
DK_INLINE dk_s s_weights(dk_q w) { return (dk_s){_mm512_abs_epi8(w), _mm512_movepi8_mask(w)}; }
DK_INLINE dk_u s_step(dk_u total, dk_s w, dk_a a) {
  __m512i with_sign = _mm512_mask_sub_epi8(a, w.negative, _mm512_setzero_si512(), a);
  return chain(_mm512_add_epi32(total, n_wide(_mm512_maddubs_epi16(w.magnitude, with_sign))));
}
#endif
DK_INLINE dk_f u_to_float(dk_u a) { return _mm512_cvtepi32_ps(a); }
DK_INLINE dk_f f_load_u8(const void *p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i_u *)p)));
}
DK_INLINE dk_f f_load_s8(const void *p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i_u *)p)));
}
DK_INLINE dk_u u_max(dk_u a, dk_u b) { return _mm512_max_epu32(a, b); }
DK_INLINE uint32_t u_fold_max(dk_u a) { return _mm512_reduce_max_epu32(a); }
DK_INLINE void u_store_low_bytes(void *p, dk_u a) { _mm_storeu_si128((__m128i_u *)p, _mm512_cvtepi32_epi8(a)); }

#endif
