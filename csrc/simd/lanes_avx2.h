/* Sixteen lanes in two registers: see lanes.h. */
#ifndef DK_LANES_AVX2_H
#define DK_LANES_AVX2_H

#include "simd/coded_x86.h"

#include <immintrin.h>

typedef struct dk_f {
  __m256 half[2];
} dk_f;
typedef struct dk_u {
  __m256i half[2];
} dk_u;
typedef dk_u dk_h;
typedef dk_f dk_m; /* all bits of a lane */
typedef struct dk_w {
  __m256i quarter[4];
} dk_w;

#define DK_HALVES(type, expression)                                                                                    \
  type result;                                                                                                         \
  for (int h = 0; h < 2; h++)                                                                                          \
    result.half[h] = (expression);                                                                                     \
  return result

DK_INLINE dk_f f_load(const void *p) { DK_HALVES(dk_f, _mm256_loadu_ps((const float *)p + 8 * h)); }
DK_INLINE dk_f f_load_f16(const void *p) {
  DK_HALVES(dk_f, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i_u *)p + h)));
}
DK_INLINE dk_f f_load_bf16(const void *p) {
  DK_HALVES(dk_f, _mm256_castsi256_ps(
                      _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i_u *)p + h)), 16)));
}
DK_INLINE void f_load_coded(const void *group, const void *table, int pair, dk_f weights[2]) {
  const dk_coded_pair both = load_coded_pair(group, table, pair);
  for (int h = 0; h < 2; h++) {
    const __m256i half = h == 0 ? both.first : both.last;
    weights[0].half[h] = _mm256_castsi256_ps(_mm256_slli_epi32(half, 16));
    weights[1].half[h] = _mm256_castsi256_ps(_mm256_and_si256(half, _mm256_set1_epi32(-65536)));
  }
}
DK_INLINE void f_store(void *p, dk_f a) {
  _mm256_storeu_ps((float *)p, a.half[0]);
  _mm256_storeu_ps((float *)p + 8, a.half[1]);
}
DK_INLINE dk_f f_set(float a) { DK_HALVES(dk_f, _mm256_set1_ps(a)); }
DK_INLINE dk_f f_add(dk_f a, dk_f b) { DK_HALVES(dk_f, _mm256_add_ps(a.half[h], b.half[h])); }
DK_INLINE dk_f f_sub(dk_f a, dk_f b) { DK_HALVES(dk_f, _mm256_sub_ps(a.half[h], b.half[h])); }
DK_INLINE dk_f f_mul(dk_f a, dk_f b) { DK_HALVES(dk_f, _mm256_mul_ps(a.half[h], b.half[h])); }
DK_INLINE dk_f f_fma(dk_f a, dk_f b, dk_f c) { DK_HALVES(dk_f, _mm256_fmadd_ps(a.half[h], b.half[h], c.half[h])); }
DK_INLINE dk_f f_fms(dk_f a, dk_f b, dk_f c) { DK_HALVES(dk_f, _mm256_fmsub_ps(a.half[h], b.half[h], c.half[h])); }
DK_INLINE dk_f f_max(dk_f a, dk_f b) { DK_HALVES(dk_f, _mm256_max_ps(a.half[h], b.half[h])); }
DK_INLINE dk_m f_gt(dk_f a, dk_f b) { DK_HALVES(dk_m, _mm256_cmp_ps(a.half[h], b.half[h], _CMP_GT_OQ)); }
DK_INLINE dk_m f_eq(dk_f a, dk_f b) { DK_HALVES(dk_m, _mm256_cmp_ps(a.half[h], b.half[h], _CMP_EQ_OQ)); }
DK_INLINE dk_m f_ge(dk_f a, dk_f b) { DK_HALVES(dk_m, _mm256_cmp_ps(a.half[h], b.half[h], _CMP_GE_OQ)); }
DK_INLINE dk_m f_unordered(dk_f a, dk_f b) { DK_HALVES(dk_m, _mm256_cmp_ps(a.half[h], b.half[h], _CMP_UNORD_Q)); }
DK_INLINE dk_f f_select(dk_m m, dk_f yes, dk_f no) {
  DK_HALVES(dk_f, _mm256_blendv_ps(no.half[h], yes.half[h], m.half[h]));
}
DK_INLINE dk_f f_hold(dk_f a) {
  __asm__("" : "+x"(a.half[0]), "+x"(a.half[1]));
  return a;
}
/* Each step folds two vectors into one: by halves, pairs and single lanes. */
DK_INLINE __m256 fold_max_of_eight(const dk_f *rows) {
  __m256 top[8], quarters[4], pairs[2];
  for (int i = 0; i < 8; i++)
    top[i] = _mm256_max_ps(rows[i].half[0], rows[i].half[1]);
  for (int i = 0; i < 4; i++) /* rows r and r + 4 */
    quarters[i] = _mm256_max_ps(_mm256_permute2f128_ps(top[i], top[i + 4], 0x20),
                                _mm256_permute2f128_ps(top[i], top[i + 4], 0x31));
  for (int i = 0; i < 2; i++) { /* r and r + 1 */
    __m256 a = quarters[2 * i], b = quarters[2 * i + 1];
    pairs[i] = _mm256_max_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xEE));
  }
  return _mm256_max_ps(_mm256_shuffle_ps(pairs[0], pairs[1], 0x88), _mm256_shuffle_ps(pairs[0], pairs[1], 0xDD));
}
DK_INLINE dk_f f_fold_max_each(const dk_f rows[16]) { DK_HALVES(dk_f, fold_max_of_eight(rows + 8 * h)); }
DK_INLINE float f_fold_max(dk_f a) {
  __m256 top = _mm256_max_ps(a.half[0], a.half[1]);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(top), _mm256_extractf128_ps(top, 1));
  __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
