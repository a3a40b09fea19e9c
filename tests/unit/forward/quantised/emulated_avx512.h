/* The AVX-512 intrinsics of quantised matrix multiplication in plain C, for machines without AVX-512.
 *     cc -mavx2 -mfma -mf16c -include emulated_avx512.h ... forward/quantised_avx512.c
 * Written after the pseudocode of Intel's intrinsics guide, without a look at how they are used. */
#ifndef EMULATED_AVX512_H
#define EMULATED_AVX512_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef union lanes512 {
  __m512i integers;
  __m512 floats;
  int8_t i8[64];
  uint8_t u8[64];
  int16_t i16[32];
  uint16_t u16[32];
  int32_t i32[16];
  uint32_t u32[16];
  float f32[16];
} lanes512;

#define OF_I(a) ((lanes512){.integers = (a)})
#define OF_F(a) ((lanes512){.floats = (a)})
#define EACH(n, field, expression)                                                                                     \
  lanes512 r;                                                                                                          \
  for (int i = 0; i < (n); i++)                                                                                        \
    r.field[i] = (expression);

#define INTEGERS(name, arguments, n, field, expression)                                                                \
  static inline __m512i name arguments {                                                                               \
    EACH(n, field, expression)                                                                                         \
    return r.integers;                                                                                                 \
  }
#define FLOATS(name, arguments, expression)                                                                            \
  static inline __m512 name arguments {                                                                                \
    EACH(16, f32, expression)                                                                                          \
    return r.floats;                                                                                                   \
  }

static inline int16_t saturated(int32_t x) {
  return (int16_t)(x > INT16_MAX ? INT16_MAX : x < INT16_MIN ? INT16_MIN : x);
}

INTEGERS(e_loadu_si512, (const void *p), 64, u8, ((const uint8_t *)p)[i])
INTEGERS(e_set1_epi8, (char a), 64, i8, (int8_t)a)
INTEGERS(e_set1_epi16, (short a), 32, i16, a)
INTEGERS(e_set1_epi32, (int a), 16, i32, a)
INTEGERS(e_setzero_si512, (void), 64, u8, 0)
INTEGERS(e_and_si512, (__m512i a, __m512i b), 16, u32, OF_I(a).u32[i] & OF_I(b).u32[i])
INTEGERS(e_or_si512, (__m512i a, __m512i b), 16, u32, OF_I(a).u32[i] | OF_I(b).u32[i])
INTEGERS(e_xor_si512, (__m512i a, __m512i b), 16, u32, OF_I(a).u32[i] ^ OF_I(b).u32[i])
INTEGERS(e_srli_epi16, (__m512i a, unsigned n), 32, u16, (uint16_t)(n > 15 ? 0 : OF_I(a).u16[i] >> n))
INTEGERS(e_slli_epi16, (__m512i a, unsigned n), 32, u16, (uint16_t)(n > 15 ? 0 : OF_I(a).u16[i] << n))
INTEGERS(e_slli_epi32, (__m512i a, unsigned n), 16, u32, n > 31 ? 0 : OF_I(a).u32[i] << n)
INTEGERS(e_add_epi16, (__m512i a, __m512i b), 32, u16, (uint16_t)(OF_I(a).u16[i] + OF_I(b).u16[i]))
INTEGERS(e_add_epi32, (__m512i a, __m512i b), 16, u32, OF_I(a).u32[i] + OF_I(b).u32[i])
INTEGERS(e_sub_epi32, (__m512i a, __m512i b), 16, u32, OF_I(a).u32[i] - OF_I(b).u32[i])
INTEGERS(e_abs_epi8, (__m512i a), 64, u8, (uint8_t)(OF_I(a).i8[i] < 0 ? -OF_I(a).i8[i] : OF_I(a).i8[i]))
INTEGERS(e_max_epu32, (__m512i a, __m512i b), 16, u32,
         OF_I(a).u32[i] > OF_I(b).u32[i] ? OF_I(a).u32[i] : OF_I(b).u32[i])
INTEGERS(e_mask_sub_epi8, (__m512i from, __mmask64 k, __m512i a, __m512i b), 64, u8,
         (uint8_t)(k >> i & 1 ? OF_I(a).u8[i] - OF_I(b).u8[i] : OF_I(from).u8[i]))
/* a unsigned, b signed */
INTEGERS(e_maddubs_epi16, (__m512i a, __m512i b), 32, i16,
         saturated(OF_I(a).u8[2 * i] * OF_I(b).i8[2 * i] + OF_I(a).u8[2 * i + 1] * OF_I(b).i8[2 * i + 1]))
INTEGERS(e_madd_epi16, (__m512i a, __m512i b), 16, i32,
         OF_I(a).i16[2 * i] * OF_I(b).i16[2 * i] + OF_I(a).i16[2 * i + 1] * OF_I(b).i16[2 * i + 1])
/* a unsigned, b signed */
INTEGERS(e_dpbusd_epi32, (__m512i from, __m512i a, __m512i b), 16, i32,
         OF_I(from).i32[i] + OF_I(a).u8[4 * i] * OF_I(b).i8[4 * i] + OF_I(a).u8[4 * i + 1] * OF_I(b).i8[4 * i + 1] +
             OF_I(a).u8[4 * i + 2] * OF_I(b).i8[4 * i + 2] + OF_I(a).u8[4 * i + 3] * OF_I(b).i8[4 * i + 3])
