/* Internal: conversion of one 16-bit float to float32, which is exact. */
#ifndef DK_FLOAT16_H
#define DK_FLOAT16_H

#include <stdint.h>
#include <string.h>

static inline float dk_float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline float dk_float_of_bf16(uint32_t half) { return dk_float_of_bits(half << 16); }

/* Subnormal halves are multiples of 2^-24, exact in float32; infinities and NaN keep their mantissa bits. */
static inline float dk_float_of_f16(uint32_t half) {
  uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31u, mantissa = half & 1023u;
  if (exponent == 0) {
    float magnitude = (float)mantissa * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  uint32_t wide = exponent == 31u ? 255u : exponent + 112u;
  return dk_float_of_bits(sign | wide << 23 | mantissa << 13);
}

#endif
