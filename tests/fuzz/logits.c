/* Rows of logits of many kinds, with any alignment and row stride. */
#include <math.h>

#include "problem.h"

float as_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

float finite_float(choices *in) {
  float value = as_float(take(in, 4));
  return isfinite(value) ? value : 1.0f;
}

uint64_t next_random(uint64_t *state) {
  uint64_t z = *state += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

/* Returns a logit of a kind of row, from 64 random bits. */
static float logit_of(uint32_t kind, uint64_t random, int32_t i) {
  float noise = (float)(int32_t)random * 0x1p-31f, scale[] = {1.0f, 1e-3f, 8.0f, 40.0f, 1e30f};
  switch (kind) {
  case 5: /* ties */
    return (float)(random % 4);
  case 6: /* most tokens banned */
    return random % 64 ? -INFINITY : noise;
  case 7: /* a few far above the rest */
    return noise + (random >> 32) % 256 / 255 * 12;
  case 8: /* peaks that a sample of the row may miss */
    return noise + (i % 37 == 5 ? 6.0f : 0.0f);
  case 9: /* any bits: NaN, infinities, subnormals */
    return as_float((uint32_t)random);
  case 10:
    return (float)i * 1e-2f;
  case 11:
    return -0.0f;
  default:
    return noise * scale[kind % NUM_OF(scale)];
  }
}

/* Converts to half precision, rounding towards zero; values that are too small become zero. */
static uint32_t half_bits(uint32_t bits) {
  uint32_t sign = bits >> 16 & 0x8000u, exponent = bits >> 23 & 255u, mantissa = bits >> 13 & 1023u;
  if (exponent == 255u)
    return sign | 0x7C00u | mantissa;
  if (exponent < 113u)
    return sign;
  return exponent > 142u ? sign | 0x7BFFu : sign | (exponent - 112u) << 10 | mantissa;
}

static void store_logit(const decoding_batch *batch, char *row, int32_t i, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  bits = batch->dtype == DECODING_FLOAT32 ? bits : batch->dtype == DECODING_FLOAT16 ? half_bits(bits) : bits >> 16;
  memcpy(row + (size_t)i * element_size(batch), &bits, element_size(batch)); /* little endian */
}

static void fill_row(choices *in, const decoding_batch *batch, char *row) {
  static const uint32_t special[] = {0xFF800000u, 0x7F800000u, 0x7FC00000u, 0x7F7FFFFFu,
                                     0xFF7FFFFFu, 0x80000000u, 1u,          0x42280000u};
  uint32_t kind = below(in, 13);
  uint64_t state = take(in, 2);
  for (int32_t i = 0; i < batch->vocab_size; i++)
    store_logit(batch, row, i, logit_of(kind, next_random(&state), i));
  for (uint32_t patches = below(in, 8); patches > 1; patches--) {
    int32_t i = (int32_t)below(in, (uint32_t)batch->vocab_size);
    uint32_t choice = below(in, NUM_OF(special) + 8);
    store_logit(batch, row, i, choice < NUM_OF(special) ? as_float(special[choice]) : finite_float(in));
  }
}

/* Makes rows with any alignment, with gaps, in either direction. The allocation ends with the last row. */
void make_logits(choices *in, problem *p) {
  decoding_batch *batch = &p->batch;
  size_t length = (size_t)batch->vocab_size * element_size(batch), skew = below(in, 65);
  size_t stride = length + below(in, 40), gaps = (size_t)(batch->num_rows > 0 ? batch->num_rows - 1 : 0) * stride;
  char *first = (char *)input_array(p, skew + gaps + length) + skew;
  int backwards = one_in(in, 2);
  batch->logits = backwards ? first + gaps : first;
  batch->row_stride = backwards ? -(int64_t)stride : (int64_t)stride;
  for (int32_t i = 0; i < batch->num_rows; i++)
    fill_row(in, batch, (char *)p->batch.logits + i * batch->row_stride);
}
