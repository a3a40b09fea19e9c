/* The end of a row, where fewer than sixteen lanes are left. */
#ifndef DK_PARTIAL_LANES_H
#define DK_PARTIAL_LANES_H

#include "simd/lanes.h"

/* The first n of sixteen floats, 0 behind them; n is 1 .. 16. */
DK_INLINE dk_f f_load_part(const float *p, int32_t n) {
  float lanes[16] = {0};
  if (n >= 16)
    return f_load(p);
  memcpy(lanes, p, (size_t)n * sizeof *p);
  return f_load(lanes);
}

DK_INLINE void f_store_part(float *p, dk_f a, int32_t n) {
  float lanes[16];
  if (n >= 16) {
    f_store(p, a);
    return;
  }
  f_store(lanes, a);
  memcpy(p, lanes, (size_t)n * sizeof *p);
}

/* The first n lanes. */
DK_INLINE dk_m m_first(int32_t n) { return m_from_bits(n >= 16 ? 0xFFFFu : (1u << n) - 1u); }

DK_INLINE dk_f f_absolute(dk_f a) { return u_float(u_and(f_bits(a), u_set(0x7FFFFFFFu))); }

DK_INLINE dk_f f_with_sign_of(dk_f magnitude, dk_f sign) {
  return u_float(u_or(f_bits(magnitude), u_and(f_bits(sign), u_set(0x80000000u))));
}

#endif
