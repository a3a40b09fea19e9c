/* Sixteen lanes in plain C: see lanes.h. */
#ifndef DK_LANES_PORTABLE_H
#define DK_LANES_PORTABLE_H

#include "simd/coded_bfloat16.h"
#include "simd/float16.h"

#include <math.h> /* fmaf: correctly rounded by the C standard's Annex F, so its bits are those of the hardware */

typedef struct dk_f {
  float lane[16];
} dk_f;
typedef struct dk_u {
  uint32_t lane[16];
} dk_u;
typedef struct dk_h {
  int16_t lane[32];
} dk_h;
typedef struct dk_m {
  uint32_t lane[16]; /* 0 or 1 */
} dk_m;
typedef struct dk_w {
  uint64_t lane[16];
} dk_w;

#define DK_EACH(type, expression)                                                                                      \
  type result;                                                                                                         \
  for (int i = 0; i < 16; i++)                                                                                         \
    result.lane[i] = (expression);                                                                                     \
  return result

DK_INLINE uint32_t portable_bits(float a) {
  uint32_t bits;
  memcpy(&bits, &a, sizeof bits);
  return bits;
}
DK_INLINE uint16_t portable_half(const void *p, int i) {
  uint16_t half;
  memcpy(&half, (const char *)p + 2 * i, sizeof half);
  return half;
}

