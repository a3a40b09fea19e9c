/* Blocks of GGUF files to panels. The layouts of blocks are those of the ggml library; of panels, see quantised.h. */
#include <string.h>

#include "forward/quantised_pack.h"
#include "simd/float16.h"

const dk_format *dk_format_of(int32_t type) {
  int32_t num_formats = (int32_t)(sizeof DK_FORMATS / sizeof DK_FORMATS[0]);
  return type >= 0 && type < num_formats && DK_FORMATS[type].block_size > 0 ? &DK_FORMATS[type] : NULL;
}

/* ---- reading a block ---- */

/* 32 weights: the low nibbles of 16 bytes, then the high ones. */
static void read_nibbles(const uint8_t *bytes, uint8_t *weights) {
  for (int i = 0; i < 16; i++) {
    weights[i] = bytes[i] & 15;
    weights[16 + i] = bytes[i] >> 4;
  }
}

/* Bit i of four bytes is the fifth bit of weight i. */
static void add_fifth_bits(const uint8_t *bytes, uint8_t *weights) {
  for (int i = 0; i < DK_GROUP; i++)
    weights[i] |= (uint8_t)((bytes[i / 8] >> i % 8 & 1) << 4);
}

/* Group g of Q4_K and Q5_K: 32 bytes hold two groups, the first in the low nibbles. */
static void read_group_nibbles(const uint8_t *bytes, int g, uint8_t *weights) {
  for (int i = 0; i < DK_GROUP; i++)
    weights[i] = bytes[g / 2 * 32 + i] >> g % 2 * 4 & 15;
}

/* Group g of Q6_K: a half of four groups has 64 bytes of nibbles and 32 bytes of bit pairs. */
static void read_six_bits(const uint8_t *block, int g, uint8_t *weights) {
  const uint8_t *nibbles = block + g / 4 * 64 + g % 2 * 32, *pairs = block + 128 + g / 4 * 32;
  for (int i = 0; i < DK_GROUP; i++)
    weights[i] = (uint8_t)((nibbles[i] >> g % 4 / 2 * 4 & 15) | (pairs[i] >> g % 4 * 2 & 3) << 4);
}

/* The weights of group g of a block, as stored: without scales and offsets. */
static void read_weights(int32_t type, const uint8_t *block, int g, uint8_t *weights) {
  switch (type) {
  case DECODING_Q8_0:
    memcpy(weights, block + 2, DK_GROUP);
    break;
  case DECODING_Q4_0:
    read_nibbles(block + 2, weights);
    break;
  case DECODING_Q4_1:
    read_nibbles(block + 4, weights);
    break;
  case DECODING_Q5_0:
    read_nibbles(block + 6, weights);
    add_fifth_bits(block + 2, weights);
    break;
  case DECODING_Q5_1:
    read_nibbles(block + 8, weights);
    add_fifth_bits(block + 4, weights);
    break;
  case DECODING_Q4_K:
    read_group_nibbles(block + 16, g, weights);
    break;
  case DECODING_Q5_K:
    read_group_nibbles(block + 48, g, weights);
    for (int i = 0; i < DK_GROUP; i++)
      weights[i] |= (uint8_t)((block[16 + i] >> g & 1) << 4);
    break;
  default:
    read_six_bits(block, g, weights);
  }
}

/* ---- writing one lane of a panel ---- */

static void put(uint8_t *vectors, int32_t vector, int32_t lane, const uint8_t *four) {
  memcpy(vectors + 64 * vector + 4 * lane, four, 4);
}

static void put_bytes(uint8_t *vectors, int32_t lane, const uint8_t *weights) {
  for (int32_t s = 0; s < 8; s++)
    put(vectors, s, lane, weights + 4 * s);
}

/* n inputs in n / 8 vectors; the second half of them in the high nibbles. */
static void put_nibbles(uint8_t *vectors, int32_t lane, const uint8_t *weights, int32_t n) {
  uint8_t pairs[DK_GROUP / 2];
  for (int32_t i = 0; i < n / 2; i++)
    pairs[i] = (uint8_t)((weights[i] & 15) | weights[n / 2 + i] << 4);
  for (int32_t s = 0; s < n / 8; s++)
    put(vectors, s, lane, pairs + 4 * s);
}

/* The bits above the nibbles, `width` of each weight, those of inputs 4s .. 4s + 3 at bit width * s. */
static void put_upper_bits(uint8_t *vector, int32_t lane, const uint8_t *weights, int32_t width) {
  uint8_t four[4] = {0, 0, 0, 0};
  for (int32_t i = 0; i < 4 * 8 / width; i++)
    four[i % 4] |= (uint8_t)(weights[i] >> 4 << i / 4 * width);
  put(vector, 0, lane, four);
}

static void put_weights(int32_t type, const uint8_t *weights, uint8_t *vectors, int32_t lane) {
  switch (type) {
  case DECODING_Q8_0:
    put_bytes(vectors, lane, weights);
    break;
  case DECODING_Q6_K:
    for (int half = 0; half < 2; half++) {
      put_nibbles(vectors + 192 * half, lane, weights + 16 * half, 16);
      put_upper_bits(vectors + 192 * half + 128, lane, weights + 16 * half, 2);
    }
    break;
  case DECODING_Q5_0:
  case DECODING_Q5_1:
  case DECODING_Q5_K:
    put_upper_bits(vectors + 256, lane, weights, 1);
    put_nibbles(vectors, lane, weights, DK_GROUP);
    break;
  default:
    put_nibbles(vectors, lane, weights, DK_GROUP);
  }
}

