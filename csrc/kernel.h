/* Internal: the sizes that everything is cut to, and the table of functions that each instruction set fills in.
 *
 * A row is seen as blocks of DK_BLOCK float32 values. Each function of the table works on one block, which is
 * either the caller's own memory (a whole float32 block that nobody edited) or a widened, edited copy of 1 KiB. */
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

/* How a value becomes a weight. exp(d / T) is taken as exp2(d * rate) with rate = log2(e) / T as a float32 pair. */
typedef struct dk_scale {
  float unit;      /* 1, or 2^-64 where T is so large that d or rate would leave the float32 range */
  float minus_max; /* -max * unit */
  float rate_high;
  float rate_low;
} dk_scale;

/* A prefix of the total order (higher value, then lower id), as one block sees it: kept are the elements above
 * `value`, and of those equal to it the ones with a place in the block below `ties`. */
typedef struct dk_cutoff {
  float value;
  int32_t ties; /* 0 .. DK_BLOCK */
} dk_cutoff;

/* Tokens taken out of their row: parallel arrays, in order of id. */
typedef struct dk_entries {
  float *values;
  int32_t *ids;
  uint64_t *weights;
} dk_entries;

/* What one pass over a block finds out about a threshold search: see select.c. */
typedef struct dk_split {
  uint64_t all;    /* mass of the kept elements */
  uint64_t above;  /* of those >= high */
  int32_t between; /* how many of those in [low, high) went to the list */
} dk_split;

typedef struct dk_kernel {
  const char *name;

  /* Maximum of each block of a row of n elements; a NaN counts as -inf. Returns a set of DK_SAW_* bits. */
  uint32_t (*scan)(const void *row, int32_t dtype, int32_t n, float *block_max);

  /* n <= DK_BLOCK elements to float32, NaN as -inf, the rest of the block -inf. */
  void (*widen)(const void *source, int32_t dtype, int32_t n, float *block);

  /* -inf where the bit is 0. */
  void (*mask)(float *block, const uint32_t *words);

  float (*maximum)(const float *block);

  /* Place of the first element that equals the value, or -1. */
  int32_t (*find)(const float *block, float value);

  /* How many elements the cutoff keeps. */
  int32_t (*count)(const float *block, dk_cutoff kept);

  /* The kept elements, in order, and their ids: first_id, first_id + 1, ... Returns how many; both lists need room for
   * DK_LANES more. */
  int32_t (*gather)(const float *block, dk_cutoff kept, int32_t first_id, float *values, int32_t *ids);

  /* Sum of the kept weights. */
  uint64_t (*mass)(const float *block, dk_cutoff kept, const dk_scale *scale);

  /* The kept weights, 0 elsewhere. */
  void (*weights)(const float *block, dk_cutoff kept, const dk_scale *scale, uint64_t *out);

  /* The weight of one value, 0 below `low`; bit for bit what `weights` has for it. */
  uint64_t (*weight)(float value, float low, const dk_scale *scale);

  /* mass, mass above, and a gather of what lies between, at the price of one. */
  dk_split (*split)(const float *block, dk_cutoff kept, const dk_scale *scale, float low, float high, int32_t first_id,
                    dk_entries list);

  /* Sum of the given weights of the elements >= low. */
  uint64_t (*sum_from)(const float *block, const uint64_t *weights, float low);

  /* The entries of a block with low <= value <= high, in order, to `to`, which may be `from` or lie before it. Returns
   * how many; `to` needs room for DK_LANES more. */
  int32_t (*narrow)(dk_entries from, float low, float high, dk_entries to);

  /* Unsigned integers in the order of the values; both zeros have one key. */
  void (*keys)(const float *block, uint32_t *out);
} dk_kernel;

#define DK_SAW_NAN 1u
#define DK_SAW_INFINITY 2u /* +inf */

extern const dk_kernel dk_kernel_portable;
#if defined(DK_HAVE_X86)
extern const dk_kernel dk_kernel_avx2;
extern const dk_kernel dk_kernel_avx512;
#endif

/* The set in use. */
const dk_kernel *dk_active_kernel(void);

#endif
