/* Internal: the sizes that everything is cut to, and the table of functions that each instruction set fills in.
 *
 * A row is seen as blocks of DK_BLOCK values. Each function of the table works on one block, which is either the
 * caller's own memory (a whole block that nobody edited, in the caller's element type) or an edited copy of 1 KiB. */
#ifndef DK_KERNEL_H
#define DK_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#define DK_LANES 16  /* element i belongs to lane i % 16 on every instruction set */
#define DK_BLOCK 256 /* elements a block */
#define DK_MASK_WORDS (DK_BLOCK / 32)

/* weight = exp((x - max) / T), held as the integer round(weight * 2^DK_WEIGHT_BITS): sums are exact, so their order
 * cannot matter, and 2^20 tokens of weight 1 still fit 63 bits. */
#define DK_WEIGHT_BITS 43

/* How a value becomes a weight: exp2((x - max) * rate), rate = log2(e) / T, with x, max and T in units of 1 or, where T
 * is so large that differences of logits that count may overflow, of 2^64. */
typedef struct dk_scale {
  float max; /* in that unit */
  float rate;
  float unit; /* 1 or 2^-64 */
} dk_scale;

/* DK_BLOCK values of one element type, at any alignment, without a NaN. */
typedef struct dk_block {
  const void *data;
  int32_t dtype; /* DECODING_FLOAT32 and so on */
} dk_block;

/* Quadratic smoothing of a logit: d * d * (quadratic + cubic * d), d = x - max. Monotone; -inf stays -inf. */
typedef struct dk_shape {
  float max;
  float quadratic;
  float cubic;
} dk_shape;

/* Tokens taken out of their row: parallel arrays, in order of id. */
typedef struct dk_entries {
  float *values;
  int32_t *ids;
  uint64_t *weights;
} dk_entries;

typedef struct dk_weighed {
  float *values;
  uint64_t *weights;
} dk_weighed;

/* What one pass over a block finds out about a threshold search: see mass.c. */
typedef struct dk_split {
  uint64_t all;    /* mass of the elements >= low */
  int32_t between; /* how many of those in [middle, high) went to the list */
  uint64_t above;  /* mass of the elements >= high */
} dk_split;

typedef struct dk_tally {
  uint64_t above; /* mass over the value */
  uint64_t equal; /* mass of those that equal it */
} dk_tally;

typedef struct dk_kernel {
  const char *name;

  /* Maximum of each block of a row of n elements; a NaN counts as -inf. Returns a set of DK_SAW_* bits. */
  uint32_t (*scan)(const void *row, int32_t dtype, int32_t n, float *block_max);

  /* n <= DK_BLOCK elements to float32, NaN as -inf, the rest of the block -inf. */
  void (*widen)(const void *source, int32_t dtype, int32_t n, float *block);

  /* -inf where the bit is 0. */
  void (*mask)(float *block, const uint32_t *words);

  void (*shape)(float *block, const dk_shape *shape);

  /* Of a block, which may lie anywhere in memory that float32 may. */
  float (*maximum)(const float *block);

  /* Place of the first element that equals the value, or -1. */
  int32_t (*find)(dk_block block, float value);

  /* How many elements are >= low. */
  int32_t (*count)(dk_block block, float low);

  /* The elements >= low, in order, and their ids: first_id, first_id + 1, ... Returns how many; both lists need room
   * for DK_LANES more. */
  int32_t (*gather)(dk_block block, float low, int32_t first_id, float *values, int32_t *ids);

  /* Sum of the weights of the elements >= low. */
  uint64_t (*mass)(dk_block block, float low, const dk_scale *scale);

  /* The weights of the elements >= low, 0 elsewhere. */
  void (*weights)(dk_block block, float low, const dk_scale *scale, uint64_t *out);

  /* The weight of one value; bit for bit what `weights` has for it. */
  uint64_t (*weight)(float value, const dk_scale *scale);

  /* mass, mass above, and a gather of what lies between, at little more than the price of one. */
  dk_split (*split)(dk_block block, float low, const dk_scale *scale, float middle, float high, int32_t first_id,
                    dk_entries list);

  /* The given weights of the elements over and at a value. */
  dk_tally (*tally)(dk_weighed from, float value);

  /* The values of a block within [low, high], in order, and their weights; `to` may be `from` or lie before it. Returns
   * how many; `to` needs room for DK_LANES more. */
  int32_t (*narrow)(dk_weighed from, float low, float high, dk_weighed to);

  /* The given weights of the values >= low, of which there are n, whatever n is. */
  uint64_t (*sum)(dk_weighed from, int32_t n, float low);

  /* Unsigned integers in the order of the values; both zeros have one key. */
  void (*keys)(dk_block block, uint32_t *out);

  /* floor((top - x) * bins_per_value), or so, at most `last`; last + 1 for values outside [low, top]. */
  void (*bins)(const float *block, float top, float low, float bins_per_value, int32_t last, uint32_t *out);

  /* Adds, lane by lane, the powers 0, 1 and 2 of (x - origin) over the elements >= low, each times its weight where
   * there is a scale, else times 1: sums[power * DK_LANES + lane]. */
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

/* The set in use. */
const dk_kernel *dk_active_kernel(void);

#endif
