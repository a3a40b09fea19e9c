/* Operations on one row: norms, rotary embeddings, activations, sums. */
#ifndef DK_ROWS_BODY_H
#define DK_ROWS_BODY_H

#include <math.h>

#include "decoding.h"
#include "forward/kernels.h"
#include "forward/lanes_math.h"

/* ---- norms: lane j sums the elements j, j + 16, ...; then the lanes are folded ---- */

DK_INLINE float row_sum(const float *x, int32_t n) {
  dk_f sum = f_set(0.0f);
  for (int32_t i = 0; i < n; i += 16)
    sum = f_add(sum, f_load_part(x + i, n - i));
  return f_fold_sum(sum);
}

/* Sum of (x - mean)^2. */
DK_INLINE float row_square_sum(const float *x, float mean, int32_t n) {
  dk_f sum = f_set(0.0f), zero = f_set(0.0f);
  for (int32_t i = 0; i < n; i += 16) {
    dk_f d = f_sub(f_load_part(x + i, n - i), f_set(mean));
    d = f_select(m_first(n - i), d, zero);
    sum = f_fma(d, d, sum);
  }
  return f_fold_sum(sum);
}

DK_INLINE float root_of_mean(float square_sum, int32_t n, float eps) {
  float lanes[16];
  f_store(lanes, f_sqrt(f_set(square_sum / (float)n + eps)));
  return lanes[0];
}

static void rms_norm(const float *x, int32_t n, float eps, const float *weight, float *out) {
  dk_f root = f_set(root_of_mean(row_square_sum(x, 0.0f, n), n, eps));
  for (int32_t i = 0; i < n; i += 16) {
    dk_f scaled = f_div(f_load_part(x + i, n - i), root);
    f_store_part(out + i, f_mul(scaled, f_load_part(weight + i, n - i)), n - i);
  }
}

static void layer_norm(const float *x, int32_t n, float eps, const float *weight, const float *bias, float *out) {
  float mean = row_sum(x, n) / (float)n;
  dk_f root = f_set(root_of_mean(row_square_sum(x, mean, n), n, eps));
  for (int32_t i = 0; i < n; i += 16) {
    dk_f scaled = f_div(f_sub(f_load_part(x + i, n - i), f_set(mean)), root);
    dk_f shift = bias == NULL ? f_set(0.0f) : f_load_part(bias + i, n - i);
    f_store_part(out + i, f_fma(scaled, f_load_part(weight + i, n - i), shift), n - i);
  }
}

/* ---- rotary embeddings ---- */

static void rotate(float *head, const float *rotary, int32_t num_pairs) {
  for (int32_t i = 0; i < num_pairs; i += 16) {
    int32_t left = num_pairs - i;
    dk_f cosine = f_load_part(rotary + i, left), sine = f_load_part(rotary + num_pairs + i, left);
    dk_f a = f_load_part(head + i, left), b = f_load_part(head + num_pairs + i, left);
    f_store_part(head + i, f_fms(a, cosine, f_mul(b, sine)), left);
    f_store_part(head + num_pairs + i, f_fma(b, cosine, f_mul(a, sine)), left);
  }
}

/* ---- activations ---- */

/* By comparison, so that NaN stays NaN on every set. */
DK_INLINE dk_f at_least(dk_f x, float low) { return f_select(f_gt(f_set(low), x), f_set(low), x); }
DK_INLINE dk_f at_most(dk_f x, float high) { return f_select(f_gt(x, f_set(high)), f_set(high), x); }

/* x / (1 + exp(-slope x)) */
DK_INLINE dk_f sigmoid_product(dk_f x, float slope) {
  return f_div(x, f_add(f_exp(f_mul(x, f_set(-slope))), f_set(1.0f)));
}

/* x (1 + phi) / 2 */
DK_INLINE dk_f half_product(dk_f x, dk_f phi) { return f_mul(f_mul(f_add(phi, f_set(1.0f)), x), f_set(0.5f)); }

DK_INLINE dk_f gelu(dk_f x) { return half_product(x, f_erf(f_mul(x, f_set(0x1.6a09e6p-1f)))); }

DK_INLINE dk_f gelu_tanh(dk_f x) {
  dk_f slope = f_fma(f_mul(x, x), f_set(0.044715f * 0.7978845608028654f), f_set(0.7978845608028654f));
  return half_product(x, f_tanh(f_mul(slope, x)));
}