INTEGERS(e_cvtepu8_epi32, (__m128i a), 16, i32, ((const uint8_t *)&a)[i])
INTEGERS(e_cvtepi8_epi32, (__m128i a), 16, i32, ((const int8_t *)&a)[i])
INTEGERS(e_castps_si512, (__m512 a), 16, u32, OF_F(a).u32[i])

FLOATS(e_loadu_ps, (const void *p), (memcpy(&r.f32[i], (const char *)p + 4 * i, 4), r.f32[i]))
FLOATS(e_set1_ps, (float a), a)
FLOATS(e_add_ps, (__m512 a, __m512 b), OF_F(a).f32[i] + OF_F(b).f32[i])
FLOATS(e_mul_ps, (__m512 a, __m512 b), OF_F(a).f32[i] * OF_F(b).f32[i])
FLOATS(e_fmadd_ps, (__m512 a, __m512 b, __m512 c), fmaf(OF_F(a).f32[i], OF_F(b).f32[i], OF_F(c).f32[i]))
FLOATS(e_cvtepi32_ps, (__m512i a), (float)OF_I(a).i32[i])

static inline __m512 e_cvtph_ps(__m256i a) {
  lanes512 r;
  __m128i half[2] = {_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)};
  for (int h = 0; h < 2; h++)
    _mm256_storeu_ps(r.f32 + 8 * h, _mm256_cvtph_ps(half[h]));
  return r.floats;
}
static inline void e_storeu_ps(void *p, __m512 a) { memcpy(p, &a, sizeof a); }
static inline void e_storeu_si512(void *p, __m512i a) { memcpy(p, &a, sizeof a); }
static inline __mmask64 e_movepi8_mask(__m512i a) {
  __mmask64 mask = 0;
  for (int i = 0; i < 64; i++)
    mask |= (__mmask64)(OF_I(a).u8[i] >> 7) << i;
  return mask;
}
static inline uint32_t e_reduce_max_epu32(__m512i a) {
  uint32_t top = 0;
  for (int i = 0; i < 16; i++)
    top = OF_I(a).u32[i] > top ? OF_I(a).u32[i] : top;
  return top;
}
static inline __m128i e_cvtepi32_epi8(__m512i a) {
  uint8_t bytes[16];
  for (int i = 0; i < 16; i++)
    bytes[i] = (uint8_t)OF_I(a).u32[i];
  return _mm_loadu_si128((const __m128i_u *)bytes);
}
static inline __m256i e_castsi512_si256(__m512i a) { return _mm256_loadu_si256((const __m256i_u *)OF_I(a).u8); }
static inline __m256i e_extracti64x4_epi64(__m512i a, int n) {
  return _mm256_loadu_si256((const __m256i_u *)(OF_I(a).u8 + 32 * n));
}

#define __asm__(...) /* hints about registers that are not there */
#define _mm512_loadu_si512 e_loadu_si512
#define _mm512_set1_epi8 e_set1_epi8
#define _mm512_set1_epi16 e_set1_epi16
#define _mm512_set1_epi32 e_set1_epi32
#define _mm512_setzero_si512 e_setzero_si512
#define _mm512_and_si512 e_and_si512
#define _mm512_or_si512 e_or_si512
#define _mm512_xor_si512 e_xor_si512
#undef _mm512_srli_epi16
#define _mm512_srli_epi16 e_srli_epi16
#undef _mm512_slli_epi16
#define _mm512_slli_epi16 e_slli_epi16
#undef _mm512_slli_epi32
#define _mm512_slli_epi32 e_slli_epi32
#define _mm512_add_epi16 e_add_epi16
#define _mm512_add_epi32 e_add_epi32
#define _mm512_sub_epi32 e_sub_epi32
#define _mm512_abs_epi8 e_abs_epi8
#define _mm512_max_epu32 e_max_epu32
#define _mm512_mask_sub_epi8 e_mask_sub_epi8
#define _mm512_maddubs_epi16 e_maddubs_epi16
#define _mm512_madd_epi16 e_madd_epi16
#define _mm512_dpbusd_epi32 e_dpbusd_epi32
#define _mm512_cvtepu8_epi32 e_cvtepu8_epi32
#define _mm512_cvtepi8_epi32 e_cvtepi8_epi32
#define _mm512_castps_si512 e_castps_si512
#define _mm512_loadu_ps e_loadu_ps
#define _mm512_set1_ps e_set1_ps
#define _mm512_add_ps e_add_ps
#define _mm512_mul_ps e_mul_ps
#define _mm512_fmadd_ps e_fmadd_ps
#define _mm512_cvtepi32_ps e_cvtepi32_ps
#define _mm512_cvtph_ps e_cvtph_ps
#define _mm512_storeu_ps e_storeu_ps
#define _mm512_storeu_si512 e_storeu_si512
#define _mm512_movepi8_mask e_movepi8_mask
#define _mm512_reduce_max_epu32 e_reduce_max_epu32
#define _mm512_cvtepi32_epi8 e_cvtepi32_epi8
#define _mm512_castsi512_si256 e_castsi512_si256
#undef _mm512_extracti64x4_epi64
#define _mm512_extracti64x4_epi64 e_extracti64x4_epi64

#endif
