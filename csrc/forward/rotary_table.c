/* Rotary tables: sine and cosine in double, our own, rounded to float32. */
#include <math.h>
#include <stddef.h>

#include "decoding.h"
#include "simd/float_env.h"

/* pi / 2 in three parts of 22 bits, so that a product with an integer below 2^31 is exact, and what is left. */
static const double PARTS[] = {0x1.921fbp+0, 0x1.5110bp-22, 0x1.184698p-44, 0x1.3198a2e037073p-69};

/* Taylor series on [-pi/4, pi/4]: the first term left out is below 2^-54 of the result. */
static double sine_of(double x) {
  const double square = x * x;
  double p = -1.0 / 1307674368000.0;
  p = p * square + 1.0 / 6227020800.0;
  p = p * square - 1.0 / 39916800.0;
  p = p * square + 1.0 / 362880.0;
  p = p * square - 1.0 / 5040.0;
  p = p * square + 1.0 / 120.0;
  p = p * square - 1.0 / 6.0;
  return x + x * square * p;
}

static double cosine_of(double x) {
  const double square = x * x;
  double p = 1.0 / 20922789888000.0;
  p = p * square - 1.0 / 87178291200.0;
  p = p * square + 1.0 / 479001600.0;
  p = p * square - 1.0 / 3628800.0;
  p = p * square + 1.0 / 40320.0;
  p = p * square - 1.0 / 720.0;
  p = p * square + 1.0 / 24.0;
  p = p * square - 0.5;
  return 1.0 + square * p;
}

static void sine_and_cosine(float angle, float *sine, float *cosine) {
  if (!(angle < 2147483648.0f && angle > -2147483648.0f)) {
    *sine = *cosine = NAN;
    return;
  }
  double x = angle, turns = x * 0.63661977236758134308; /* 2 / pi */
  int64_t quarter = (int64_t)(turns < 0.0 ? turns - 0.5 : turns + 0.5);
  for (size_t i = 0; i < sizeof PARTS / sizeof PARTS[0]; i++)
    x -= (double)quarter * PARTS[i];
  double s = sine_of(x), c = cosine_of(x);
  double by_quarter[4] = {s, c, -s, -c};
  *sine = (float)by_quarter[quarter & 3];
  *cosine = (float)by_quarter[(quarter + 1) & 3];
}

int32_t decoding_rotary_table(const float *frequencies, int32_t num_pairs, float attention_factor,
                              int32_t first_position, int32_t num_positions, float *table) {
  if (frequencies == NULL || table == NULL || num_pairs < 1 || first_position < 0 || num_positions < 0 ||
      first_position > INT32_MAX - num_positions)
    return DECODING_BAD_ARGUMENT;
  uint64_t host = dk_fpenv_pin();
  for (int32_t i = 0; i < num_positions; i++) {
    float *row = table + (size_t)i * 2 * (size_t)num_pairs, position = (float)(first_position + i);
    for (int32_t j = 0; j < num_pairs; j++) {
      float sine, cosine;
      sine_and_cosine(position * frequencies[j], &sine, &cosine);
      row[j] = cosine * attention_factor;
      row[num_pairs + j] = sine * attention_factor;
    }
  }
  dk_fpenv_restore(host);
  return DECODING_OK;
}
