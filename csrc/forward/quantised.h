/* Quantised inputs, and the functions that each instruction set fills in for quantised weights (quantised_pack.h). */
#ifndef DK_QUANTISED_H
#define DK_QUANTISED_H

#include <stdint.h>

#include "forward/kernels.h"
#include "forward/quantised_pack.h"

/* 32 inputs of a row, x = scale * q. */
typedef struct dk_input_group {
  int8_t q[DK_GROUP]; /* -127 .. 127 */
  float scale;
  float sum;           /* scale * q_sum, rounded once */
  int32_t q_sum;       /* of all q */
  int32_t q_sum_upper; /* of the last 16 */
} dk_input_group;

/* Some rows of inputs times some panels. */
typedef struct dk_quantised_product {
  int32_t type;
  int32_t num_inputs;
  int32_t num_rows;
  int32_t num_panels;
  const dk_input_group *inputs; /* [num_rows][num_inputs / DK_GROUP] */
  const uint8_t *panels;        /* the first of them */
  float *y;                     /* [num_rows][y_stride], written: whole panels */
  int64_t y_stride;             /* elements */
} dk_quantised_product;

typedef struct dk_quantised_kernel {
  const char *name;

  /* Quantises num_inputs values, a multiple of 32. A group with an infinity or a NaN has the scale NaN and q = 0. */
  void (*quantise)(const float *inputs, int32_t num_inputs, dk_input_group *groups);

  /* y[row][output] = sum over the inputs. */
  void (*multiply)(const dk_quantised_product *product);
} dk_quantised_kernel;

extern const dk_quantised_kernel dk_quantised_portable;
#if defined(DK_HAVE_X86)
extern const dk_quantised_kernel dk_quantised_avx2;
extern const dk_quantised_kernel dk_quantised_avx512;
extern const dk_quantised_kernel dk_quantised_avx512_vnni;
#endif
#if defined(DK_HAVE_AVX_VNNI)
extern const dk_quantised_kernel dk_quantised_avx2_vnni;
#endif
#if defined(DK_HAVE_AMX)
extern const dk_quantised_kernel dk_quantised_avx512_amx;
#endif
#if defined(DK_HAVE_NEON)
extern const dk_quantised_kernel dk_quantised_neon;
extern const dk_quantised_kernel dk_quantised_neon_dot;
#endif

/* The table of the active instruction set, with the byte dot products that this CPU has. */
const dk_quantised_kernel *dk_active_quantised_kernel(void);

#endif
