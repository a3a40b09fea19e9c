/* Quantised weights: formats, packed panels, quantised inputs, and the functions that each instruction set fills in.
 *
 * Weights come as blocks of GGUF files and are packed into panels of 16 outputs. A panel is a run of groups of 32
 * inputs; with the k-quants, each eight groups are preceded by the float16 scales of their 256 inputs. In a group,
 * scales come first, then the weights in vectors of 64 bytes, [16 outputs][4 inputs]:
 *
 *   scales of 256 inputs   d[16], or d[16] dmin[16]: float16       (Q6_K; Q4_K, Q5_K)
 *   scales of a group      d[16], or d[16] m[16]: float16          (Q8_0, Q4_0, Q5_0; Q4_1, Q5_1)
 *                          scale[16] minimum[16]: uint8            (Q4_K, Q5_K)
 *                          scale[16] of each half: int8            (Q6_K)
 *   8 bits                 8 vectors, inputs 4s .. 4s + 3 in vector s
 *   4 bits                 4 vectors, inputs 4s .. 4s + 3 in the low nibbles of vector s, 16 more in the high ones
 *   5 bits                 4 such vectors, and one whose bit s is the fifth bit of inputs 4s .. 4s + 3
 *   6 bits                 each half of 16 inputs: 2 vectors of nibbles (inputs 4s, and 8 more), and one whose bits 2s
 * and 2s + 1 are the upper bits of inputs 4s .. 4s + 3
 *
 * A group starts at a multiple of 32 bytes of its panel. */
#ifndef DK_QUANTISED_H
#define DK_QUANTISED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decoding.h"
#include "forward/kernels.h" /* DK_PANEL */

#define DK_GROUP 32 /* inputs that share a scale */
#define DK_MAX_BLOCK_BYTES 210
#define DK_SUPERGROUP 256 /* inputs per block of the k-quants */

typedef struct dk_format {
  int32_t block_size; /* weights per block of the file */
  int32_t block_bytes;
  int32_t super_bytes; /* of a panel: scales per 256 inputs, 0 for none */
  int32_t group_bytes; /* of a panel: one group */
} dk_format;

/* By type. */
static const dk_format DK_FORMATS[] = {
    [DECODING_Q8_0] = {.block_size = 32, .block_bytes = 34, .super_bytes = 0, .group_bytes = 32 + 512},
    [DECODING_Q4_0] = {.block_size = 32, .block_bytes = 18, .super_bytes = 0, .group_bytes = 32 + 256},
    [DECODING_Q4_1] = {.block_size = 32, .block_bytes = 20, .super_bytes = 0, .group_bytes = 64 + 256},
    [DECODING_Q5_0] = {.block_size = 32, .block_bytes = 22, .super_bytes = 0, .group_bytes = 32 + 320},
    [DECODING_Q5_1] = {.block_size = 32, .block_bytes = 24, .super_bytes = 0, .group_bytes = 64 + 320},
    [DECODING_Q4_K] = {.block_size = 256, .block_bytes = 144, .super_bytes = 64, .group_bytes = 32 + 256},
    [DECODING_Q5_K] = {.block_size = 256, .block_bytes = 176, .super_bytes = 64, .group_bytes = 32 + 320},
    [DECODING_Q6_K] = {.block_size = 256, .block_bytes = 210, .super_bytes = 32, .group_bytes = 32 + 384},
};

/* The format, or null if the type is not a quantised one. */
const dk_format *dk_format_of(int32_t type);

/* Bytes of a panel; num_inputs is a multiple of the type's block_size. */
static inline size_t dk_quantised_panel_bytes(int32_t type, int32_t num_inputs) {
  const dk_format *format = &DK_FORMATS[type];
  return (size_t)(num_inputs / DK_GROUP) * (size_t)format->group_bytes +
         (size_t)(num_inputs / DK_SUPERGROUP) * (size_t)format->super_bytes;
}

/* Writes one row of blocks to output `lane` of a panel; zeros if blocks is null. Other lanes keep their bytes. */
void dk_quantised_pack_row(int32_t type, const uint8_t *blocks, int32_t num_inputs, uint8_t *panel, int32_t lane);

/* Writes the numbers that a row of blocks stands for: scale * (q - offset), or scale * q + minimum, each operation
 * rounded to float32. */
void dk_dequantise_row(int32_t type, const uint8_t *blocks, int32_t num_inputs, float *out);

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
#if defined(DK_HAVE_NEON)
extern const dk_quantised_kernel dk_quantised_neon;
extern const dk_quantised_kernel dk_quantised_neon_dot;
#endif

/* That of the set in use, with the products of bytes that this CPU has. */
const dk_quantised_kernel *dk_active_quantised_kernel(void);

#endif
