/* exp on sixteen lanes, as the integer weights that the kernel sums: our own, so that no libm can change a bit.
 *
 * The weight of a logit is exp(d / T), d = x - max <= 0, taken as exp2(d * rate), rate = log2(e) / T as a float32 (d
 * and T in units of 2^64 where T >= 2^60): n = nearest integer of d * rate,  r = d * rate - n (the fused multiply-add
 * rounds it once),  2^r * 2^n 2^r on [-1/2, 1/2] is a polynomial of degree 5: minimax in relative error (9.3e-8) with
 * coefficients rounded to float32 one after another. Measured over all of its range against float64:
 * docs/adr/0002-exp-and-log.md.
 *
 * The weight w in [0, 1] becomes the integer round(w * 2^43) in two parts, without a conversion to 64 bits: adding 6
 * leaves the multiple of 2^-21 nearest to w in the low bits of the sum; what is left of w, at most 2^-22, is rounded to
 * a multiple of 2^-43 in the low bits of 3 * 2^-21 + rest. Both parts add up over a block in 32 bits. */
#ifndef DK_EXPF16_H
#define DK_EXPF16_H

#include "sampling/kernels.h"
#include "simd/lanes.h"

#define DK_LOW_BITS 22           /* weight = high * 2^22 + low */
#define DK_HIGH_ORIGIN 6.0f      /* floats from here on are 2^-21 apart */
#define DK_LOW_ORIGIN 0x1.8p-20f /* and from here on 2^-43 */
#define DK_HIGH_ORIGIN_BITS 0x40C00000u
#define DK_LOW_ORIGIN_BITS 0x35C00000u

/* The two parts of sixteen weights, as the bits of floats: see dk_high and dk_low. */
typedef struct dk_parts {
  dk_u high;
  dk_u low;
} dk_parts;

/* exp2((x * unit - max) * rate); where keep is false, 0, whatever x is. */
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

/* The parts as integers, at most 2^21 and 2^21 in size. */
DK_INLINE dk_u dk_high(dk_parts parts) { return u_sub(parts.high, u_set(DK_HIGH_ORIGIN_BITS)); }
DK_INLINE dk_u dk_low(dk_parts parts) { return u_sub(parts.low, u_set(DK_LOW_ORIGIN_BITS)); }

DK_INLINE uint64_t dk_join(int32_t high, int32_t low) {
  return (uint64_t)((int64_t)high * ((int64_t)1 << DK_LOW_BITS) + low);
}

#endif
