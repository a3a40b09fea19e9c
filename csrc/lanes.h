/* Sixteen lanes, whatever the hardware: the only file that knows an instruction set.
 *
 *   dk_f    16 float32      dk_u    16 uint32      dk_m    16 truth values      dk_w    16 uint64 sums
 *
 * Exactly one of DK_ISA_AVX512, DK_ISA_AVX2, DK_ISA_PORTABLE is defined by the including file. Every operation is
 * correctly rounded or exact, so the three agree bit for bit. Loads and stores take any alignment. */
#ifndef DK_LANES_H
#define DK_LANES_H

#include <stdint.h>
#include <string.h>

#define DK_INLINE static inline __attribute__((always_inline))

#if defined(DK_ISA_AVX512)
#include <immintrin.h>

typedef __m512 dk_f;
typedef __m512i dk_u;
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
DK_INLINE dk_f f_round(dk_f a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
DK_INLINE dk_f f_scale(dk_f a, dk_f power) { return _mm512_scalef_ps(a, power); }
DK_INLINE float f_fold_max(dk_f a) { return _mm512_reduce_max_ps(a); }
DK_INLINE int32_t f_compress(float *p, dk_f a, dk_m m) {
  _mm512_storeu_ps(p, _mm512_maskz_compress_ps(m, a));
  return __builtin_popcount(m);
}
DK_INLINE dk_u f_bits(dk_f a) { return _mm512_castps_si512(a); }
DK_INLINE dk_f u_float(dk_u a) { return _mm512_castsi512_ps(a); }
DK_INLINE dk_u u_set(uint32_t a) { return _mm512_set1_epi32((int)a); }
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
DK_INLINE dk_w w_round(dk_f a) {
  __m256 low = _mm512_castps512_ps256(a), high = _mm512_extractf32x8_ps(a, 1);
  return (dk_w){{_mm512_cvtps_epi64(low), _mm512_cvtps_epi64(high)}};
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

#elif defined(DK_ISA_AVX2)
#include <immintrin.h>

typedef struct dk_f {
  __m256 half[2];
} dk_f;
typedef struct dk_u {
  __m256i half[2];
} dk_u;
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
DK_INLINE dk_f f_round(dk_f a) {
  DK_HALVES(dk_f, _mm256_round_ps(a.half[h], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
DK_INLINE float f_fold_max(dk_f a) {
  __m256 top = _mm256_max_ps(a.half[0], a.half[1]);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(top), _mm256_extractf128_ps(top, 1));
  __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
DK_INLINE dk_u f_bits(dk_f a) { DK_HALVES(dk_u, _mm256_castps_si256(a.half[h])); }
DK_INLINE dk_f u_float(dk_u a) { DK_HALVES(dk_f, _mm256_castsi256_ps(a.half[h])); }
DK_INLINE dk_u u_set(uint32_t a) { DK_HALVES(dk_u, _mm256_set1_epi32((int)a)); }
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
DK_INLINE dk_f f_scale(dk_f a, dk_f power) {
  DK_HALVES(dk_f, _mm256_mul_ps(a.half[h],
                                _mm256_castsi256_ps(_mm256_slli_epi32(
                                    _mm256_add_epi32(_mm256_cvtps_epi32(power.half[h]), _mm256_set1_epi32(127)), 23))));
}
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

/* AVX2 has no conversion to int64: adding 2^52 rounds to nearest even and leaves the integer in the low bits. */
DK_INLINE __m256i w_round_quarter(__m128 a) {
  const __m256d magic = _mm256_set1_pd(4503599627370496.0);
  __m256d shifted = _mm256_add_pd(_mm256_cvtps_pd(a), magic);
  return _mm256_xor_si256(_mm256_castpd_si256(shifted), _mm256_castpd_si256(magic));
}
DK_INLINE dk_w w_zero(void) {
  __m256i zero = _mm256_setzero_si256();
  return (dk_w){{zero, zero, zero, zero}};
}
DK_INLINE dk_w w_round(dk_f a) {
  dk_w result;
  for (int h = 0; h < 2; h++) {
    result.quarter[2 * h] = w_round_quarter(_mm256_castps256_ps128(a.half[h]));
    result.quarter[2 * h + 1] = w_round_quarter(_mm256_extractf128_ps(a.half[h], 1));
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
#undef DK_HALVES
#define DK_PLAIN_COMPRESS
#define DK_PLAIN_SUM

#elif defined(DK_ISA_PORTABLE)
#include <math.h> /* fmaf: correctly rounded by the C standard's Annex F, so its bits are those of the hardware */

typedef struct dk_f {
  float lane[16];
} dk_f;
typedef struct dk_u {
  uint32_t lane[16];
} dk_u;
typedef struct dk_m {
  uint32_t lane[16]; /* 0 or 1 */
} dk_m;
typedef struct dk_w {
  uint64_t lane[16];
} dk_w;

#define DK_EACH(type, expression)                                                                                      \
  type result;                                                                                                         \
  for (int i = 0; i < 16; i++)                                                                                         \
    result.lane[i] = (expression);                                                                                     \
  return result

DK_INLINE uint32_t portable_bits(float a) {
  uint32_t bits;
  memcpy(&bits, &a, sizeof bits);
  return bits;
}
DK_INLINE float portable_float(uint32_t bits) {
  float a;
  memcpy(&a, &bits, sizeof a);
  return a;
}
DK_INLINE uint16_t portable_half(const void *p, int i) {
  uint16_t half;
  memcpy(&half, (const char *)p + 2 * i, sizeof half);
  return half;
}
/* Subnormal halves are multiples of 2^-24, exact in float32; infinities and NaN keep their mantissa bits. */
DK_INLINE float portable_from_f16(uint32_t half) {
  uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31u, mantissa = half & 1023u;
  if (exponent == 0) {
    float magnitude = (float)mantissa * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  uint32_t wide = exponent == 31u ? 255u : exponent + 112u;
  return portable_float(sign | wide << 23 | mantissa << 13);
}
DK_INLINE uint64_t portable_round(float a) {
  double shifted = (double)a + 4503599627370496.0; /* 2^52: rounds to nearest even, the integer in the low bits */
  uint64_t bits;
  memcpy(&bits, &shifted, sizeof bits);
  return bits ^ 0x4330000000000000u;
}

DK_INLINE dk_f f_load(const void *p) {
  dk_f result;
  memcpy(result.lane, p, sizeof result.lane);
  return result;
}
DK_INLINE dk_f f_load_f16(const void *p) { DK_EACH(dk_f, portable_from_f16(portable_half(p, i))); }
DK_INLINE dk_f f_load_bf16(const void *p) { DK_EACH(dk_f, portable_float((uint32_t)portable_half(p, i) << 16)); }
DK_INLINE void f_store(void *p, dk_f a) { memcpy(p, a.lane, sizeof a.lane); }
DK_INLINE dk_f f_set(float a) { DK_EACH(dk_f, a); }
DK_INLINE dk_f f_add(dk_f a, dk_f b) { DK_EACH(dk_f, a.lane[i] + b.lane[i]); }
DK_INLINE dk_f f_sub(dk_f a, dk_f b) { DK_EACH(dk_f, a.lane[i] - b.lane[i]); }
DK_INLINE dk_f f_mul(dk_f a, dk_f b) { DK_EACH(dk_f, a.lane[i] * b.lane[i]); }
DK_INLINE dk_f f_fma(dk_f a, dk_f b, dk_f c) { DK_EACH(dk_f, fmaf(a.lane[i], b.lane[i], c.lane[i])); }
DK_INLINE dk_f f_fms(dk_f a, dk_f b, dk_f c) { DK_EACH(dk_f, fmaf(a.lane[i], b.lane[i], -c.lane[i])); }
DK_INLINE dk_f f_max(dk_f a, dk_f b) { DK_EACH(dk_f, a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
DK_INLINE dk_m f_gt(dk_f a, dk_f b) { DK_EACH(dk_m, a.lane[i] > b.lane[i]); }
DK_INLINE dk_m f_eq(dk_f a, dk_f b) { DK_EACH(dk_m, a.lane[i] == b.lane[i]); }
DK_INLINE dk_m f_ge(dk_f a, dk_f b) { DK_EACH(dk_m, a.lane[i] >= b.lane[i]); }
DK_INLINE dk_m f_unordered(dk_f a, dk_f b) { DK_EACH(dk_m, (a.lane[i] != a.lane[i]) | (b.lane[i] != b.lane[i])); }
DK_INLINE dk_f f_select(dk_m m, dk_f yes, dk_f no) { DK_EACH(dk_f, m.lane[i] ? yes.lane[i] : no.lane[i]); }
/* |a| < 2^22: adding 1.5 * 2^23 rounds to nearest even. */
DK_INLINE dk_f f_round(dk_f a) { DK_EACH(dk_f, (a.lane[i] + 12582912.0f) - 12582912.0f); }
DK_INLINE dk_f f_scale(dk_f a, dk_f power) {
  DK_EACH(dk_f, a.lane[i] * portable_float((uint32_t)((int32_t)power.lane[i] + 127) << 23));
}
DK_INLINE float f_fold_max(dk_f a) {
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; i++)
      a.lane[i] = a.lane[i] > a.lane[i + width] ? a.lane[i] : a.lane[i + width];
  return a.lane[0];
}
DK_INLINE dk_u f_bits(dk_f a) { DK_EACH(dk_u, portable_bits(a.lane[i])); }
DK_INLINE dk_f u_float(dk_u a) { DK_EACH(dk_f, portable_float(a.lane[i])); }
DK_INLINE dk_u u_set(uint32_t a) { DK_EACH(dk_u, a); }
DK_INLINE dk_u u_or(dk_u a, dk_u b) { DK_EACH(dk_u, a.lane[i] | b.lane[i]); }
DK_INLINE dk_u u_xor(dk_u a, dk_u b) { DK_EACH(dk_u, a.lane[i] ^ b.lane[i]); }
DK_INLINE dk_u u_sign_fill(dk_u a) { DK_EACH(dk_u, 0u - (a.lane[i] >> 31)); }
DK_INLINE void u_store(uint32_t *p, dk_u a) { memcpy(p, a.lane, sizeof a.lane); }
DK_INLINE uint32_t m_bits(dk_m m) {
  uint32_t bits = 0;
  for (int i = 0; i < 16; i++)
    bits |= m.lane[i] << i;
  return bits;
}
DK_INLINE dk_m m_from_bits(uint32_t bits) { DK_EACH(dk_m, bits >> i & 1u); }
DK_INLINE dk_m m_or(dk_m a, dk_m b) { DK_EACH(dk_m, a.lane[i] | b.lane[i]); }
DK_INLINE dk_m m_and(dk_m a, dk_m b) { DK_EACH(dk_m, a.lane[i] & b.lane[i]); }
DK_INLINE dk_w w_zero(void) { DK_EACH(dk_w, 0); }
DK_INLINE dk_w w_round(dk_f a) { DK_EACH(dk_w, portable_round(a.lane[i])); }
DK_INLINE dk_m m_and_not(dk_m a, dk_m b) { DK_EACH(dk_m, a.lane[i] & ~b.lane[i]); }
DK_INLINE dk_u u_count_from(int32_t first) { DK_EACH(dk_u, (uint32_t)(first + i)); }
DK_INLINE dk_u u_load(const void *p) {
  dk_u result;
  memcpy(result.lane, p, sizeof result.lane);
  return result;
}
DK_INLINE dk_w w_add_where(dk_w a, dk_m m, dk_w b) { DK_EACH(dk_w, a.lane[i] + (m.lane[i] ? b.lane[i] : 0)); }
DK_INLINE dk_w w_load(const uint64_t *p) {
  dk_w result;
  memcpy(result.lane, p, sizeof result.lane);
  return result;
}
DK_INLINE void w_store(uint64_t *p, dk_w a) { memcpy(p, a.lane, sizeof a.lane); }
#undef DK_EACH
#define DK_PLAIN_COMPRESS
#define DK_PLAIN_SUM

#else
#error "define DK_ISA_AVX512, DK_ISA_AVX2 or DK_ISA_PORTABLE before including lanes.h"
#endif

/* Where the hardware has nothing better. Maxima and integer sums do not depend on their order. */
#ifdef DK_PLAIN_SUM
DK_INLINE uint64_t w_fold_sum(dk_w a) {
  uint64_t lanes[16], total = 0;
  w_store(lanes, a);
  for (int i = 0; i < 16; i++)
    total += lanes[i];
  return total;
}
#endif

/* The lanes of m, in order, to p, and how many they are; p has room for 16 more, whatever their number. */
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

#endif
