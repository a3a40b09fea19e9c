/* The bytes of two inputs of a group (coded_bfloat16.h) in registers of 256 bits, for AVX2 and AVX-512. */
#ifndef DK_CODED_X86_H
#define DK_CODED_X86_H

#include <immintrin.h>

/* Interleaved lower and upper bytes: of each output, its weight of the first input, then of the second. */
typedef struct dk_coded_pair {
  __m256i first; /* outputs 0 to 7 */
  __m256i last;  /* outputs 8 to 15 */
} dk_coded_pair;

DK_INLINE dk_coded_pair load_coded_pair(const void *group, const void *table, int pair) {
  const __m256i_u *vectors = group;
  const __m256i upper = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i_u *)table));
  const __m256i low = _mm256_loadu_si256(vectors + pair), packed = _mm256_loadu_si256(vectors + 2);
  const __m256i numbers = _mm256_and_si256(pair == 0 ? packed : _mm256_srli_epi16(packed, 4), _mm256_set1_epi8(15));
  const __m256i high = _mm256_shuffle_epi8(upper, numbers);
  return (dk_coded_pair){_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)};
}

#endif
