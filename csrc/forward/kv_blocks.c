#include "forward/kv_blocks.h"

#include <string.h>

#include "forward/kernels.h"

#define VECTOR (DK_PANEL * sizeof(float)) /* bytes */

static size_t padded_dim(const decoding_plan *plan) { return ((size_t)plan->head_dim + 15) / 16 * 16; }

/* Floats of one head's keys, and of its keys and values. */
static size_t keys_size(const decoding_plan *plan) { return (size_t)plan->head_dim * DECODING_KV_BLOCK; }
static size_t head_size(const decoding_plan *plan) { return keys_size(plan) + padded_dim(plan) * DECODING_KV_BLOCK; }

size_t dk_keys_offset(const decoding_plan *plan, int32_t layer, int32_t kv_head) {
  return ((size_t)layer * (size_t)plan->num_kv_heads + (size_t)kv_head) * head_size(plan) * sizeof(float);
}

size_t dk_values_offset(const decoding_plan *plan, int32_t layer, int32_t kv_head) {
  return dk_keys_offset(plan, layer, kv_head) + keys_size(plan) * sizeof(float);
}

/* An odd number of KiB, so that the same part of neighbouring blocks maps to different sets of the L1 cache and a
 * column of values of a whole piece fits there. */
size_t dk_kv_block_bytes(const decoding_plan *plan) {
  size_t kibibytes = (dk_keys_offset(plan, plan->num_layers, 0) + 1023) / 1024;
  return (kibibytes | 1) * 1024;
}

void dk_write_kv(const decoding_plan *plan, int32_t layer, char *block, int32_t position, const float *keys,
                 const float *values) {
  const size_t dim = (size_t)plan->head_dim, lane = (size_t)position % DECODING_KV_BLOCK;
  for (int32_t head = 0; head < plan->num_kv_heads; head++) {
    char *key = block + dk_keys_offset(plan, layer, head) + lane * sizeof(float);
    char *value = block + dk_values_offset(plan, layer, head) + lane * VECTOR;
    for (size_t d = 0; d < dim; d++)
      memcpy(key + d * DECODING_KV_BLOCK * sizeof(float), keys + (size_t)head * dim + d, sizeof(float));
    for (size_t d = 0; d < dim; d += DK_PANEL, value += DECODING_KV_BLOCK * VECTOR)
      memcpy(value, values + (size_t)head * dim + d, (dim - d < DK_PANEL ? dim - d : DK_PANEL) * sizeof(float));
  }
}
