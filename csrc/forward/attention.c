#include "forward/attention.h"

#include "forward/kv_blocks.h"

#define MAX_HEADS 8 /* query heads per task */

typedef struct attention_job {
  const dk_pass *pass;
  int32_t layer;
  int32_t heads;     /* query heads per task: at most MAX_HEADS of those that share keys and values */
  int32_t num_parts; /* of the query heads that share keys and values */
} attention_job;

static int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
static int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

static int32_t group_size(const decoding_plan *plan) { return plan->num_heads / plan->num_kv_heads; }

void dk_find_query_tiles(dk_pass *pass) {
  const dk_buffers *buffers = &pass->buffers;
  const int32_t longest = DK_ATTENTION_ROWS / smaller(group_size(pass->plan), MAX_HEADS);
  pass->num_tiles = 0;
  for (int32_t row = 0, sequence = -1; row < pass->num_rows; row++) {
    dk_query_tile *tile = buffers->tiles + pass->num_tiles - 1;
    if (pass->num_tiles == 0 || buffers->sequences[buffers->rows[row]] != sequence || tile->num_rows == longest) {
      sequence = buffers->sequences[buffers->rows[row]];
      buffers->tiles[pass->num_tiles++] = (dk_query_tile){row, 1};
    } else {
      tile->num_rows++;
    }
  }
}

static void attend_task(void *argument, int32_t index, int32_t worker) {
  const attention_job *job = argument;
  const dk_pass *pass = job->pass;
  const decoding_plan *plan = pass->plan;
  const dk_buffers *buffers = &pass->buffers;
  const int32_t group = group_size(plan);
  /* Head by head: its keys and values stay in the cache while all tiles pass over them. */
  const int32_t head = index / pass->num_tiles;
  /* Backwards: the last tiles of a prompt see most, and should not be begun last. */
  const dk_query_tile *tile = buffers->tiles + (pass->num_tiles - 1 - index % pass->num_tiles);
  const int32_t kv_head = head / job->num_parts, part = head % job->num_parts;
  const int32_t begin = part * job->heads, heads = smaller(job->heads, group - begin);
  const int32_t window = plan->layers[job->layer].window;
  float *queries[DK_ATTENTION_ROWS];
  int32_t first[DK_ATTENTION_ROWS], end[DK_ATTENTION_ROWS], count = 0;
  for (int32_t row = tile->first_row; row < tile->first_row + tile->num_rows; row++) {
    for (int32_t i = begin; i < begin + heads; i++, count++) {
      int64_t column = (int64_t)(kv_head * group + i) * plan->head_dim;
      queries[count] = buffers->wide + row * buffers->wide_stride + column;
      end[count] = buffers->positions[buffers->rows[row]] + 1;
      first[count] = window == 0 ? 0 : larger(end[count] - window, 0);
    }
  }
  dk_attention attention = {.num_rows = count,
                            .head_dim = plan->head_dim,
                            .scale = plan->layers[job->layer].scale,
                            .cap = plan->attention_cap,
                            .queries = queries,
                            .first = first,
                            .end = end,
                            .block_table =
                                pass->batch->block_tables[buffers->sequences[buffers->rows[tile->first_row]]],
                            .keys = (const char *)pass->batch->kv_cache + dk_keys_offset(plan, job->layer, kv_head),
                            .values = (const char *)pass->batch->kv_cache + dk_values_offset(plan, job->layer, kv_head),
                            .block_size = dk_kv_block_bytes(plan),
                            .scratch = dk_worker_scratch(pass, worker)};
  pass->kernel->attend(&attention);
}

void dk_attend(const dk_pass *pass, int32_t layer) {
  const int32_t group = group_size(pass->plan), wanted = 2 * pass->batch->num_workers;
  attention_job job = {.pass = pass, .layer = layer, .heads = smaller(group, MAX_HEADS)};
  /* Few tasks: heads apart, which read the same keys and values from the cache. */
  while (job.heads > 1 && pass->batch->num_workers > 1 &&
         (int64_t)pass->num_tiles * pass->plan->num_kv_heads * ((group + job.heads - 1) / job.heads) < wanted)
    job.heads = (job.heads + 1) / 2;
  job.num_parts = (group + job.heads - 1) / job.heads;
  dk_run_tasks(pass, pass->num_tiles * pass->plan->num_kv_heads * job.num_parts, attend_task, &job);
}
