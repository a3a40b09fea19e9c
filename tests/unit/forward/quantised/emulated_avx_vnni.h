/* The intrinsic of AVX-VNNI in plain C, written after the pseudocode of Intel's intrinsics guide, for machines without it.
 *     cc -mavx2 -mfma -mf16c -include emulated_avx_vnni.h ... forward/quantised_avx2_vnni.c */
#ifndef EMULATED_AVX_VNNI_H
#define EMULATED_AVX_VNNI_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* a unsigned, b signed */
static inline __m256i e_dpbusd_avx_epi32(__m256i from, __m256i a, __m256i b) {
  int32_t sums[8];
  uint8_t left[32];
  int8_t right[32];
  memcpy(sums, &from, sizeof sums);
  memcpy(left, &a, sizeof left);
  memcpy(right, &b, sizeof right);
  for (int i = 0; i < 32; i++)
    sums[i / 4] += left[i] * right[i];
  memcpy(&from, sums, sizeof from);
  return from;
}
#define _mm256_dpbusd_avx_epi32 e_dpbusd_avx_epi32

#endif
