/* Internal: how a logit becomes an integer weight. Shared by exp16.h, which computes weights on lanes, and by scalar
 * code, which has no instruction set. */
#ifndef DK_WEIGHT_SCALE_H
#define DK_WEIGHT_SCALE_H

#define DK_LANES 16 /* element i belongs to lane i % 16 on every instruction set */

/* A weight is exp((x - max) / T) as the integer round(weight * 2^DK_WEIGHT_BITS). Integer sums are exact, so their
 * order does not matter, and 2^20 tokens of weight 1 still fit into 63 bits. */
#define DK_WEIGHT_BITS 43

/* weight = exp2((x * unit - max) * rate), rate = log2(e) / (T * unit). If T is so large that differences of logits
 * could overflow, unit is 2^-64. */
typedef struct dk_scale {
  float max; /* the maximum of the logits, times unit */
  float rate;
  float unit; /* 1 or 2^-64 */
} dk_scale;

#endif
