/* exp on sixteen lanes, and its result as integer weights. No libm is involved, so the bits are the same everywhere.
 *
 * exp(d / T), d = x - max <= 0, is computed as exp2(d * rate), rate = log2(e) / T in float32 (weight_scale.h):
 * n is the integer nearest to d * rate, and r = d * rate - n, rounded once by a fused multiply-add. 2^r on [-1/2, 1/2]
 * is a minimax polynomial of degree 5 in relative error (9.3e-8), whose coefficients were rounded to float32 one after
 * another. The result is 2^n * 2^r. docs/adr/0002-exp-and-log.md has its error against float64, measured over its
 * range.
 *
 * A weight w in [0, 1] becomes the integer round(w * 2^43) in two parts, without a conversion to 64 bits. Adding 6 to w
 * leaves the nearest multiple of 2^-21 in the low bits of the sum. The remainder, at most 2^-22 in size, is rounded to
 * a multiple of 2^-43 in the low bits of 3 * 2^-21 + remainder. Over a block, each part can be summed in 32 bits. */
#ifndef DK_EXP16_H
#define DK_EXP16_H

#include "simd/lanes.h"
#include "simd/weight_scale.h"

#define DK_LOW_BITS 22           /* weight = high * 2^22 + low */
#define DK_HIGH_ORIGIN 6.0f      /* floats of this magnitude are 2^-21 apart */
#define DK_LOW_ORIGIN 0x1.8p-20f /* floats of this magnitude are 2^-43 apart */
#define DK_HIGH_ORIGIN_BITS 0x40C00000u
#define DK_LOW_ORIGIN_BITS 0x35C00000u

/* The two parts of sixteen weights, as the bits of floats; dk_high and dk_low convert them to integers. */
typedef struct dk_parts {
  dk_u high;
  dk_u low;
} dk_parts;

/* Return exp2((x * unit - max) * rate), and 0 in the lanes where keep is false, whatever x is there. */
DK_INLINE dk_f dk_weight(dk_f x, dk_m keep, dk_scale scale) {
  const dk_f rate = f_set(scale.rate), magic = f_set(0x1.8p23f);
  dk_f d = scale.unit == 1.0f ? f_sub(x, f_set(scale.max)) : f_fms(x, f_set(scale.unit), f_set(scale.max));
  dk_f shifted = f_fma(d, rate, magic), n = f_sub(shifted, magic); /* the integer n is in the low bits of shifted */
  dk_f r = f_fms(d, rate, n);
  dk_f y = f_set(0x1.5bda3cp-10f);
  y = f_fma(y, r, f_set(0x1.3ce8acp-7f));
  y = f_fma(y, r, f_set(0x1.c6b6d8p-5f));
  y = f_fma(y, r, f_set(0x1.ebf9c2p-3f));
  y = f_fma(y, r, f_set(0x1.62e42ap-1f));
  y = f_fma(y, r, f_set(1.0f));
  return f_power_of_two(keep, y, n, shifted);
}

DK_INLINE dk_parts dk_weight_parts(dk_f x, dk_m keep, dk_scale scale) {
  dk_f w = dk_weight(x, keep, scale), high = f_add(w, f_set(DK_HIGH_ORIGIN));
  dk_f low = f_add(w, f_sub(f_set(DK_HIGH_ORIGIN + DK_LOW_ORIGIN), high)); /* the difference is exact */
  return (dk_parts){f_bits(high), f_bits(low)};
}

/* The parts as integers, each at most 2^21 in size. */
DK_INLINE dk_u dk_high(dk_parts parts) { return u_sub(parts.high, u_set(DK_HIGH_ORIGIN_BITS)); }
DK_INLINE dk_u dk_low(dk_parts parts) { return u_sub(parts.low, u_set(DK_LOW_ORIGIN_BITS)); }

DK_INLINE uint64_t dk_join(int32_t high, int32_t low) {
  return (uint64_t)((int64_t)high * ((int64_t)1 << DK_LOW_BITS) + low);
}

#endif