DK_INLINE dk_f f_load(const void *p) {
  dk_f result;
  memcpy(result.lane, p, sizeof result.lane);
  return result;
}
DK_INLINE dk_f f_load_f16(const void *p) { DK_EACH(dk_f, dk_float_of_f16(portable_half(p, i))); }
DK_INLINE dk_f f_load_bf16(const void *p) { DK_EACH(dk_f, dk_float_of_bf16(portable_half(p, i))); }
DK_INLINE void f_load_coded(const void *group, const void *table, int pair, dk_f weights[2]) {
  const uint8_t *bytes = group, *upper = table;
  for (int input = 0; input < 2; input++) {
    for (int i = 0; i < 16; i++) {
      const int position = dk_coded_position(i, input);
      const int number = bytes[DK_CODED_NUMBERS + position] >> 4 * pair & 15;
      weights[input].lane[i] = dk_float_of_bf16((uint32_t)upper[number] << 8 | bytes[32 * pair + position]);
    }
  }
}
DK_INLINE void f_store(void *p, dk_f a) { memcpy(p, a.lane, sizeof a.lane); }
DK_INLINE dk_f f_set(float a) { DK_EACH(dk_f, a); }
DK_INLINE dk_f f_add(dk_f a, dk_f b) { DK_EACH(dk_f, a.lane[i] + b.lane[i]); }
DK_INLINE dk_f f_sub(dk_f a, dk_f b) { DK_EACH(dk_f, a.lane[i] - b.lane[i]); }
DK_INLINE dk_f f_mul(dk_f a, dk_f b) { DK_EACH(dk_f, a.lane[i] * b.lane[i]); }
DK_INLINE dk_f f_fma(dk_f a, dk_f b, dk_f c) { DK_EACH(dk_f, fmaf(a.lane[i], b.lane[i], c.lane[i])); }
DK_INLINE dk_f f_fms(dk_f a, dk_f b, dk_f c) { DK_EACH(dk_f, fmaf(a.lane[i], b.lane[i], -c.lane[i])); }
DK_INLINE dk_f f_max(dk_f a, dk_f b) { DK_EACH(dk_f, a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
DK_INLINE dk_m f_gt(dk_f a, dk_f b) { DK_EACH(dk_m, a.lane[i] > b.lane[i]); }
DK_INLINE dk_m f_eq(dk_f a, dk_f b) { DK_EACH(dk_m, a.lane[i] == b.lane[i]); }
DK_INLINE dk_m f_ge(dk_f a, dk_f b) { DK_EACH(dk_m, a.lane[i] >= b.lane[i]); }
DK_INLINE dk_m f_unordered(dk_f a, dk_f b) { DK_EACH(dk_m, (a.lane[i] != a.lane[i]) | (b.lane[i] != b.lane[i])); }
DK_INLINE dk_f f_select(dk_m m, dk_f yes, dk_f no) { DK_EACH(dk_f, m.lane[i] ? yes.lane[i] : no.lane[i]); }
DK_INLINE float f_fold_max(dk_f a) {
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; i++)
      a.lane[i] = a.lane[i] > a.lane[i + width] ? a.lane[i] : a.lane[i + width];
  return a.lane[0];
}
DK_INLINE dk_f f_hold(dk_f a) { return a; }
DK_INLINE dk_f f_fold_max_each(const dk_f rows[16]) { DK_EACH(dk_f, f_fold_max(rows[i])); }
DK_INLINE dk_u f_bits(dk_f a) { DK_EACH(dk_u, portable_bits(a.lane[i])); }
DK_INLINE dk_f u_float(dk_u a) { DK_EACH(dk_f, dk_float_of_bits(a.lane[i])); }
DK_INLINE dk_u u_set(uint32_t a) { DK_EACH(dk_u, a); }
DK_INLINE dk_u u_add(dk_u a, dk_u b) { DK_EACH(dk_u, a.lane[i] + b.lane[i]); }
DK_INLINE dk_u u_sub(dk_u a, dk_u b) { DK_EACH(dk_u, a.lane[i] - b.lane[i]); }
DK_INLINE dk_u u_shift_23(dk_u a) { DK_EACH(dk_u, a.lane[i] << 23); }
DK_INLINE dk_u u_where(dk_m m, dk_u a) { DK_EACH(dk_u, m.lane[i] ? a.lane[i] : 0); }
DK_INLINE dk_u u_count(dk_u a, dk_m m) { DK_EACH(dk_u, a.lane[i] + m.lane[i]); }
DK_INLINE uint32_t u_fold_sum(dk_u a) {
  uint32_t total = 0;
  for (int i = 0; i < 16; i++)
    total += a.lane[i];
  return total;
}
DK_INLINE dk_u u_or(dk_u a, dk_u b) { DK_EACH(dk_u, a.lane[i] | b.lane[i]); }
DK_INLINE dk_u u_xor(dk_u a, dk_u b) { DK_EACH(dk_u, a.lane[i] ^ b.lane[i]); }
DK_INLINE dk_u u_sign_fill(dk_u a) { DK_EACH(dk_u, 0u - (a.lane[i] >> 31)); }
DK_INLINE void u_store(uint32_t *p, dk_u a) { memcpy(p, a.lane, sizeof a.lane); }
DK_INLINE uint32_t m_bits(dk_m m) {
  uint32_t bits = 0;
  for (int i = 0; i < 16; i++)
    bits |= m.lane[i] << i;
  return bits;
}
DK_INLINE dk_m m_from_bits(uint32_t bits) { DK_EACH(dk_m, bits >> i & 1u); }
DK_INLINE dk_m m_or(dk_m a, dk_m b) { DK_EACH(dk_m, a.lane[i] | b.lane[i]); }
DK_INLINE dk_m m_and(dk_m a, dk_m b) { DK_EACH(dk_m, a.lane[i] & b.lane[i]); }
DK_INLINE dk_w w_zero(void) { DK_EACH(dk_w, 0); }
/* high * 2^22 + low, both signed */
DK_INLINE dk_w w_join(dk_u high, dk_u low) {
  DK_EACH(dk_w, (uint64_t)((int64_t)(int32_t)high.lane[i] * 4194304 + (int32_t)low.lane[i]));
}
DK_INLINE dk_m m_and_not(dk_m a, dk_m b) { DK_EACH(dk_m, a.lane[i] & ~b.lane[i]); }
DK_INLINE dk_u u_count_from(int32_t first) { DK_EACH(dk_u, (uint32_t)(first + i)); }
DK_INLINE dk_u u_load(const void *p) {
  dk_u result;
  memcpy(result.lane, p, sizeof result.lane);
  return result;
}
DK_INLINE dk_w w_add_where(dk_w a, dk_m m, dk_w b) { DK_EACH(dk_w, a.lane[i] + (m.lane[i] ? b.lane[i] : 0)); }
DK_INLINE dk_w w_load(const uint64_t *p) {
  dk_w result;
  memcpy(result.lane, p, sizeof result.lane);
  return result;
}
DK_INLINE void w_store(uint64_t *p, dk_w a) { memcpy(p, a.lane, sizeof a.lane); }
DK_INLINE dk_h h_load(const void *p) {
  dk_h result;
  memcpy(result.lane, p, sizeof result.lane);
  return result;
}
DK_INLINE dk_h h_ordered(dk_h a) {
  for (int i = 0; i < 32; i++)
    a.lane[i] = (int16_t)(a.lane[i] < 0 ? a.lane[i] ^ 0x7FFF : a.lane[i]);
  return a;
}
DK_INLINE dk_h h_min(dk_h a, dk_h b) {
  for (int i = 0; i < 32; i++)
    a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
  return a;
}
DK_INLINE dk_h h_max(dk_h a, dk_h b) {
  for (int i = 0; i < 32; i++)
    a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
  return a;
}
DK_INLINE int16_t h_fold_min(dk_h a) {
  for (int i = 1; i < 32; i++)
    a.lane[0] = a.lane[0] < a.lane[i] ? a.lane[0] : a.lane[i];
  return a.lane[0];
}
DK_INLINE int16_t h_fold_max(dk_h a) {
  for (int i = 1; i < 32; i++)
    a.lane[0] = a.lane[0] > a.lane[i] ? a.lane[0] : a.lane[i];
  return a.lane[0];
}

/* For the forward pass. The sum of the lanes is (i, i + 8), then (i, i + 4), (i, i + 2), (i, i + 1) on every set. */
DK_INLINE dk_f f_div(dk_f a, dk_f b) { DK_EACH(dk_f, a.lane[i] / b.lane[i]); }
DK_INLINE dk_f f_sqrt(dk_f a) { DK_EACH(dk_f, sqrtf(a.lane[i])); }
DK_INLINE dk_u u_and(dk_u a, dk_u b) { DK_EACH(dk_u, a.lane[i] & b.lane[i]); }
DK_INLINE float f_fold_sum(dk_f a) {
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; i++)
      a.lane[i] += a.lane[i + width];
  return a.lane[0];
}
#define DK_PLAIN_COMPRESS
#define DK_PLAIN_SUM