DK_INLINE dk_u f_bits(dk_f a) { DK_HALVES(dk_u, _mm256_castps_si256(a.half[h])); }
DK_INLINE dk_f u_float(dk_u a) { DK_HALVES(dk_f, _mm256_castsi256_ps(a.half[h])); }
DK_INLINE dk_u u_set(uint32_t a) { DK_HALVES(dk_u, _mm256_set1_epi32((int)a)); }
DK_INLINE dk_u u_add(dk_u a, dk_u b) { DK_HALVES(dk_u, _mm256_add_epi32(a.half[h], b.half[h])); }
DK_INLINE dk_u u_sub(dk_u a, dk_u b) { DK_HALVES(dk_u, _mm256_sub_epi32(a.half[h], b.half[h])); }
DK_INLINE dk_u u_shift_23(dk_u a) { DK_HALVES(dk_u, _mm256_slli_epi32(a.half[h], 23)); }
DK_INLINE dk_u u_where(dk_m m, dk_u a) { DK_HALVES(dk_u, _mm256_and_si256(_mm256_castps_si256(m.half[h]), a.half[h])); }
/* a + 1 where m is set, all bits of which are -1, otherwise a */
DK_INLINE dk_u u_count(dk_u a, dk_m m) { DK_HALVES(dk_u, _mm256_sub_epi32(a.half[h], _mm256_castps_si256(m.half[h]))); }
DK_INLINE uint32_t u_fold_sum(dk_u a) {
  __m256i eight = _mm256_add_epi32(a.half[0], a.half[1]);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  return (uint32_t)_mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xB1)));
}
DK_INLINE dk_u u_or(dk_u a, dk_u b) { DK_HALVES(dk_u, _mm256_or_si256(a.half[h], b.half[h])); }
DK_INLINE dk_u u_xor(dk_u a, dk_u b) { DK_HALVES(dk_u, _mm256_xor_si256(a.half[h], b.half[h])); }
DK_INLINE dk_u u_sign_fill(dk_u a) { DK_HALVES(dk_u, _mm256_srai_epi32(a.half[h], 31)); }
DK_INLINE void u_store(uint32_t *p, dk_u a) {
  _mm256_storeu_si256((__m256i_u *)p, a.half[0]);
  _mm256_storeu_si256((__m256i_u *)(p + 8), a.half[1]);
}
DK_INLINE dk_m m_and_not(dk_m a, dk_m b) { DK_HALVES(dk_m, _mm256_andnot_ps(b.half[h], a.half[h])); }
DK_INLINE dk_u u_count_from(int32_t first) {
  const __m256i count = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  DK_HALVES(dk_u, _mm256_add_epi32(_mm256_set1_epi32(first + 8 * h), count));
}
DK_INLINE dk_u u_load(const void *p) { DK_HALVES(dk_u, _mm256_loadu_si256((const __m256i_u *)p + h)); }
DK_INLINE uint32_t m_bits(dk_m m) {
  return (uint32_t)_mm256_movemask_ps(m.half[0]) | (uint32_t)_mm256_movemask_ps(m.half[1]) << 8;
}
DK_INLINE dk_m m_from_bits(uint32_t bits) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  DK_HALVES(dk_m, _mm256_castsi256_ps(
                      _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)(bits >> 8 * h)), bit), bit)));
}
DK_INLINE dk_m m_or(dk_m a, dk_m b) { DK_HALVES(dk_m, _mm256_or_ps(a.half[h], b.half[h])); }
DK_INLINE dk_m m_and(dk_m a, dk_m b) { DK_HALVES(dk_m, _mm256_and_ps(a.half[h], b.half[h])); }

