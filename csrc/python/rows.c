#include "python/rows.h"

#include <stddef.h>

void dk_use_bitmasks(decoding_row *const *rows, int32_t num_rows, const uint32_t *masks, int64_t stride) {
  for (int32_t i = 0; i < num_rows; i++)
    rows[i]->bitmask = masks == NULL ? NULL : masks + i * stride;
}

int32_t dk_append_tokens(decoding_history *const *histories, decoding_row *const *rows, const int32_t *token_ids,
                         int32_t n) {
  for (int32_t i = 0; i < n; i++) {
    if (decoding_history_append(histories[i], &token_ids[i], 1) != DECODING_OK)
      return i;
    decoding_history_use(histories[i], rows[i]);
  }
  return n;
}

void dk_move_outputs(decoding_batch *batch, int64_t num_rows) {
  batch->results += num_rows;
  if (batch->top_stride > 0) {
    batch->top_token_ids += num_rows * batch->top_stride;
    batch->top_logprobs += num_rows * batch->top_modes * batch->top_stride;
  }
  if (batch->chosen_stride > 0)
    batch->chosen_logprobs += num_rows * batch->chosen_stride;
}

typedef struct shared_batch {
  const decoding_batch *batch;
  double *probabilities;
  int32_t num_parts;
  int32_t status[DK_MAX_PARTS];
} shared_batch;

/* Run one part of the rows, each in the place that it has in the whole batch. */
static void sample_part(void *argument, int32_t index, int32_t worker) {
  (void)worker;
  shared_batch *shared = argument;
  decoding_batch part = *shared->batch;
  const int64_t num_rows = part.num_rows;
  const int64_t first = num_rows * index / shared->num_parts;
  part.num_rows = (int32_t)(num_rows * (index + 1) / shared->num_parts - first);
  part.rows += first;
  part.logits = (const char *)part.logits + first * part.row_stride;
  dk_move_outputs(&part, first);
  part.workspace_size /= (size_t)shared->num_parts;
  part.workspace = (char *)part.workspace + (size_t)index * part.workspace_size;
  shared->status[index] = shared->probabilities == NULL
                              ? decoding_sample(&part)
                              : decoding_probabilities(&part, shared->probabilities + first * part.vocab_size);
}

int32_t dk_sample_in_parts(dk_thread_pool *pool, const decoding_batch *batch, int32_t num_parts,
                           double *probabilities) {
  shared_batch shared = {.batch = batch, .probabilities = probabilities, .num_parts = num_parts};
  dk_thread_pool_run(pool, num_parts, sample_part, &shared);
  int32_t status = DECODING_OK;
  for (int32_t i = 0; i < num_parts; i++)
    if (status == DECODING_OK || (shared.status[i] != DECODING_OK && shared.status[i] != DECODING_ROW_FAILED))
      status = shared.status[i]; /* a refusal concerns the whole call, a failure its row */
  return status;
}
