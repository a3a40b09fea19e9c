/* The walk over the plan: one step of a decoder network. */
#include <string.h>

#include "decoding.h"
#include "forward/attention.h"
#include "forward/kv_blocks.h"
#include "forward/matmul.h"
#include "forward/pass.h"
#include "forward/rows.h"
#include "forward/validate.h"
#include "simd/float_env.h"

#define MAX_TOKENS (1 << 24)

size_t decoding_kv_block_size(const decoding_plan *plan) {
  return dk_check_plan(plan) == DECODING_OK ? dk_kv_block_bytes(plan) : 0;
}

size_t decoding_forward_workspace_size(const decoding_plan *plan, int32_t num_tokens, int32_t num_logits,
                                       int32_t num_workers) {
  dk_buffers buffers;
  if (dk_check_plan(plan) != DECODING_OK || num_tokens < 1 || num_tokens > MAX_TOKENS || num_logits < 0 ||
      num_logits > num_tokens || num_workers < 1)
    return 0;
  return dk_buffers_layout(plan, num_tokens, num_workers, NULL, &buffers);
}

static void find_positions(dk_pass *pass) {
  const decoding_forward_batch *batch = pass->batch;
  int32_t token = 0;
  for (int32_t i = 0; i < batch->num_sequences; i++) {
    for (int32_t j = 0; j < batch->num_new[i]; j++, token++) {
      pass->buffers.sequences[token] = i;
      pass->buffers.positions[token] = batch->start[i] + j;
      pass->buffers.rows[token] = token;
    }
  }
  pass->num_rows = pass->num_tokens;
  dk_find_query_tiles(pass);
}

/* From here on only the rows that logits are wanted for: their hidden states move to the front. */
static void keep_wanted_rows(dk_pass *pass) {
  const decoding_forward_batch *batch = pass->batch;
  const int64_t stride = pass->buffers.hidden_stride;
  for (int32_t row = 0; row < batch->num_logits; row++) {
    int32_t token = batch->logits_tokens[row];
    pass->buffers.rows[row] = token;
    if (token != row)
      memcpy(pass->buffers.hidden + row * stride, pass->buffers.hidden + token * stride,
             (size_t)stride * sizeof(float));
  }
  pass->num_rows = batch->num_logits;
  dk_find_query_tiles(pass);
}

static void prepare_hidden(dk_pass *pass, const decoding_norm *norm, const decoding_matrix *matrix) {
  dk_prepare(pass, pass->buffers.hidden, pass->buffers.hidden_stride, pass->num_rows, norm, matrix);
}

/* Queries, keys and values to `wide`, keys and values to the cache. In the last layer, queries of wanted rows only. */
static void queries_keys_values(dk_pass *pass, int32_t number) {
  const decoding_layer *layer = pass->plan->layers + number;
  const int32_t queries = pass->plan->num_heads * pass->plan->head_dim;
  const int32_t all = queries + 2 * pass->plan->num_kv_heads * pass->plan->head_dim;
  const int32_t is_last = number == pass->plan->num_layers - 1 && pass->batch->num_logits < pass->num_tokens;
  float *wide = pass->buffers.wide;
  prepare_hidden(pass, &layer->attention_norm, &layer->qkv);
  dk_multiply(pass, &layer->qkv, pass->num_rows, is_last ? queries : 0, all, wide, pass->buffers.wide_stride);
  dk_store_keys_and_values(pass, number);
  if (is_last) {
    keep_wanted_rows(pass);
    if (pass->num_rows == 0)
      return;
    prepare_hidden(pass, &layer->attention_norm, &layer->qkv);
    dk_multiply(pass, &layer->qkv, pass->num_rows, 0, queries, wide, pass->buffers.wide_stride);
  }
  dk_turn_queries(pass, number);
}

static void attention_half(dk_pass *pass, int32_t number) {
  const decoding_layer *layer = pass->plan->layers + number;
  const dk_buffers *buffers = &pass->buffers;
  dk_attend(pass, number);
  dk_prepare(pass, buffers->wide, buffers->wide_stride, pass->num_rows, NULL, &layer->output);
  dk_multiply(pass, &layer->output, pass->num_rows, 0, layer->output.num_outputs, buffers->out, buffers->hidden_stride);
}

static void mlp_half(dk_pass *pass, int32_t number) {
  const decoding_layer *layer = pass->plan->layers + number;
  const dk_buffers *buffers = &pass->buffers;
  dk_multiply_up(pass, &layer->up, pass->num_rows);
  dk_prepare(pass, buffers->wide, buffers->wide_stride, pass->num_rows, NULL, &layer->down);
  dk_multiply(pass, &layer->down, pass->num_rows, 0, layer->down.num_outputs, buffers->out, buffers->hidden_stride);
}

static void run_layer(dk_pass *pass, int32_t number) {
  const decoding_layer *layer = pass->plan->layers + number;
  queries_keys_values(pass, number);
  if (pass->num_rows == 0)
    return;
  attention_half(pass, number);
  if (pass->plan->parallel_residual)
    prepare_hidden(pass, &layer->mlp_norm, &layer->up);
  dk_add_out(pass, pass->num_rows, &layer->attention_out_norm);
  if (!pass->plan->parallel_residual)
    prepare_hidden(pass, &layer->mlp_norm, &layer->up);
  mlp_half(pass, number);
  dk_add_out(pass, pass->num_rows, &layer->mlp_out_norm);
}

int32_t decoding_forward(const decoding_plan *plan, const decoding_forward_batch *batch) {
  dk_pass pass = {
      .plan = plan, .batch = batch, .kernel = dk_active_forward_kernel(), .quantised = dk_active_quantised_kernel()};
  int32_t status = dk_check_plan(plan);
  if (status == DECODING_OK)
    status = dk_check_forward_batch(plan, batch, &pass.num_tokens);
  if (status != DECODING_OK)
    return status;
  uint64_t host = dk_float_env_pin();
  (void)dk_buffers_layout(plan, pass.num_tokens, batch->num_workers, batch->workspace, &pass.buffers);
  find_positions(&pass);
  dk_embed(&pass);
  for (int32_t i = 0; i < plan->num_layers; i++)
    run_layer(&pass, i);
  if (pass.num_rows > 0) {
    prepare_hidden(&pass, &plan->norm, &plan->head);
    dk_multiply_head(&pass, pass.num_rows);
  }
  dk_float_env_restore(host);
  return DECODING_OK;
}
