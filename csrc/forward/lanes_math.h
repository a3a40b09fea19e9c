/* exp, tanh and erf on sixteen lanes, our own, so that no libm can change a bit. NaN stays NaN.
 *
 * Each is a polynomial with coefficients from a Chebyshev fit, rounded to float32; errors are measured against float64
 * by tests/unit/forward/test_activations.py. */
#ifndef DK_LANES_MATH_H
#define DK_LANES_MATH_H

#include "forward/partial_lanes.h"

#if defined(DK_ISA_PORTABLE) /* lanes are arrays in memory anyway, and compilers take a minute over copies of these */
#define DK_MATH static __attribute__((noinline))
#else
#define DK_MATH DK_INLINE
#endif

#define DK_EXP_LOW -87.3365f /* e^x is a normal number from here on */

/* e^r where x = n log(2) + r with |r| <= log(2) / 2: e^r = 1 + r + r^2 p(r). n is in the low bits of `shifted`, too. */
DK_INLINE dk_f exp_polynomial(dk_f x, dk_f *n, dk_f *shifted) {
  const dk_f magic = f_set(0x1.8p23f);
  *shifted = f_fma(x, f_set(0x1.715476p+0f), magic);
  *n = f_sub(*shifted, magic);
  dk_f r = f_fma(*n, f_set(-0x1.7f7d1cp-20f), f_fma(*n, f_set(-0x1.62e4p-1f), x));
  dk_f p = f_set(0x1.6d4926p-10f);
  p = f_fma(p, r, f_set(0x1.121072p-7f));
  p = f_fma(p, r, f_set(0x1.5554e4p-5f));
  p = f_fma(p, r, f_set(0x1.5554d8p-3f));
  p = f_fma(p, r, f_set(0.5f));
  return f_add(f_fma(f_mul(r, r), p, r), f_set(1.0f));
}

/* e^x, of relative error 1.2e-7; 0 below DK_EXP_LOW; at most e^88.37, so that it is finite. */
DK_MATH dk_f f_exp(dk_f x) {
  const dk_f high = f_set(88.37f);
  dk_f n, shifted, y = exp_polynomial(f_select(f_gt(x, high), high, x), &n, &shifted);
  dk_m is_small = f_gt(f_set(DK_EXP_LOW), x), is_nan = f_unordered(x, x);
  return f_select(is_nan, x, f_power_of_two(m_and_not(m_first(16), is_small), y, n, shifted));
}

/* x + x^3 p(x^2) for small |x|, else 1 - 2 / (e^(2 |x|) + 1) with the sign of x; of relative error 2.5e-7. */
DK_MATH dk_f f_tanh(dk_f x) {
  dk_f size = f_absolute(x), square = f_mul(x, x);
  dk_f p = f_set(-0x1.895582p-8f);
  p = f_fma(p, square, f_set(0x1.56f0c2p-6f));
  p = f_fma(p, square, f_set(-0x1.b90868p-5f));
  p = f_fma(p, square, f_set(0x1.110da2p-3f));
  p = f_fma(p, square, f_set(-0x1.555552p-2f));
  dk_f small = f_fma(f_mul(x, square), p, x);
  dk_f e = f_exp(f_add(size, size));
  dk_f large = f_sub(f_set(1.0f), f_div(f_set(2.0f), f_add(e, f_set(1.0f))));
  return f_select(f_gt(size, f_set(0.625f)), f_with_sign_of(large, x), small);
}

/* tanh(x p(x^2)), p fitted to atanh(erf(x)) / x for the smallest error in erf, 1.4e-7; 1 from 3.9 on. */
DK_MATH dk_f f_erf(dk_f x) {
  dk_f square = f_mul(x, x), limit = f_set(3.9f * 3.9f);
  square = f_select(f_gt(square, limit), limit, square);
  dk_f p = f_set(1.5895914e-7f);
  p = f_fma(p, square, f_set(-5.98569686e-6f));
  p = f_fma(p, square, f_set(8.97127214e-5f));
  p = f_fma(p, square, f_set(-6.2572008e-4f));
  p = f_fma(p, square, f_set(-1.84383018e-4f));
  p = f_fma(p, square, f_set(0.102765481f));
  p = f_fma(p, square, f_set(1.12837971f));
  return f_tanh(f_mul(x, p));
}

#endif
