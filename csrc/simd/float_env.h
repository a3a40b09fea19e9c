/* Internal: the floating-point environment in which the library's bits are defined: round to nearest even, subnormals
 * kept. The host may have set another one (audio and game code flushes subnormals), so a call sets it on entry and
 * restores the host's on exit. */
#ifndef DK_FLOAT_ENV_H
#define DK_FLOAT_ENV_H

#include <stdint.h>

#include "simd/strict_math.h"

#if defined(__SSE__) || defined(_M_X64)
#include <xmmintrin.h>

static inline uint64_t dk_float_env_pin(void) {
  uint32_t host = _mm_getcsr();
  _mm_setcsr(0x1F80); /* every exception masked, nearest even, no flush to zero, subnormals are not zero */
  return host;
}

static inline void dk_float_env_restore(uint64_t host) { _mm_setcsr((uint32_t)host); }

#elif defined(__aarch64__)

static inline uint64_t dk_float_env_pin(void) {
  uint64_t host;
  __asm__ volatile("mrs %0, fpcr" : "=r"(host));
  __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
  return host;
}

static inline void dk_float_env_restore(uint64_t host) { __asm__ volatile("msr fpcr, %0" : : "r"(host)); }

#else
#include <fenv.h>

static inline uint64_t dk_float_env_pin(void) {
  int host = fegetround();
  fesetround(FE_TONEAREST);
  return (uint64_t)host;
}

static inline void dk_float_env_restore(uint64_t host) { fesetround((int)host); }

#endif
#endif
