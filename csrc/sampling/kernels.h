/* Internal: the sizes that the work is divided into, and the table of functions that each instruction set fills in.
 *
 * A row is processed in blocks of DK_BLOCK values. Each function of the table works on one block: either the caller's
 * own memory, in the caller's element type (a whole block without edits), or an edited float32 copy of 1 KiB. */
#ifndef DK_KERNELS_H
#define DK_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "simd/weight_scale.h"

#define DK_BLOCK 256 /* elements per block */
#define DK_MASK_WORDS (DK_BLOCK / 32)

/* Blocks whose weights one call sums. A lane then adds 16 * 32 parts of at most 2^21, which fits 32 bits. */
#define DK_MAX_RUN 32

/* Round up to a multiple of DK_BLOCK. */
static inline int32_t dk_whole_blocks(int32_t n) { return (n + DK_BLOCK - 1) / DK_BLOCK * DK_BLOCK; }

/* DK_BLOCK values of one element type, at any alignment, without NaN. */
typedef struct dk_block {
  const void *data;
  int32_t dtype; /* DECODING_FLOAT32, DECODING_FLOAT16 or DECODING_BFLOAT16 */
} dk_block;

/* Quadratic smoothing of a logit x: d * d * (quadratic + cubic * d), d = x - max. It is monotone and keeps -inf. */
typedef struct dk_smoothing {
  float max;
  float quadratic;
  float cubic;
} dk_smoothing;

/* Tokens collected from a row: parallel arrays, in order of token id. */
typedef struct dk_entries {
  float *values;
  int32_t *ids;
  uint64_t *weights; /* may be null */
} dk_entries;

/* Values and their weights: parallel arrays. */
typedef struct dk_weighted {
  float *values;
  uint64_t *weights;
} dk_weighted;

/* Result of one pass over a block in the search for a threshold by mass (top_p.c). */
typedef struct dk_split {
  uint64_t all;        /* mass of the elements >= low */
  int32_t num_between; /* number of elements in [middle, high), which were appended to the list */
  uint64_t above;      /* mass of the elements >= high */
} dk_split;

typedef struct dk_tally {
  uint64_t above; /* mass of the values above a pivot */
  uint64_t equal; /* mass of the values equal to it */
} dk_tally;

typedef struct dk_kernel {
  /* Write the maximum of each block of a row of n elements, NaN counting as -inf. The array needs room for
   * DK_LANES more. Returns a set of DK_SAW_* bits. */
  uint32_t (*scan)(const void *row, int32_t dtype, int32_t n, float *block_max);

  /* Convert n <= DK_BLOCK elements to float32, NaN to -inf, and fill the rest of the block with -inf. */
  void (*widen)(const void *source, int32_t dtype, int32_t n, float *block);

  /* Set the elements whose bit is 0 to -inf. */
  void (*mask)(float *block, const uint32_t *words);

  void (*smooth)(float *block, const dk_smoothing *smoothing);

  /* Return the maximum of a block that is aligned as float requires. */
  float (*maximum)(const float *block);

  /* Return the index of the first element equal to the value, or -1. */
  int32_t (*find)(dk_block block, float value);

  /* Return the number of elements >= low. */
  int32_t (*count)(dk_block block, float low);

  /* Append the elements >= low, in order, and their ids, which count up from first_id. Returns how many. Both arrays
   * need room for DK_LANES more. */
  int32_t (*gather)(dk_block block, float low, int32_t first_id, float *values, int32_t *ids);

  /* Return the sum of the weights of the elements >= low in n <= DK_MAX_RUN consecutive blocks. */
  uint64_t (*mass)(dk_block first, int32_t n, float low, const dk_scale *scale);

  /* Write the weights of the elements >= low, and 0 for the others. */
  void (*weights)(dk_block block, float low, const dk_scale *scale, uint64_t *out);

  /* Return the weight of one value, bit for bit as `weights` writes it. */
  uint64_t (*weight)(float value, const dk_scale *scale);

  /* Compute mass(low), mass(high) and gather the values in [middle, high) in one pass, which costs little more than
   * one of the three. `list.weights` is not used. */
  dk_split (*split)(dk_block block, float low, const dk_scale *scale, float middle, float high, int32_t first_id,
                    dk_entries list);

  /* Sum the given weights above and at a value. */
  dk_tally (*tally)(dk_weighted from, float value);

  /* Copy the values of a block within [low, high], in order, and their weights. `to` may be `from` or lie before it,
   * and needs room for DK_LANES more. Returns how many. */
  int32_t (*narrow)(dk_weighted from, float low, float high, dk_weighted to);

  /* Sum the given weights of those of the first n values that are >= low; n may exceed a block. */
  uint64_t (*sum)(dk_weighted from, int32_t n, float low);

  /* Write unsigned integers in the order of the values (float_keys.h); both zeros have one key. */
  void (*keys)(dk_block block, uint32_t *out);

  /* Write floor((top - x) * bins_per_value) up to rounding, at most `last`; last + 1 for values outside [low, top]. */
  void (*bins)(const float *block, float top, float low, float bins_per_value, int32_t last, uint32_t *out);

  /* For the elements x >= low, add (x - origin)^p, p = 0, 1, 2, to sums[p * DK_LANES + lane]: multiplied by the weight
   * of x, or by 1 if `scale` is null. */
  void (*moments)(dk_block block, float low, const dk_scale *scale, double origin, double *sums);
} dk_kernel;

#define DK_SAW_NAN 1u
#define DK_SAW_INFINITY 2u /* +inf */

extern const dk_kernel dk_kernel_portable;
#if defined(DK_HAVE_X86)
extern const dk_kernel dk_kernel_avx2;
extern const dk_kernel dk_kernel_avx512;
#endif
#if defined(DK_HAVE_NEON)
extern const dk_kernel dk_kernel_neon;
#endif

/* Return the table of the instruction set in use. */
const dk_kernel *dk_active_kernel(void);

#endif
