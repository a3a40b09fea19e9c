/* The public calls: what is refused at the door (door.c), then row by row. */
#include <math.h>
#include <stddef.h>

#include "decoding.h"
#include "sampling/philox.h"
#include "sampling/pipeline.h"
#include "sampling/stages.h"
#include "sampling/validate.h"
#include "simd/float_env.h"

void decoding_philox4x64(const uint64_t counter[4], const uint64_t key[2], uint64_t out[4]) {
  dk_philox4x64(counter, key, out);
}

const char *decoding_status_message(int32_t status) {
  switch (status) {
  case DECODING_OK:
    return "ok";
  case DECODING_ROW_FAILED:
    return "at least one row failed; see its status";
  case DECODING_NONFINITE:
    return "the row has NaN or +inf where a finite logit or -inf must be";
  case DECODING_EMPTY:
    return "no token of the row is left to draw";
  case DECODING_BAD_TOKEN_ID:
    return "a token id lies outside 0 .. vocab_size - 1";
  case DECODING_BAD_ARGUMENT:
    return "an argument is null or outside its documented range";
  case DECODING_BAD_SIZE:
    return "struct_size is not that of this version of the library";
  case DECODING_SMALL_WORKSPACE:
    return "the workspace is smaller than decoding_workspace_size() asks for";
  case DECODING_UNKNOWN_ISA:
    return "there is no instruction set of this name";
  case DECODING_ABSENT_ISA:
    return "this CPU or this build does not have the instruction set";
  default:
    return "unknown status";
  }
}

static void clear_top(const decoding_batch *batch, int32_t i) {
  int64_t lists = batch->top_modes * batch->top_stride;
  for (int64_t n = 0; batch->top_token_ids != NULL && n < batch->top_stride; n++)
    batch->top_token_ids[i * batch->top_stride + n] = -1;
  for (int64_t n = 0; batch->top_logprobs != NULL && n < lists; n++)
    batch->top_logprobs[i * lists + n] = -INFINITY;
}

static void sample_row(const decoding_batch *batch, int32_t i, dk_workspace *workspace) {
  const char *logits = (const char *)batch->logits + i * batch->row_stride;
  int64_t top = i * batch->top_stride;
  int32_t *top_token_ids = batch->top_token_ids == NULL ? NULL : batch->top_token_ids + top;
  float *top_logprobs = batch->top_logprobs == NULL ? NULL : batch->top_logprobs + top * batch->top_modes;
  clear_top(batch, i);
  dk_sample_row(batch, batch->rows[i], logits, workspace, &batch->results[i], top_token_ids, top_logprobs);
}

static int32_t run(const decoding_batch *batch, double *probabilities) {
  dk_workspace workspace;
  int32_t failed = 0;
  uint64_t host = dk_float_env_pin();
  for (int32_t i = 0; i < batch->num_rows; i++) {
    const decoding_row *row = batch->rows[i];
    int64_t edits = (int64_t)row->num_history + row->num_bias + row->num_context;
    (void)dk_workspace_layout(batch->vocab_size, edits, batch->workspace, &workspace);
    if (probabilities == NULL)
      sample_row(batch, i, &workspace);
    else
      dk_row_probabilities(batch, row, (const char *)batch->logits + i * batch->row_stride, &workspace,
                           &batch->results[i], probabilities + (size_t)i * (size_t)batch->vocab_size);
    failed |= batch->results[i].status != DECODING_OK;
  }
  dk_float_env_restore(host);
  return failed ? DECODING_ROW_FAILED : DECODING_OK;
}

int32_t decoding_sample(const decoding_batch *batch) {
  int32_t status = dk_validate_batch(batch);
  if (status != DECODING_OK)
    return status;
  decoding_batch filled = dk_with_stages(batch);
  return run(&filled, NULL);
}

int32_t decoding_probabilities(const decoding_batch *batch, double *probabilities) {
  int32_t status = dk_validate_batch(batch);
  if (status == DECODING_OK && probabilities == NULL && batch->num_rows > 0)
    status = DECODING_BAD_ARGUMENT;
  if (status != DECODING_OK || batch->num_rows == 0)
    return status;
  decoding_batch filled = dk_with_stages(batch);
  return run(&filled, probabilities);
}
