#include "forward/validate.h"

#include <math.h>

#include "forward/kernels.h"
#include "forward/kv_blocks.h"
#include "forward/pack.h"
#include "forward/quantised.h"

#define MAX_SIZE (1 << 24) /* of hidden states, heads and layers: products of two fit 64 bits, of one and 3 fit 32 */
#define MAX_WORKERS 1024

static int32_t is_size(int32_t n) { return n >= 1 && n <= MAX_SIZE; }
static int32_t is_flag(int32_t n) { return n == 0 || n == 1; }
static int32_t is_scale(float x) { return isfinite(x); }
static int32_t is_cap(float x) { return isfinite(x) && x >= 0.0f; }

/* `size` or, where heads may be normalised together, `other`. */
static int32_t is_norm(const decoding_norm *norm, int32_t size, int32_t other) {
  if (norm->kind == DECODING_NORM_NONE)
    return 1;
  return (norm->kind == DECODING_NORM_RMS || norm->kind == DECODING_NORM_LAYER) && norm->weight != NULL &&
         norm->reserved == 0 && (norm->size == size || norm->size == other) && isfinite(norm->eps) && norm->eps >= 0.0f;
}

static int32_t is_matrix(const decoding_matrix *matrix, int32_t num_inputs, int32_t num_outputs) {
  return matrix->num_inputs == num_inputs && matrix->num_outputs == num_outputs && matrix->panels != NULL &&
         matrix->reserved == 0 && decoding_packed_size(matrix->type, num_outputs, num_inputs) != 0 &&
         matrix->rest == NULL;
}

/* With outputs of other types behind those of the first. */
static int32_t is_mixed_matrix(const decoding_matrix *matrix, int32_t num_inputs, int32_t num_outputs) {
  const int32_t is_quantised = dk_format_of(matrix->type) != NULL;
  for (; matrix->rest != NULL; matrix = matrix->rest) {
    decoding_matrix part = *matrix;
    part.rest = NULL;
    if (matrix->num_outputs < 1 || matrix->num_outputs >= num_outputs || matrix->num_outputs % DK_PANEL != 0 ||
        !is_matrix(&part, num_inputs, matrix->num_outputs) ||
        (dk_format_of(matrix->rest->type) != NULL) != is_quantised)
      return 0;
    num_outputs -= matrix->num_outputs;
  }
  return is_matrix(matrix, num_inputs, num_outputs);
}

static int32_t is_layer(const decoding_plan *plan, const decoding_layer *layer) {
  const int32_t hidden = plan->hidden_size, inner = plan->intermediate_size, dim = plan->head_dim;
  const int32_t heads = plan->num_heads * dim, kv_heads = plan->num_kv_heads * dim;
  return is_norm(&layer->attention_norm, hidden, hidden) && is_norm(&layer->query_norm, dim, heads) &&
         is_norm(&layer->key_norm, dim, kv_heads) && is_norm(&layer->attention_out_norm, hidden, hidden) &&
         is_norm(&layer->mlp_norm, hidden, hidden) && is_norm(&layer->mlp_out_norm, hidden, hidden) &&
         is_mixed_matrix(&layer->qkv, hidden, heads + 2 * kv_heads) && is_matrix(&layer->output, heads, hidden) &&
         is_mixed_matrix(&layer->up, hidden, plan->gated ? 2 * inner : inner) &&
         is_matrix(&layer->down, inner, hidden) && layer->rope >= -1 && layer->rope < plan->num_ropes &&
         layer->window >= 0 && is_scale(layer->scale) && layer->reserved == 0;
}

static int32_t has_sizes(const decoding_plan *plan) {
  return plan->vocab_size >= 1 && plan->vocab_size <= DECODING_MAX_VOCAB_SIZE && is_size(plan->hidden_size) &&
         is_size(plan->intermediate_size) && is_size(plan->num_heads) && is_size(plan->num_kv_heads) &&
         plan->num_heads % plan->num_kv_heads == 0 && is_size(plan->head_dim) && is_size(plan->num_layers) &&
         (int64_t)plan->num_heads * plan->head_dim <= MAX_SIZE;
}

static int32_t has_ropes(const decoding_plan *plan) {
  if (plan->num_ropes < 0 || plan->num_ropes > MAX_SIZE || (plan->num_ropes > 0 && plan->rope_pairs == NULL))
    return 0;
  for (int32_t i = 0; i < plan->num_ropes; i++)
    if (plan->rope_pairs[i] < 1 || plan->rope_pairs[i] > plan->head_dim / 2)
      return 0;
  return 1;
}

static int32_t has_numbers(const decoding_plan *plan) {
  return plan->activation >= DECODING_ACT_LINEAR && plan->activation <= DECODING_ACT_HARDSWISH &&
         is_flag(plan->gated) && is_flag(plan->parallel_residual) && is_cap(plan->attention_cap) &&
         is_cap(plan->logits_cap) && is_scale(plan->embedding_scale) && is_scale(plan->residual_scale) &&
         is_scale(plan->logits_scale) && plan->reserved == 0;
}