/* ---- Quantised matrix multiplication: see lanes.h ---- */

typedef struct dk_q {
  uint8_t byte[64];
} dk_q;
typedef struct dk_a {
  int8_t byte[4];
} dk_a;
typedef dk_u dk_n;
typedef dk_q dk_s;
#define DK_BYTES(expression)                                                                                           \
  dk_q result;                                                                                                         \
  for (int i = 0; i < 64; i++)                                                                                         \
    result.byte[i] = (uint8_t)(expression);                                                                            \
  return result

DK_INLINE dk_q q_load(const void *p) {
  dk_q result;
  memcpy(result.byte, p, sizeof result.byte);
  return result;
}
DK_INLINE dk_q q_low(dk_q a) { DK_BYTES(a.byte[i] & 15); }
DK_INLINE dk_q q_high(dk_q a) { DK_BYTES(a.byte[i] >> 4); }
DK_INLINE dk_q q_merge(dk_q low, dk_q bits, int left, int mask) {
  DK_BYTES(low.byte[i] | ((left < 0 ? bits.byte[i] >> -left : bits.byte[i] << left) & mask));
}
DK_INLINE dk_a a_load(const void *p) {
  dk_a result;
  memcpy(result.byte, p, sizeof result.byte);
  return result;
}
DK_INLINE dk_u u_shift_left(dk_u a, int n) { DK_EACH(dk_u, a.lane[i] << n); }
DK_INLINE dk_n n_zero(void) { return u_set(0); }
DK_INLINE dk_n n_step(dk_n n, dk_q w, dk_a a) {
  DK_EACH(dk_n, n.lane[i] + (uint32_t)(w.byte[4 * i] * a.byte[0] + w.byte[4 * i + 1] * a.byte[1] +
                                       w.byte[4 * i + 2] * a.byte[2] + w.byte[4 * i + 3] * a.byte[3]));
}
DK_INLINE dk_u n_wide(dk_n n) { return n; }
#define DK_SIGNED_OFFSET 128
DK_INLINE dk_s s_weights(dk_q w) { DK_BYTES(w.byte[i] ^ 0x80); }
DK_INLINE dk_u s_step(dk_u total, dk_s w, dk_a a) { return n_step(total, w, a); }
DK_INLINE dk_f u_to_float(dk_u a) { DK_EACH(dk_f, (float)(int32_t)a.lane[i]); }
DK_INLINE dk_f f_load_u8(const void *p) { DK_EACH(dk_f, (float)((const uint8_t *)p)[i]); }
DK_INLINE dk_f f_load_s8(const void *p) { DK_EACH(dk_f, (float)((const int8_t *)p)[i]); }
DK_INLINE dk_u u_max(dk_u a, dk_u b) { DK_EACH(dk_u, a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
DK_INLINE uint32_t u_fold_max(dk_u a) {
  for (int i = 1; i < 16; i++)
    a.lane[0] = a.lane[0] > a.lane[i] ? a.lane[0] : a.lane[i];
  return a.lane[0];
}
DK_INLINE void u_store_low_bytes(void *p, dk_u a) {
  for (int i = 0; i < 16; i++)
    ((uint8_t *)p)[i] = (uint8_t)a.lane[i];
}
#undef DK_EACH
#undef DK_BYTES

#endif
