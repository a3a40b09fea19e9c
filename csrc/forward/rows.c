#include "forward/rows.h"

#include <stdbool.h>
#include <string.h>

#include "forward/kv_blocks.h"

#define ROWS_PER_TASK 4 /* so few are not worth another thread */

/* Rows in groups of `group`, one task each. */
typedef struct rows_job {
  const dk_pass *pass;
  int32_t num_rows;
  int32_t group;
  void (*each)(const struct rows_job *job, int32_t row, int32_t end, float *scratch);
  const float *source;
  int64_t stride;
  int32_t num_inputs;
  int32_t layer;
  const decoding_norm *norm;
} rows_job;

static void rows_task(void *argument, int32_t index, int32_t worker) {
  const rows_job *job = argument;
  int32_t row = index * job->group, end = row + job->group < job->num_rows ? row + job->group : job->num_rows;
  job->each(job, row, end, dk_worker_scratch(job->pass, worker));
}

static void run(rows_job *job) {
  dk_run_tasks(job->pass, (job->num_rows + job->group - 1) / job->group, rows_task, job);
}

static void normalise(const dk_pass *pass, const decoding_norm *norm, const float *x, float *out) {
  if (norm->kind == DECODING_NORM_RMS)
    pass->kernel->rms_norm(x, norm->size, norm->eps, norm->weight, out);
  else
    pass->kernel->layer_norm(x, norm->size, norm->eps, norm->weight, norm->bias, out);
}

/* ---- the embedding ---- */

static void embed_rows(const rows_job *job, int32_t row, int32_t end, float *scratch) {
  const dk_pass *pass = job->pass;
  const decoding_plan *plan = pass->plan;
  (void)scratch;
  for (; row < end; row++) {
    const char *stored = (const char *)plan->embedding + pass->batch->token_ids[row] * plan->embedding_stride;
    const float *learned = NULL;
    if (plan->positions != NULL)
      learned = plan->positions + (size_t)pass->buffers.positions[row] * (size_t)plan->hidden_size;
    float *hidden = pass->buffers.hidden + row * pass->buffers.hidden_stride;
    int32_t type = plan->embedding_type;
    if (dk_format_of(type) != NULL) {
      dk_dequantise_row(type, (const uint8_t *)stored, plan->hidden_size, hidden);
      stored = (const char *)hidden;
      type = DECODING_FLOAT32;
    }
    pass->kernel->embed(stored, type, plan->embedding_scale, learned, plan->hidden_size, hidden);
  }
}

void dk_embed(const dk_pass *pass) {
  rows_job job = {.pass = pass, .num_rows = pass->num_tokens, .group = ROWS_PER_TASK, .each = embed_rows};
  run(&job);
}

/* ---- the input of a matmul: whole tiles ---- */

static void prepare_tile(const rows_job *job, int32_t row, int32_t end, float *scratch) {
  const dk_pass *pass = job->pass;
  const float *rows = job->source + row * job->stride;
  int64_t stride = job->stride;
  if (job->norm != NULL) {
    stride = job->num_inputs;
    for (int32_t i = row; i < end; i++)
      normalise(pass, job->norm, job->source + i * job->stride, scratch + (i - row) * stride);
    rows = scratch;
  }
  pass->kernel->prepare(rows, stride, end - row, job->num_inputs,
                        pass->buffers.prepared + (size_t)row * (size_t)job->num_inputs);
}

/* dk_input_group in the place of floats, of which they are fewer bytes. */
static void quantise_tile(const rows_job *job, int32_t row, int32_t end, float *scratch) {
  const size_t num_groups = (size_t)(job->num_inputs / DK_GROUP);
  dk_input_group *prepared = (dk_input_group *)(void *)job->pass->buffers.prepared;
  for (; row < end; row++) {
    const float *x = job->source + row * job->stride;
    if (job->norm != NULL) {
      normalise(job->pass, job->norm, x, scratch);
      x = scratch;
    }
    job->pass->quantised->quantise(x, job->num_inputs, prepared + (size_t)row * num_groups);
  }
}

