/* Internal: the functions of the forward pass that each instruction set fills in. Their bits do not depend on the set,
 * nor on how the work is cut into tiles. */
#ifndef DK_FORWARD_KERNELS_H
#define DK_FORWARD_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define DK_PANEL 16          /* outputs per panel */
#define DK_CHAIN 256         /* inputs per chain of fused multiply-adds; the sums of the chains are added in order */
#define DK_MAX_TILE 12       /* at least the tokens per tile of every set */
#define DK_PIECE 128         /* positions per step of attention's softmax, counted from position 0 */
#define DK_ATTENTION_ROWS 96 /* at most so many queries (tokens times heads) share a pass over keys and values */

/* Tokens times panels. x: prepared inputs of the tokens (see `prepare`); y: row 0 of the outputs. */
typedef struct dk_product {
  int32_t num_tokens;
  int32_t num_inputs;
  int32_t num_panels;
  const float *x;
  const void *panels; /* the first of them */
  float *y;
  int64_t y_stride; /* elements */
} dk_product;

/* Queries of one sequence and one key-value head, and what they see. */
typedef struct dk_attention {
  int32_t num_rows; /* at most DK_ATTENTION_ROWS */
  int32_t head_dim;
  float scale;
  float cap;                  /* 0: none */
  float *const *queries;      /* [num_rows] -> [head_dim]; replaced by the result */
  const int32_t *first;       /* [num_rows] the first position that the row sees */
  const int32_t *end;         /* [num_rows] behind the last */
  const int32_t *block_table; /* of the sequence */
  const char *keys;           /* of this layer and head in block 0: [head_dim][16] */
  const char *values;         /* the same: [head_dim / 16, rounded up][16 tokens][16] */
  size_t block_size;          /* bytes from one block to the next */
  float *scratch;             /* dk_attention_scratch() floats */
} dk_attention;

typedef struct dk_forward_kernel {
  const char *name;
  int32_t tile;   /* tokens per tile, at most DK_MAX_TILE */
  int32_t panels; /* panels that one token is best multiplied with at once */

  /* A tile of `count` rows [count][stride] to the layout that `multiply` reads: [num_inputs][count]. */
  void (*prepare)(const float *rows, int64_t stride, int32_t count, int32_t num_inputs, float *x);

  /* y[token][output] = sum over the inputs, for whole panels. By type of weights. */
  void (*multiply[3])(const dk_product *product);
  void (*multiply_coded)(const dk_product *product); /* DECODING_BFLOAT16_CODED */

  /* y[token][i] += bias[i]. */
  void (*add_bias)(float *y, int64_t stride, int32_t num_tokens, const float *bias, int32_t n);

  /* Softmax over scores of keys, and the sum of the values that it weights. */
  void (*attend)(const dk_attention *attention);

  /* The norms; out may be x. */
  void (*rms_norm)(const float *x, int32_t n, float eps, const float *weight, float *out);
  void (*layer_norm)(const float *x, int32_t n, float eps, const float *weight, const float *bias, float *out);

  /* Turns pairs (j, j + num_pairs) of one head by [cos, sin]. */
  void (*rotate)(float *head, const float *rotary, int32_t num_pairs);

  /* x[i] = act(x[i]); gated: x[i] = act(x[i]) * up[i]. up may be null. */
  void (*activate)(int32_t activation, float *x, const float *up, int32_t n);

  /* hidden += scale * x */
  void (*add_scaled)(float *hidden, const float *x, float scale, int32_t n);

  /* One row of an embedding as float32, times scale, plus `positions` where there are any. */
  void (*embed)(const void *row, int32_t type, float scale, const float *positions, int32_t n, float *out);

  /* logits = cap(scale * x), with one NaN for all. */
  void (*finish_logits)(const float *x, float scale, float cap, int32_t n, float *logits);
} dk_forward_kernel;

/* Floats of scratch that dk_attention needs for any number of rows. */
static inline size_t dk_attention_scratch(int32_t head_dim) {
  size_t dim = (size_t)head_dim, padded = (dim + DK_PANEL - 1) / DK_PANEL * DK_PANEL;
  return DK_ATTENTION_ROWS * (DK_PIECE + dim + padded + DK_PANEL + 1);
}

extern const dk_forward_kernel dk_forward_kernel_portable;
#if defined(DK_HAVE_X86)
extern const dk_forward_kernel dk_forward_kernel_avx2;
extern const dk_forward_kernel dk_forward_kernel_avx512;
#endif
#if defined(DK_HAVE_NEON)
extern const dk_forward_kernel dk_forward_kernel_neon;
#endif

/* The set in use. */
const dk_forward_kernel *dk_active_forward_kernel(void);

#endif