DK_INLINE dk_w w_zero(void) {
  __m256i zero = _mm256_setzero_si256();
  return (dk_w){{zero, zero, zero, zero}};
}
/* high * 2^22 + low, both signed */
DK_INLINE dk_w w_join(dk_u high, dk_u low) {
  dk_w result;
  for (int q = 0; q < 4; q++) {
    __m256i h = high.half[q / 2], l = low.half[q / 2];
    __m128i h4 = q % 2 ? _mm256_extracti128_si256(h, 1) : _mm256_castsi256_si128(h);
    __m128i l4 = q % 2 ? _mm256_extracti128_si256(l, 1) : _mm256_castsi256_si128(l);
    result.quarter[q] = _mm256_add_epi64(_mm256_slli_epi64(_mm256_cvtepi32_epi64(h4), 22), _mm256_cvtepi32_epi64(l4));
  }
  return result;
}
DK_INLINE dk_w w_add_where(dk_w a, dk_m m, dk_w b) {
  for (int q = 0; q < 4; q++) {
    __m256i lanes = _mm256_castps_si256(m.half[q / 2]);
    __m128i four = q % 2 ? _mm256_extracti128_si256(lanes, 1) : _mm256_castsi256_si128(lanes);
    a.quarter[q] = _mm256_add_epi64(a.quarter[q], _mm256_and_si256(b.quarter[q], _mm256_cvtepi32_epi64(four)));
  }
  return a;
}
DK_INLINE dk_w w_load(const uint64_t *p) {
  dk_w result;
  for (int q = 0; q < 4; q++)
    result.quarter[q] = _mm256_loadu_si256((const __m256i_u *)(p + 4 * q));
  return result;
}
DK_INLINE void w_store(uint64_t *p, dk_w a) {
  for (int q = 0; q < 4; q++)
    _mm256_storeu_si256((__m256i_u *)(p + 4 * q), a.quarter[q]);
}
DK_INLINE dk_h h_load(const void *p) { return u_load(p); }
DK_INLINE dk_h h_ordered(dk_h a) {
  DK_HALVES(dk_h, _mm256_xor_si256(a.half[h], _mm256_srli_epi16(_mm256_srai_epi16(a.half[h], 15), 1)));
}
DK_INLINE dk_h h_min(dk_h a, dk_h b) { DK_HALVES(dk_h, _mm256_min_epi16(a.half[h], b.half[h])); }
DK_INLINE dk_h h_max(dk_h a, dk_h b) { DK_HALVES(dk_h, _mm256_max_epi16(a.half[h], b.half[h])); }
/* phminposuw finds the least of eight unsigned. */
DK_INLINE int16_t h_fold_min(dk_h a) {
  __m256i half = _mm256_min_epi16(a.half[0], a.half[1]);
  __m128i eight = _mm_min_epi16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  __m128i flipped = _mm_xor_si128(eight, _mm_set1_epi16(INT16_MIN));
  return (int16_t)(_mm_extract_epi16(_mm_minpos_epu16(flipped), 0) ^ 0x8000);
}
DK_INLINE int16_t h_fold_max(dk_h a) {
  dk_h flipped = {
      {_mm256_xor_si256(a.half[0], _mm256_set1_epi16(-1)), _mm256_xor_si256(a.half[1], _mm256_set1_epi16(-1))}};
  return (int16_t)~h_fold_min(flipped);
}