/* With e = exp(x): tanh(log(1 + e)) = e (e + 2) / (e (e + 2) + 2), which is 1 from 20 on. */
DK_INLINE dk_f mish(dk_f x) {
  dk_f e = f_exp(at_most(x, 20.0f)), n = f_mul(e, f_add(e, f_set(2.0f)));
  return f_mul(x, f_div(n, f_add(n, f_set(2.0f))));
}

DK_INLINE dk_f hardswish(dk_f x) {
  dk_f clipped = at_most(at_least(f_add(x, f_set(3.0f)), 0.0f), 6.0f);
  return f_div(f_mul(clipped, x), f_set(6.0f));
}

DK_INLINE dk_f activation_of(int32_t activation, dk_f x) {
  switch (activation) {
  case DECODING_ACT_RELU:
    return at_least(x, 0.0f);
  case DECODING_ACT_RELU2:
    return f_mul(at_least(x, 0.0f), at_least(x, 0.0f));
  case DECODING_ACT_RELU6:
    return at_most(at_least(x, 0.0f), 6.0f);
  case DECODING_ACT_LEAKY_RELU:
    return f_select(f_gt(f_set(0.0f), x), f_mul(x, f_set(0.01f)), x);
  case DECODING_ACT_SIGMOID:
    return f_div(f_set(1.0f), f_add(f_exp(f_mul(x, f_set(-1.0f))), f_set(1.0f)));
  case DECODING_ACT_SILU:
    return sigmoid_product(x, 1.0f);
  case DECODING_ACT_QUICK_GELU:
    return sigmoid_product(x, 1.702f);
  case DECODING_ACT_TANH:
    return f_tanh(x);
  case DECODING_ACT_GELU:
    return gelu(x);
  case DECODING_ACT_GELU_10:
    return at_most(at_least(gelu(x), -10.0f), 10.0f);
  case DECODING_ACT_GELU_TANH:
    return gelu_tanh(x);
  case DECODING_ACT_MISH:
    return mish(x);
  case DECODING_ACT_HARDSWISH:
    return hardswish(x);
  default:
    return x;
  }
}

static void activate(int32_t activation, float *x, const float *up, int32_t n) {
  for (int32_t i = 0; i < n; i += 16) {
    dk_f y = activation_of(activation, f_load_part(x + i, n - i));
    if (up != NULL)
      y = f_mul(y, f_load_part(up + i, n - i));
    f_store_part(x + i, y, n - i);
  }
}

/* ---- sums ---- */

static void add_scaled(float *hidden, const float *x, float scale, int32_t n) {
  for (int32_t i = 0; i < n; i += 16) {
    dk_f sum = f_fma(f_load_part(x + i, n - i), f_set(scale), f_load_part(hidden + i, n - i));
    f_store_part(hidden + i, sum, n - i);
  }
}

DK_INLINE dk_f load_stored(const char *row, int32_t type, int32_t left) {
  const size_t size = type == DECODING_FLOAT32 ? 4 : 2;
  char padded[64] = {0};
  if (left < 16) {
    memcpy(padded, row, (size_t)left * size);
    row = padded;
  }
  return type == DECODING_FLOAT16 ? f_load_f16(row) : type == DECODING_BFLOAT16 ? f_load_bf16(row) : f_load(row);
}

static void embed(const void *row, int32_t type, float scale, const float *positions, int32_t n, float *out) {
  const size_t size = type == DECODING_FLOAT32 ? 4 : 2;
  for (int32_t i = 0; i < n; i += 16) {
    dk_f x = f_mul(load_stored((const char *)row + (size_t)i * size, type, n - i), f_set(scale));
    if (positions != NULL)
      x = f_add(x, f_load_part(positions + i, n - i));
    f_store_part(out + i, x, n - i);
  }
}

DK_INLINE dk_f soft_cap(dk_f x, float cap) { return f_mul(f_tanh(f_div(x, f_set(cap))), f_set(cap)); }

static void finish_logits(const float *x, float scale, float cap, int32_t n, float *logits) {
  for (int32_t i = 0; i < n; i += 16) {
    dk_f y = f_mul(f_load_part(x + i, n - i), f_set(scale));
    if (cap != 0.0f)
      y = soft_cap(y, cap);
    y = f_select(f_unordered(y, y), u_float(u_set(0x7FC00000u)), y);
    f_store_part(logits + i, y, n - i);
  }
}

#endif
