/* The public functions that work on a batch: validate it, then process it row by row. */
#include <math.h>
#include <stdbool.h>
#include <stddef.h>

#include "decoding.h"
#include "sampling/philox.h"
#include "sampling/pipeline.h"
#include "sampling/stages.h"
#include "sampling/validate.h"
#include "sampling/workspace.h"
#include "simd/float_env.h"

int32_t decoding_abi_version(void) { return DECODING_ABI_VERSION; }

int32_t decoding_stream_version(void) { return DECODING_STREAM_VERSION; }

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
  case DECODING_WRONG_BUILD:
    return "the compiler or its options have changed the arithmetic (docs/embedding.md has the right ones)";
  case DECODING_NOT_CODED:
    return "these weights do not fit 12 bits each";
  default:
    return "unknown status";
  }
}

/* Return where the most likely and the chosen tokens of row i are written, filled with "no entry". */
static dk_report_lists clear_lists(const decoding_batch *batch, int32_t i) {
  int64_t size = batch->top_stride, lists_size = batch->top_modes * size;
  int32_t *token_ids = batch->top_token_ids == NULL ? NULL : batch->top_token_ids + i * size;
  float *logprobs = batch->top_logprobs == NULL ? NULL : batch->top_logprobs + i * lists_size;
  for (int64_t n = 0; token_ids != NULL && n < size; n++)
    token_ids[n] = -1;
  for (int64_t n = 0; logprobs != NULL && n < lists_size; n++)
    logprobs[n] = -INFINITY;
  float *chosen = batch->chosen_logprobs == NULL ? NULL : batch->chosen_logprobs + i * batch->chosen_stride;
  for (int64_t n = 0; chosen != NULL && n < batch->chosen_stride; n++)
    chosen[n] = NAN;
  return (dk_report_lists){token_ids, logprobs, size, chosen};
}

static void run_row(const decoding_batch *batch, int32_t i, double *probabilities) {
  const decoding_row *row = batch->rows[i];
  const char *logits = (const char *)batch->logits + i * batch->row_stride;
  int64_t edits = (int64_t)row->num_history + row->num_bias + row->num_context;
  dk_workspace workspace;
  (void)dk_workspace_layout(batch->vocab_size, edits, batch->workspace, &workspace);
  if (probabilities == NULL)
    dk_sample_row(batch, row, logits, &workspace, clear_lists(batch, i), &batch->results[i]);
  else
    dk_row_probabilities(batch, row, logits, &workspace, probabilities + (size_t)i * (size_t)batch->vocab_size,
                         &batch->results[i]);
}

/* Write the probabilities of all rows, or draw from them if `probabilities` is null. */
static int32_t run(const decoding_batch *batch, double *probabilities) {
  decoding_batch filled = dk_with_stages(batch);
  bool failed = false;
  uint64_t host = dk_float_env_pin();
  for (int32_t i = 0; i < filled.num_rows; i++) {
    run_row(&filled, i, probabilities);
    failed |= filled.results[i].status != DECODING_OK;
  }
  dk_float_env_restore(host);
  return failed ? DECODING_ROW_FAILED : DECODING_OK;
}

int32_t decoding_sample(const decoding_batch *batch) {
  int32_t status = dk_check_batch(batch).status;
  return status == DECODING_OK ? run(batch, NULL) : status;
}

int32_t decoding_probabilities(const decoding_batch *batch, double *probabilities) {
  int32_t status = dk_check_batch(batch).status;
  if (status == DECODING_OK && probabilities == NULL && batch->num_rows > 0)
    status = DECODING_BAD_ARGUMENT;
  if (status != DECODING_OK || batch->num_rows == 0)
    return status;
  return run(batch, probabilities);
}