/* ---- scales ---- */

/* 6-bit scale g and minimum g of Q4_K and Q5_K, from 12 bytes: the first four have a byte each, whose two upper bits
 * belong to the last four. */
static void read_scale_and_minimum(const uint8_t *bytes, int g, uint8_t *scale, uint8_t *minimum) {
  if (g < 4) {
    *scale = bytes[g] & 63;
    *minimum = bytes[g + 4] & 63;
  } else {
    *scale = (uint8_t)((bytes[g + 4] & 15) | bytes[g - 4] >> 6 << 4);
    *minimum = (uint8_t)(bytes[g + 4] >> 4 | bytes[g] >> 6 << 4);
  }
}

/* float16 scales per 256 inputs. Returns the bytes that they take in the panel. */
static int32_t put_super_scales(int32_t type, const uint8_t *block, uint8_t *panel, int32_t lane) {
  if (type == DECODING_Q6_K) {
    memcpy(panel + 2 * lane, block + 208, 2);
    return 32;
  }
  memcpy(panel + 2 * lane, block, 2);
  memcpy(panel + 32 + 2 * lane, block + 2, 2);
  return 64;
}

/* Scales of group g. Returns the bytes that they take in the panel. */
static int32_t put_group_scales(int32_t type, const uint8_t *block, int g, uint8_t *panel, int32_t lane) {
  switch (type) {
  case DECODING_Q4_K:
  case DECODING_Q5_K:
    read_scale_and_minimum(block + 4, g, panel + lane, panel + 16 + lane);
    return 32;
  case DECODING_Q6_K:
    panel[lane] = block[192 + 2 * g];
    panel[16 + lane] = block[192 + 2 * g + 1];
    return 32;
  case DECODING_Q4_1:
  case DECODING_Q5_1:
    memcpy(panel + 2 * lane, block, 2);
    memcpy(panel + 32 + 2 * lane, block + 2, 2);
    return 64;
  default:
    memcpy(panel + 2 * lane, block, 2);
    return 32;
  }
}

void dk_quantised_pack_row(int32_t type, const uint8_t *blocks, int32_t num_inputs, uint8_t *panel, int32_t lane) {
  static const uint8_t zeros[DK_MAX_BLOCK_BYTES];
  const dk_format *format = dk_format_of(type);
  const int32_t step = blocks == NULL ? 0 : format->block_bytes;
  uint8_t weights[DK_GROUP];
  blocks = blocks == NULL ? zeros : blocks;
  for (int32_t k = 0; k < num_inputs; k += format->block_size, blocks += step) {
    if (format->super_bytes > 0)
      panel += put_super_scales(type, blocks, panel, lane);
    for (int g = 0; g < format->block_size / DK_GROUP; g++) {
      read_weights(type, blocks, g, weights);
      int32_t scales = put_group_scales(type, blocks, g, panel, lane);
      put_weights(type, weights, panel + scales, lane);
      panel += format->group_bytes;
    }
  }
}

/* ---- dequantisation ---- */

static float read_f16(const uint8_t *bytes) { return dk_float_of_f16((uint32_t)(bytes[0] | bytes[1] << 8)); }

typedef struct group_scale {
  float scale[2]; /* of each half */
  float offset;   /* subtracted from the integers */
  float minimum;  /* added */
} group_scale;

static group_scale read_group_scale(int32_t type, const uint8_t *block, int g) {
  const float d = read_f16(block), second = read_f16(block + 2);
  uint8_t scale, minimum;
  switch (type) {
  case DECODING_Q4_K:
  case DECODING_Q5_K:
    read_scale_and_minimum(block + 4, g, &scale, &minimum);
    return (group_scale){.scale = {d * scale, d * scale}, .minimum = -(second * minimum)};
  case DECODING_Q6_K: {
    const float super = read_f16(block + 208);
    return (group_scale){.scale = {super * (int8_t)block[192 + 2 * g], super * (int8_t)block[193 + 2 * g]},
                         .offset = 32};
  }
  case DECODING_Q4_1:
  case DECODING_Q5_1:
    return (group_scale){.scale = {d, d}, .minimum = second};
  default:
    return (group_scale){.scale = {d, d}, .offset = type == DECODING_Q4_0 ? 8 : type == DECODING_Q5_0 ? 16 : 0};
  }
}

void dk_dequantise_row(int32_t type, const uint8_t *blocks, int32_t num_inputs, float *out) {
  const dk_format *format = dk_format_of(type);
  uint8_t weights[DK_GROUP];
  for (int32_t k = 0; k < num_inputs; k += DK_GROUP) {
    const uint8_t *block = blocks + (size_t)(k / format->block_size) * (size_t)format->block_bytes;
    const int g = k % format->block_size / DK_GROUP;
    const group_scale from = read_group_scale(type, block, g);
    read_weights(type, block, g, weights);
    for (int i = 0; i < DK_GROUP; i++) {
      const float q = type == DECODING_Q8_0 ? (float)(int8_t)weights[i] : (float)weights[i];
      out[k + i] = from.scale[i / 16] * (q - from.offset) + from.minimum;
    }
  }
}
