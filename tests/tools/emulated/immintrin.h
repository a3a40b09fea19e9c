/* The AVX-512 intrinsics of csrc/simd/lanes_avx512.h on a processor without them: SIMDe's portable ones
 * (https://github.com/simd-everywhere/simde), and those that its version 0.7.4 lacks. */
#ifndef DK_EMULATED_IMMINTRIN_H
#define DK_EMULATED_IMMINTRIN_H

#include_next <immintrin.h>
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <string.h>

typedef union emulated_vector {
  uint8_t bytes[64];
  float floats[16];
  int32_t words[16];
  int64_t longs[8];
  __m256 halves[2];
  simde__m512 single;
  simde__m512i integer;
} emulated_vector;

static inline simde__m512 emulated_cvtepi32_ps(simde__m512i a) {
  emulated_vector from, result;
  from.integer = a;
  for (int i = 0; i < 16; i++)
    result.floats[i] = (float)from.words[i];
  return result.single;
}

static inline simde__m128i emulated_cvtepi32_epi8(simde__m512i a) {
  emulated_vector from;
  uint8_t bytes[16];
  simde__m128i result;
  from.integer = a;
  for (int i = 0; i < 16; i++)
    bytes[i] = (uint8_t)from.words[i];
  memcpy(&result, bytes, sizeof result);
  return result;
}

static inline simde__m512i emulated_cvtepi8_epi32(simde__m128i a) {
  emulated_vector result;
  int8_t bytes[16];
  memcpy(bytes, &a, sizeof bytes);
  for (int i = 0; i < 16; i++)
    result.words[i] = bytes[i];
  return result.integer;
}

static inline simde__m512i emulated_cvtepu8_epi32(simde__m128i a) {
  emulated_vector result;
  uint8_t bytes[16];
  memcpy(bytes, &a, sizeof bytes);
  for (int i = 0; i < 16; i++)
    result.words[i] = bytes[i];
  return result.integer;
}

static inline simde__m512i emulated_cvtepi32_epi64(simde__m256i a) {
  emulated_vector result;
  int32_t words[8];
  memcpy(words, &a, sizeof words);
  for (int i = 0; i < 8; i++)
    result.longs[i] = words[i];
  return result.integer;
}

static inline simde__m512i emulated_cvtepu16_epi32(simde__m256i a) {
  emulated_vector result;
  uint16_t halves[16];
  memcpy(halves, &a, sizeof halves);
  for (int i = 0; i < 16; i++)
    result.words[i] = halves[i];
  return result.integer;
}

static inline simde__m512 emulated_cvtph_ps(simde__m256i a) {
  emulated_vector result;
  __m128i quarters[2];
  memcpy(quarters, &a, sizeof quarters);
  for (int i = 0; i < 2; i++)
    result.halves[i] = _mm256_cvtph_ps(quarters[i]);
  return result.single;
}

static inline simde__m256 emulated_extractf32x8_ps(simde__m512 a, int half) {
  emulated_vector vector;
  simde__m256 result;
  vector.single = a;
  memcpy(&result, &vector.halves[half], sizeof result);
  return result;
}

static inline simde__mmask64 emulated_movepi8_mask(simde__m512i a) {
  emulated_vector vector;
  simde__mmask64 mask = 0;
  vector.integer = a;
  for (int i = 0; i < 64; i++)
    mask |= (simde__mmask64)(vector.bytes[i] >> 7) << i;
  return mask;
}

static inline int64_t emulated_reduce_add_epi64(simde__m512i a) {
  emulated_vector vector;
  uint64_t sum = 0;
  vector.integer = a;
  for (int i = 0; i < 8; i++)
    sum += (uint64_t)vector.longs[i];
  return (int64_t)sum;
}

static inline uint32_t emulated_reduce_max_epu32(simde__m512i a) {
  emulated_vector vector;
  uint32_t maximum = 0;
  vector.integer = a;
  for (int i = 0; i < 16; i++)
    maximum = (uint32_t)vector.words[i] > maximum ? (uint32_t)vector.words[i] : maximum;
  return maximum;
}

static inline float emulated_reduce_max_ps(simde__m512 a) {
  emulated_vector vector;
  vector.single = a;
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; i++)
      if (!(vector.floats[i] > vector.floats[i + width]))
        vector.floats[i] = vector.floats[i + width];
  return vector.floats[0];
}

static inline simde__m512i emulated_srai_epi32(simde__m512i a, int count) {
  emulated_vector vector;
  vector.integer = a;
  for (int i = 0; i < 16; i++)
    vector.words[i] >>= count;
  return vector.integer;
}

static inline simde__m512 emulated_shuffle_f32x4(simde__m512 a, simde__m512 b, int order) {
  emulated_vector from[2], result;
  from[0].single = a;
  from[1].single = b;
  for (int i = 0; i < 16; i++)
    result.floats[i] = from[i / 8].floats[(order >> i / 4 * 2 & 3) * 4 + i % 4];
  return result.single;
}

static inline simde__m512 emulated_shuffle_ps(simde__m512 a, simde__m512 b, int order) {
  emulated_vector from[2], result;
  from[0].single = a;
  from[1].single = b;
  for (int i = 0; i < 16; i++)
    result.floats[i] = from[i % 4 / 2].floats[i / 4 * 4 + (order >> i % 4 * 2 & 3)];
  return result.single;
}

#undef _mm512_cvtepi32_epi64
#undef _mm512_cvtepi32_epi8
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtepi8_epi32
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepu8_epi32
#undef _mm512_cvtph_ps
#undef _mm512_extractf32x8_ps
#undef _mm512_madd_epi16
#undef _mm512_mask_cmp_ps_mask
#undef _mm512_movepi8_mask
#undef _mm512_reduce_add_epi64
#undef _mm512_reduce_max_epu32
#undef _mm512_reduce_max_ps
#undef _mm512_shuffle_f32x4
#undef _mm512_shuffle_ps
#undef _mm512_srai_epi32
#define _mm512_cvtepi32_epi64 emulated_cvtepi32_epi64
#define _mm512_cvtepi32_epi8 emulated_cvtepi32_epi8
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps
#define _mm512_cvtepi8_epi32 emulated_cvtepi8_epi32
#define _mm512_cvtepu16_epi32 emulated_cvtepu16_epi32
#define _mm512_cvtepu8_epi32 emulated_cvtepu8_epi32
#define _mm512_cvtph_ps emulated_cvtph_ps
#define _mm512_extractf32x8_ps emulated_extractf32x8_ps
#define _mm512_madd_epi16 simde_mm512_madd_epi16 /* 0.7.4 gives it the masked version's arguments */
#define _mm512_mask_cmp_ps_mask(mask, a, b, op) ((simde__mmask16)((mask) & _mm512_cmp_ps_mask(a, b, op)))
#define _mm512_movepi8_mask emulated_movepi8_mask
#define _mm512_reduce_add_epi64 emulated_reduce_add_epi64
#define _mm512_reduce_max_epu32 emulated_reduce_max_epu32
#define _mm512_reduce_max_ps emulated_reduce_max_ps
#define _mm512_shuffle_f32x4 emulated_shuffle_f32x4
#define _mm512_shuffle_ps emulated_shuffle_ps
#define _mm512_srai_epi32 emulated_srai_epi32

#endif