static int32_t has_tensors(const decoding_plan *plan) {
  return dk_packed_panel_bytes(plan->embedding_type, plan->hidden_size) != 0 &&
         plan->embedding_type != DECODING_BFLOAT16_CODED && plan->embedding != NULL && plan->layers != NULL &&
         plan->num_positions >= 0 && (plan->positions == NULL) == (plan->num_positions == 0) &&
         is_norm(&plan->norm, plan->hidden_size, plan->hidden_size) &&
         is_matrix(&plan->head, plan->hidden_size, plan->vocab_size);
}

int32_t dk_check_plan(const decoding_plan *plan) {
  if (plan == NULL)
    return DECODING_BAD_ARGUMENT;
  if (plan->struct_size != sizeof *plan)
    return DECODING_BAD_SIZE;
  if (!has_sizes(plan) || !has_ropes(plan) || !has_numbers(plan) || !has_tensors(plan))
    return DECODING_BAD_ARGUMENT;
  for (int32_t i = 0; i < plan->num_layers; i++)
    if (!is_layer(plan, plan->layers + i))
      return DECODING_BAD_ARGUMENT;
  return DECODING_OK;
}

/* ---- a batch ---- */

static int32_t has_pointers(const decoding_plan *plan, const decoding_forward_batch *batch) {
  const int32_t has_logits = batch->num_logits == 0 || (batch->logits_tokens != NULL && batch->logits != NULL &&
                                                        batch->logits_stride >= plan->vocab_size);
  return batch->num_sequences >= 1 && batch->num_new != NULL && batch->start != NULL && batch->block_tables != NULL &&
         batch->token_ids != NULL && (plan->num_ropes == 0 || batch->rotary != NULL) && batch->num_logits >= 0 &&
         has_logits && batch->kv_cache != NULL && batch->num_blocks >= 1 && batch->num_workers >= 1 &&
         batch->num_workers <= (batch->parallel_for == NULL ? 1 : MAX_WORKERS) && batch->workspace != NULL &&
         batch->reserved == 0;
}

/* The number of tokens, or 0 where a sequence is not valid. */
static int32_t count_tokens(const decoding_plan *plan, const decoding_forward_batch *batch) {
  const int32_t limit = plan->positions == NULL ? INT32_MAX - DECODING_KV_BLOCK : plan->num_positions;
  int64_t total = 0;
  for (int32_t i = 0; i < batch->num_sequences; i++) {
    int64_t end = (int64_t)batch->start[i] + batch->num_new[i];
    if (batch->num_new[i] < 1 || batch->start[i] < 0 || end > limit || batch->block_tables[i] == NULL)
      return 0;
    for (int64_t block = 0; block * DECODING_KV_BLOCK < end; block++)
      if (batch->block_tables[i][block] < 0 || batch->block_tables[i][block] >= batch->num_blocks)
        return 0;
    total += batch->num_new[i];
  }
  return total * plan->num_heads > INT32_MAX ? 0 : (int32_t)total;
}

static int32_t has_rotary(const decoding_plan *plan, const decoding_forward_batch *batch, int32_t num_tokens) {
  for (int64_t i = 0; i < (int64_t)plan->num_ropes * num_tokens; i++)
    if (batch->rotary[i] == NULL)
      return 0;
  return 1;
}

static int32_t has_logits_tokens(const decoding_forward_batch *batch, int32_t num_tokens) {
  for (int32_t i = 0; i < batch->num_logits; i++)
    if (batch->logits_tokens[i] < 0 || batch->logits_tokens[i] >= num_tokens ||
        (i > 0 && batch->logits_tokens[i] <= batch->logits_tokens[i - 1]))
      return 0;
  return 1;
}

int32_t dk_check_forward_batch(const decoding_plan *plan, const decoding_forward_batch *batch, int32_t *num_tokens) {
  if (batch == NULL)
    return DECODING_BAD_ARGUMENT;
  if (batch->struct_size != sizeof *batch)
    return DECODING_BAD_SIZE;
  if (!has_pointers(plan, batch))
    return DECODING_BAD_ARGUMENT;
  *num_tokens = count_tokens(plan, batch);
  if (*num_tokens == 0 || !has_rotary(plan, batch, *num_tokens) || !has_logits_tokens(batch, *num_tokens) ||
      (uintptr_t)batch->kv_cache % sizeof(float) != 0)
    return DECODING_BAD_ARGUMENT;
  for (int32_t i = 0; i < *num_tokens; i++)
    if (batch->token_ids[i] < 0 || batch->token_ids[i] >= plan->vocab_size)
      return DECODING_BAD_TOKEN_ID;
  size_t needed = decoding_forward_workspace_size(plan, *num_tokens, batch->num_logits, batch->num_workers);
  return needed == 0 ? DECODING_BAD_ARGUMENT : batch->workspace_size < needed ? DECODING_SMALL_WORKSPACE : DECODING_OK;
}
