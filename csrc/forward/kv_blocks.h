/* The layout of the KV cache: [block][layer][kv head][keys | values], float32. Keys are [head_dim][16 tokens], so that
 * a vector is sixteen keys; values are [vector of head_dim][16 tokens][16], so that a column of them is contiguous. */
#ifndef DK_KV_BLOCKS_H
#define DK_KV_BLOCKS_H

#include "decoding.h"

/* Offsets in bytes within a block. */
size_t dk_keys_offset(const decoding_plan *plan, int32_t layer, int32_t kv_head);
size_t dk_values_offset(const decoding_plan *plan, int32_t layer, int32_t kv_head);

/* Bytes of a block of a plan whose sizes are valid. */
size_t dk_kv_block_bytes(const decoding_plan *plan);

/* Writes one token's keys and values of all heads, [num_kv_heads * head_dim] each, to lane position % 16 of a block. */
void dk_write_kv(const decoding_plan *plan, int32_t layer, char *block, int32_t position, const float *keys,
                 const float *values);

#endif
