/* exp on sixteen lanes, and log of one double: our own, so that no libm can change a bit.
 *
 * The weight of a logit is exp(d / T), d = x - max <= 0. It is taken as exp2(d * rate) with rate = log2(e) / T kept
 * as a pair of float32 (high + low), and the product d * rate as a pair too: the fused multiply-add yields its exact
 * low half. So the error does not grow with the exponent, and no division is needed:
 *     p = d * high,  e = (d * high - p) + d * low,  n = nearest integer of p,  r = (p - n) + e,  2^r * 2^n
 * 2^r on [-1/2, 1/2] is a polynomial of degree 6: minimax in relative error (3.0e-9) with coefficients rounded to
 * float32 one after another. Measured over all of its range against float64: docs/adr/0002-exp-and-log.md. */
#ifndef DK_EXPF16_H
#define DK_EXPF16_H

#include "kernel.h"
#include "lanes.h"

/* 2^DK_WEIGHT_BITS * exp(d / T), for 0 >= d / T >= -80 */
DK_INLINE dk_f dk_weight(dk_f x, const dk_scale *scale) {
  const dk_f high = f_set(scale->rate_high);
  dk_f d = f_fma(x, f_set(scale->unit), f_set(scale->minus_max));
  dk_f p = f_mul(d, high);
  dk_f e = f_fma(d, f_set(scale->rate_low), f_fms(d, high, p));
  dk_f n = f_round(p);
  dk_f r = f_add(f_sub(p, n), e);
  dk_f y = f_set(0x1.416b5ep-13f);
  y = f_fma(y, r, f_set(0x1.5f0830p-10f));
  y = f_fma(y, r, f_set(0x1.3b2de0p-7f));
  y = f_fma(y, r, f_set(0x1.c6af7cp-5f));
  y = f_fma(y, r, f_set(0x1.ebfbdcp-3f));
  y = f_fma(y, r, f_set(0x1.62e430p-1f));
  y = f_fma(y, r, f_set(1.0f));
  return f_scale(y, f_add(n, f_set((float)DK_WEIGHT_BITS)));
}

#endif
