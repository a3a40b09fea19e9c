/* Internal: natural logarithm and exponential of one double, from correctly rounded operations only, so that no libm
 * affects a token. */
#ifndef DK_LOG_EXP_H
#define DK_LOG_EXP_H

#include <stdint.h>
#include <string.h>

#include "simd/strict_math.h"

#define DK_LN2 0.69314718055994530942
#define DK_LOG2E 1.4426950408889634074

static inline double dk_double_of(uint64_t bits) {
  double x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* Return log(x) for positive, normal, finite x. With x = m * 2^e, m in [sqrt(1/2), sqrt(2)) and s = (m - 1) / (m + 1),
 * |s| <= 0.1716, log(m) = 2 atanh(s) = 2s (1 + s^2/3 + s^4/5 + ...). The terms after s^20 are below 2^-56 of the
 * result.
 */
static inline double dk_log(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  int64_t exponent = (int64_t)(bits >> 52) - 1023;
  double m = dk_double_of((bits & 0xFFFFFFFFFFFFFu) | 0x3FF0000000000000u);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    exponent += 1;
  }
  double s = (m - 1.0) / (m + 1.0), z = s * s, series = 0.0;
  for (int odd = 21; odd >= 3; odd -= 2)
    series = z * (1.0 / odd + series);
  return (double)exponent * DK_LN2 + (2.0 * s + 2.0 * s * series);
}

/* Return exp(x) for x <= 700; 0 below -700. With x = n ln 2 + r, |r| <= ln 2 / 2, the terms of the series of e^r after
 * r^13 are below 2^-57 of it. */
static inline double dk_exp(double x) {
  if (!(x > -700.0))
    return 0.0;
  int64_t n = (int64_t)(x * DK_LOG2E + (x < 0.0 ? -0.5 : 0.5));
  double r = (x - (double)n * 0x1.62e42fefa3800p-1) - (double)n * 0x1.ef35793c76730p-45; /* ln 2 in two parts */
  double series = 1.0;
  for (int k = 13; k >= 1; k--)
    series = 1.0 + r / k * series;
  return series * dk_double_of((uint64_t)(n + 1023) << 52);
}

/* Return exp(x) - 1 for x <= 700, with a small relative error near 0. The terms of the series after r^13 are below
 * 2^-57 of it. */
static inline double dk_expm1(double x) {
  if (x > 0.34 || x < -0.34)
    return dk_exp(x) - 1.0;
  double series = 1.0;
  for (int k = 14; k >= 2; k--)
    series = 1.0 + x / k * series;
  return x * series;
}

/* Return log(1 + x) for x >= 0, with a small relative error near 0: 2 atanh(s), s = x / (2 + x). */
static inline double dk_log1p(double x) {
  if (x > 0.4)
    return dk_log(1.0 + x);
  double s = x / (2.0 + x), z = s * s, series = 0.0;
  for (int odd = 21; odd >= 3; odd -= 2)
    series = z * (1.0 / odd + series);
  return 2.0 * s + 2.0 * s * series;
}

#endif