void dk_prepare(dk_pass *pass, const float *rows, int64_t stride, int32_t num_rows, const decoding_norm *norm,
                const decoding_matrix *matrix) {
  const bool is_quantised = dk_format_of(matrix->type) != NULL;
  rows_job job = {.pass = pass,
                  .num_rows = num_rows,
                  .group = pass->kernel->tile,
                  .each = is_quantised ? quantise_tile : prepare_tile,
                  .source = rows,
                  .stride = stride,
                  .num_inputs = matrix->num_inputs,
                  .norm = norm == NULL || norm->kind == DECODING_NORM_NONE ? NULL : norm};
  pass->input = pass->buffers.prepared;
  if (num_rows == 1 && norm == NULL && !is_quantised)
    pass->input = rows; /* a tile of one row is the row */
  else
    run(&job);
}

/* ---- residual sums ---- */

static void add_rows(const rows_job *job, int32_t row, int32_t end, float *scratch) {
  const dk_pass *pass = job->pass;
  const dk_buffers *buffers = &pass->buffers;
  (void)scratch;
  for (; row < end; row++) {
    float *out = buffers->out + row * buffers->hidden_stride;
    if (job->norm->kind != DECODING_NORM_NONE)
      normalise(pass, job->norm, out, out);
    pass->kernel->add_scaled(buffers->hidden + row * buffers->hidden_stride, out, pass->plan->residual_scale,
                             pass->plan->hidden_size);
  }
}

void dk_add_out(const dk_pass *pass, int32_t num_rows, const decoding_norm *norm) {
  rows_job job = {.pass = pass, .num_rows = num_rows, .group = ROWS_PER_TASK, .each = add_rows, .norm = norm};
  run(&job);
}

/* ---- queries and keys ---- */

/* Heads [num_heads][head_dim] of one token: all together or each by itself. */
static void normalise_heads(const dk_pass *pass, const decoding_norm *norm, float *heads, int32_t num_heads) {
  int32_t size = num_heads * pass->plan->head_dim;
  for (int32_t i = 0; norm->kind != DECODING_NORM_NONE && i < size; i += norm->size)
    normalise(pass, norm, heads + i, heads + i);
}

static void turn_heads(const dk_pass *pass, int32_t rope, int32_t token, float *heads, int32_t num_heads) {
  if (rope < 0)
    return;
  const float *rotary = pass->batch->rotary[(size_t)rope * (size_t)pass->num_tokens + (size_t)token];
  for (int32_t head = 0; head < num_heads; head++)
    pass->kernel->rotate(heads + head * pass->plan->head_dim, rotary, pass->plan->rope_pairs[rope]);
}

static void store_rows(const rows_job *job, int32_t token, int32_t end, float *scratch) {
  const dk_pass *pass = job->pass;
  const decoding_plan *plan = pass->plan;
  const decoding_layer *layer = plan->layers + job->layer;
  const int32_t size = plan->num_kv_heads * plan->head_dim;
  (void)scratch;
  for (; token < end; token++) {
    float *keys = pass->buffers.wide + token * pass->buffers.wide_stride + plan->num_heads * plan->head_dim;
    int32_t position = pass->buffers.positions[token];
    const int32_t *table = pass->batch->block_tables[pass->buffers.sequences[token]];
    char *block = (char *)pass->batch->kv_cache + (size_t)table[position / DECODING_KV_BLOCK] * dk_kv_block_bytes(plan);
    normalise_heads(pass, &layer->key_norm, keys, plan->num_kv_heads);
    turn_heads(pass, layer->rope, token, keys, plan->num_kv_heads);
    dk_write_kv(plan, job->layer, block, position, keys, keys + size);
  }
}

void dk_store_keys_and_values(const dk_pass *pass, int32_t layer) {
  rows_job job = {
      .pass = pass, .num_rows = pass->num_tokens, .group = ROWS_PER_TASK, .each = store_rows, .layer = layer};
  run(&job);
}

static void turn_rows(const rows_job *job, int32_t row, int32_t end, float *scratch) {
  const dk_pass *pass = job->pass;
  const decoding_layer *layer = pass->plan->layers + job->layer;
  (void)scratch;
  for (; row < end; row++) {
    float *queries = pass->buffers.wide + row * pass->buffers.wide_stride;
    normalise_heads(pass, &layer->query_norm, queries, pass->plan->num_heads);
    turn_heads(pass, layer->rope, pass->buffers.rows[row], queries, pass->plan->num_heads);
  }
}

void dk_turn_queries(const dk_pass *pass, int32_t layer) {
  rows_job job = {.pass = pass, .num_rows = pass->num_rows, .group = ROWS_PER_TASK, .each = turn_rows, .layer = layer};
  run(&job);
}
