/* Prints a hash of the bits of quantised matmuls per type, as computed by one instruction set.
 *     quantised_bits <kernel> [rows per product]
 * The tests compile it with the files of each set, and for sets that the machine does not have with an emulation. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "forward/quantised.h"

#define OUTPUTS 48
#define MAX_INPUTS 1280
#define ROWS 35
#define MAX_PANEL_BYTES (MAX_INPUTS * DK_PANEL * 2)

static const char *const TYPES[] = {[DECODING_Q8_0] = "q8_0", [DECODING_Q4_0] = "q4_0", [DECODING_Q4_1] = "q4_1",
                                    [DECODING_Q5_0] = "q5_0", [DECODING_Q5_1] = "q5_1", [DECODING_Q4_K] = "q4_k",
                                    [DECODING_Q5_K] = "q5_k", [DECODING_Q6_K] = "q6_k"};

static uint8_t panels[OUTPUTS / DK_PANEL * MAX_PANEL_BYTES];
static float inputs[ROWS * MAX_INPUTS], outputs[ROWS * OUTPUTS];
static dk_input_group groups[ROWS * MAX_INPUTS / DK_GROUP];

/* splitmix64 */
static uint64_t state;
static uint64_t next_word(void) {
  uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

/* Where a block has float16 numbers. */
static int num_halves(int32_t type) {
  return type == DECODING_Q4_1 || type == DECODING_Q5_1 || type == DECODING_Q4_K || type == DECODING_Q5_K ? 2 : 1;
}

/* Weights are random bytes; or all bits 0 or 1 in every other output. Scales are small, or corners of float16. */
static void make_block(int32_t type, uint8_t *block, int corner, int32_t output) {
  static const uint16_t scales[] = {0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0xFBFF, 0x0400, 0x3C00};
  const dk_format *format = dk_format_of(type);
  for (int32_t i = 0; i < format->block_bytes; i++)
    block[i] = corner ? (output % 2 ? 0xFF : 0x00) : (uint8_t)next_word();
  if (corner && type == DECODING_Q8_0)
    memset(block, output % 2 ? 0x80 : 0x7F, (size_t)format->block_bytes);
  for (int h = 0; h < num_halves(type); h++) {
    uint64_t word = next_word();
    uint16_t half = corner ? scales[(output / 2 + h) % 8] : (uint16_t)(0x2000 + (word & 0x83FF));
    memcpy(block + (type == DECODING_Q6_K ? 208 : 2 * h), &half, 2);
  }
}

static void make_weights(int32_t type, int32_t num_inputs, int corner) {
  static uint8_t blocks[MAX_INPUTS * 2];
  const dk_format *format = dk_format_of(type);
  for (int32_t output = 0; output < OUTPUTS; output++) {
    for (int32_t b = 0; b < num_inputs / format->block_size; b++)
      make_block(type, blocks + b * format->block_bytes, corner, output);
    dk_quantised_pack_row(type, blocks, num_inputs,
                          panels + (size_t)(output / DK_PANEL) * dk_quantised_panel_bytes(type, num_inputs),
                          output % DK_PANEL);
  }
}

/* Numbers of about normal size; in corners all of one magnitude, so that q is 127 or -127 everywhere. */
static void make_inputs(int32_t num_inputs, int corner) {
  for (int32_t i = 0; i < ROWS * num_inputs; i++) {
    uint64_t word = next_word();
    int32_t row = i / num_inputs, sign = row % 3 == 0 || (row % 3 == 1 && word & 1) ? -1 : 1;
    inputs[i] = corner ? (float)sign * 3.0f : (float)((int32_t)(word >> 40) - (1 << 23)) * 0x1p-21f;
  }
  if (corner) { /* a group of zeros, one of tiny numbers, one with a NaN */
    memset(inputs, 0, 32 * sizeof(float));
    inputs[num_inputs] = 0x1p-101f;
    memset(inputs + num_inputs + 1, 0, 31 * sizeof(float));
    memset(inputs + 2 * num_inputs, 0xFF, sizeof(float));
  }
}

static uint64_t product_hash(const dk_quantised_kernel *kernel, int32_t type, int32_t num_inputs, int32_t step,
                             uint64_t hash) {
  dk_quantised_product product = {
      .type = type, .num_inputs = num_inputs, .num_panels = OUTPUTS / DK_PANEL, .panels = panels, .y_stride = OUTPUTS};
  for (int32_t row = 0; row < ROWS; row++)
    kernel->quantise(inputs + row * num_inputs, num_inputs, groups + row * (num_inputs / DK_GROUP));
  for (int32_t row = 0; row < ROWS; row += step) {
    product.num_rows = ROWS - row < step ? ROWS - row : step;
    product.inputs = groups + row * (num_inputs / DK_GROUP);
    product.y = outputs + row * OUTPUTS;
    kernel->multiply(&product);
  }
  for (int32_t i = 0; i < ROWS * OUTPUTS; i++) { /* FNV-1a; one NaN for all */
    uint32_t bits = 0x7FC00000u;
    if (outputs[i] == outputs[i])
      memcpy(&bits, outputs + i, sizeof bits);
    for (int byte = 0; byte < 4; byte++)
      hash = (hash ^ (bits >> 8 * byte & 255)) * 0x100000001B3u;
  }
  return hash;
}

static const dk_quantised_kernel *find(const char *name) {
#if defined(DK_HAVE_X86)
  if (strcmp(name, "avx2") == 0)
    return &dk_quantised_avx2;
  if (strcmp(name, "avx512") == 0)
    return &dk_quantised_avx512;
  if (strcmp(name, "avx512_vnni") == 0)
    return &dk_quantised_avx512_vnni;
#endif
#if defined(DK_HAVE_AVX_VNNI)
  if (strcmp(name, "avx2_vnni") == 0)
    return &dk_quantised_avx2_vnni;
#endif
#if defined(DK_HAVE_AMX)
  if (strcmp(name, "avx512_amx") == 0)
    return &dk_quantised_avx512_amx;
#endif
#if defined(DK_HAVE_NEON)
  if (strcmp(name, "neon") == 0)
    return &dk_quantised_neon;
  if (strcmp(name, "neon_dot") == 0)
    return &dk_quantised_neon_dot;
#endif
  return strcmp(name, "portable") == 0 ? &dk_quantised_portable : NULL;
}

int main(int argc, char **argv) {
  static const int32_t sizes[] = {256, 512, 1280};
  const dk_quantised_kernel *kernel = argc > 1 ? find(argv[1]) : NULL;
  int32_t step = argc > 2 ? atoi(argv[2]) : ROWS;
  if (kernel == NULL || step < 1)
    return 2;
  for (int32_t type = DECODING_Q8_0; type <= DECODING_Q6_K; type++) {
    uint64_t hash = 0xCBF29CE484222325u;
    state = (uint64_t)type;
    for (int i = 0; i < 6; i++) {
      make_weights(type, sizes[i / 2], i % 2);
      make_inputs(sizes[i / 2], i % 2);
      hash = product_hash(kernel, type, sizes[i / 2], step, hash);
    }
    printf("%s %016llx\n", TYPES[type], (unsigned long long)hash);
  }
  return 0;
}