/* For the forward pass. The sum of the lanes is (i, i + 8), then (i, i + 4), (i, i + 2), (i, i + 1) on every set. */
DK_INLINE dk_f f_div(dk_f a, dk_f b) { DK_HALVES(dk_f, _mm256_div_ps(a.half[h], b.half[h])); }
DK_INLINE dk_f f_sqrt(dk_f a) { DK_HALVES(dk_f, _mm256_sqrt_ps(a.half[h])); }
DK_INLINE dk_u u_and(dk_u a, dk_u b) { DK_HALVES(dk_u, _mm256_and_si256(a.half[h], b.half[h])); }
DK_INLINE float f_fold_sum(dk_f a) {
  __m256 eight = _mm256_add_ps(a.half[0], a.half[1]);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
#define DK_PLAIN_COMPRESS
#define DK_PLAIN_SUM

/* ---- Quantised matrix multiplication: see lanes.h ---- */

typedef dk_u dk_q;
typedef __m256i dk_a;
typedef dk_u dk_n; /* VNNI: 16 int32. Otherwise 32 int16, each the sum of two of the four products per step */

DK_INLINE dk_q q_load(const void *p) { return u_load(p); }
DK_INLINE dk_q q_low(dk_q a) { DK_HALVES(dk_q, _mm256_and_si256(a.half[h], _mm256_set1_epi8(15))); }
DK_INLINE dk_q q_high(dk_q a) {
  DK_HALVES(dk_q, _mm256_and_si256(_mm256_srli_epi16(a.half[h], 4), _mm256_set1_epi8(15)));
}
/* Shifts of 16 bits: the mask removes what came from the neighbouring byte. */
DK_INLINE dk_q q_merge(dk_q low, dk_q bits, int left, int mask) {
  DK_HALVES(dk_q, _mm256_or_si256(low.half[h], _mm256_and_si256(left < 0 ? _mm256_srli_epi16(bits.half[h], -left)
                                                                         : _mm256_slli_epi16(bits.half[h], left),
                                                                _mm256_set1_epi8((char)mask))));
}
DK_INLINE dk_a a_load(const void *p) {
  int32_t four;
  memcpy(&four, p, sizeof four);
  return _mm256_set1_epi32(four);
}
DK_INLINE dk_u u_shift_left(dk_u a, int n) { DK_HALVES(dk_u, _mm256_slli_epi32(a.half[h], n)); }
DK_INLINE dk_n n_zero(void) { return u_set(0); }
#if defined(DK_VNNI)
typedef dk_u dk_s;
DK_INLINE dk_n n_step(dk_n n, dk_q w, dk_a a) { DK_HALVES(dk_n, _mm256_dpbusd_avx_epi32(n.half[h], w.half[h], a)); }
DK_INLINE dk_u n_wide(dk_n n) { return n; }
#define DK_SIGNED_OFFSET 128
DK_INLINE dk_s s_weights(dk_q w) { return u_xor(w, u_set(0x80808080u)); }
DK_INLINE dk_u s_step(dk_u total, dk_s w, dk_a a) { return n_step(total, w, a); }
#else
typedef struct dk_s {
  dk_u magnitude, weights;
} dk_s;
/* Compilers turn a chain of integer additions into a tree, which has more terms at once than there are registers. */
DK_INLINE __m256i chain(__m256i a) {
  __asm__("" : "+x"(a));
  return a;
}
DK_INLINE dk_n n_step(dk_n n, dk_q w, dk_a a) {
  DK_HALVES(dk_n, chain(_mm256_add_epi16(n.half[h], _mm256_maddubs_epi16(w.half[h], a))));
}
DK_INLINE dk_u n_wide(dk_n n) { DK_HALVES(dk_u, _mm256_madd_epi16(n.half[h], _mm256_set1_epi16(1))); }
#define DK_SIGNED_OFFSET 0
DK_INLINE dk_s s_weights(dk_q w) {
  dk_s result = {w, w};
  for (int h = 0; h < 2; h++)
    result.magnitude.half[h] = _mm256_abs_epi8(w.half[h]); /* 128 for -128, as unsigned */
  return result;
}
DK_INLINE dk_u s_step(dk_u total, dk_s w, dk_a a) {
  dk_n products;
  for (int h = 0; h < 2; h++)
    products.half[h] = _mm256_maddubs_epi16(w.magnitude.half[h], _mm256_sign_epi8(a, w.weights.half[h]));
  DK_HALVES(dk_u, chain(_mm256_add_epi32(total.half[h], n_wide(products).half[h])));
}
#endif
DK_INLINE dk_f u_to_float(dk_u a) { DK_HALVES(dk_f, _mm256_cvtepi32_ps(a.half[h])); }
DK_INLINE dk_f f_load_u8(const void *p) {
  DK_HALVES(dk_f,
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i_u *)((const char *)p + 8 * h)))));
}
DK_INLINE dk_f f_load_s8(const void *p) {
  DK_HALVES(dk_f,
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i_u *)((const char *)p + 8 * h)))));
}
DK_INLINE dk_u u_max(dk_u a, dk_u b) { DK_HALVES(dk_u, _mm256_max_epu32(a.half[h], b.half[h])); }
DK_INLINE uint32_t u_fold_max(dk_u a) {
  __m256i eight = _mm256_max_epu32(a.half[0], a.half[1]);
  __m128i four = _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  __m128i two = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4E));
  return (uint32_t)_mm_cvtsi128_si32(_mm_max_epu32(two, _mm_shuffle_epi32(two, 0xB1)));
}
DK_INLINE void u_store_low_bytes(void *p, dk_u a) {
  const __m256i low =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
  const __m256i first = _mm256_setr_epi32(0, 4, 7, 7, 7, 7, 7, 7); /* 7: four zero bytes */
  for (int h = 0; h < 2; h++) {
    __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(a.half[h], low), first);
    _mm_storel_epi64((__m128i_u *)((char *)p + 8 * h), _mm256_castsi256_si128(bytes));
  }
}
#undef DK_HALVES

#endif
