/* Packed panels of quantised weights.
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
#ifndef DK_QUANTISED_PACK_H
#define DK_QUANTISED_PACK_H

#include <stddef.h>
#include <stdint.h>

#include "decoding.h"

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

/* Dequantises a row of blocks: scale * (q - offset), or scale * q + minimum, each operation
 * rounded to float32. */
void dk_dequantise_row(int32_t type, const uint8_t *blocks, int32_t num_inputs, float *out);

#endif
