/* Internal: Philox4x64-10, the counter-based generator of Salmon et al. 2011, "Parallel random numbers: as easy as 1,
 * 2, 3". A draw needs no generator object, since a block of random words is a function of its counter and key. */
#ifndef DK_PHILOX_H
#define DK_PHILOX_H

#include <stdint.h>

typedef struct dk_u128 {
  uint64_t high;
  uint64_t low;
} dk_u128;

/* Return the full product of two words. */
static inline dk_u128 dk_multiply(uint64_t a, uint64_t b) {
#if defined(__SIZEOF_INT128__)
  __extension__ typedef unsigned __int128 u128;
  u128 product = (u128)a * b;
  return (dk_u128){(uint64_t)(product >> 64), (uint64_t)product};
#else
  uint64_t a_low = (uint32_t)a, a_high = a >> 32, b_low = (uint32_t)b, b_high = b >> 32;
  uint64_t low = a_low * b_low;
  uint64_t middle = a_high * b_low + (low >> 32);
  uint64_t other = a_low * b_high + (uint32_t)middle;
  return (dk_u128){a_high * b_high + (middle >> 32) + (other >> 32), (other << 32) | (uint32_t)low};
#endif
}

static inline void dk_philox4x64(const uint64_t counter[4], const uint64_t key[2], uint64_t out[4]) {
  uint64_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
  uint64_t k0 = key[0], k1 = key[1];
  for (int round = 0; round < 10; round++) {
    dk_u128 p0 = dk_multiply(0xD2E7470EE14C6C93u, c0);
    dk_u128 p1 = dk_multiply(0xCA5A826395121157u, c2);
    c0 = p1.high ^ c1 ^ k0;
    c1 = p1.low;
    c2 = p0.high ^ c3 ^ k1;
    c3 = p0.low;
    k0 += 0x9E3779B97F4A7C15u;
    k1 += 0xBB67AE8584CAA73Bu;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

#endif
