/* The public calls: check everything at the door, then row by row. */
#include <math.h>
#include <stddef.h>

#include "decoding.h"
#include "fpenv.h"
#include "philox.h"
#include "sample.h"

size_t decoding_workspace_size(int32_t vocab_size, int64_t max_edits) {
  dk_workspace layout;
  if (vocab_size < 1 || vocab_size > DECODING_MAX_VOCAB_SIZE || max_edits < 0 || max_edits > INT32_MAX)
    return 0;
  return dk_workspace_layout(vocab_size, max_edits, NULL, &layout);
}

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

static int32_t check_parameters(const decoding_row *row) {
  /* written so that NaN fails each of them */
  int32_t draws = row->temperature >= 0.0f && isfinite(row->temperature) && row->top_p >= 0.0f && row->top_p <= 1.0f &&
                  row->min_p >= 0.0f && row->min_p <= 1.0f && row->top_k >= 1;
  int32_t edits = row->repetition_penalty > 0.0f && isfinite(row->repetition_penalty) &&
                  isfinite(row->frequency_penalty) && isfinite(row->presence_penalty) &&
                  isfinite(row->context_frequency_penalty);
  return draws && edits ? DECODING_OK : DECODING_BAD_ARGUMENT;
}

static int32_t check_arrays(const decoding_batch *batch, const decoding_row *row) {
  int32_t counts = row->num_history >= 0 && row->num_bias >= 0 && row->num_banned >= 0 && row->num_allowed >= 0 &&
                   row->num_top >= 0 && row->num_top <= batch->top_stride;
  int32_t history = row->num_history == 0 || (row->history_token_ids != NULL && row->history_scope_counts != NULL &&
                                              row->history_output_counts != NULL && row->history_total_counts != NULL);
  int32_t bias = row->num_bias == 0 || (row->bias_token_ids != NULL && row->bias_values != NULL);
  int32_t banned = row->num_banned == 0 || row->banned_token_ids != NULL;
  int32_t top = row->num_top == 0 || (batch->top_token_ids != NULL && batch->top_logprobs != NULL);
  int32_t mode = row->logprobs_mode >= DECODING_LOGPROBS_NONE && row->logprobs_mode <= DECODING_LOGPROBS_FINAL;
  int32_t forced =
      !(row->flags & DECODING_FORCE_TOKEN) || (row->forced_token_id >= 0 && row->forced_token_id < batch->vocab_size);
  return counts && history && bias && banned && top && mode && forced ? DECODING_OK : DECODING_BAD_ARGUMENT;
}

static int32_t check_row(const decoding_batch *batch, const decoding_row *row) {
  if (row == NULL)
    return DECODING_BAD_ARGUMENT;
  if (row->struct_size != sizeof *row)
    return DECODING_BAD_SIZE;
  if (check_parameters(row) != DECODING_OK || check_arrays(batch, row) != DECODING_OK)
    return DECODING_BAD_ARGUMENT;
  for (int32_t i = 0; i < row->num_bias; i++)
    if (!isfinite(row->bias_values[i]))
      return DECODING_BAD_ARGUMENT;
  int64_t edits = (int64_t)row->num_history + row->num_bias;
  size_t needed = decoding_workspace_size(batch->vocab_size, edits);
  return needed == 0 ? DECODING_BAD_ARGUMENT : needed > batch->workspace_size ? DECODING_SMALL_WORKSPACE : DECODING_OK;
}

static int32_t check_batch(const decoding_batch *batch) {
  if (batch == NULL)
    return DECODING_BAD_ARGUMENT;
  if (batch->struct_size != sizeof *batch)
    return DECODING_BAD_SIZE;
  int32_t sizes = batch->vocab_size >= 1 && batch->vocab_size <= DECODING_MAX_VOCAB_SIZE &&
                  batch->num_valid_tokens >= 0 && batch->num_valid_tokens <= batch->vocab_size &&
                  batch->num_rows >= 0 && batch->dtype >= DECODING_FLOAT32 && batch->dtype <= DECODING_BFLOAT16 &&
                  batch->top_stride >= 0;
  int32_t pointers = batch->num_rows == 0 || (batch->logits != NULL && batch->rows != NULL && batch->results != NULL &&
                                              batch->workspace != NULL);
  if (!sizes || !pointers)
    return DECODING_BAD_ARGUMENT;
  for (int32_t i = 0; i < batch->num_rows; i++) {
    int32_t status = check_row(batch, batch->rows[i]);
    if (status != DECODING_OK)
      return status;
  }
  return DECODING_OK;
}

static void clear_top(const decoding_batch *batch, int32_t i) {
  for (int64_t n = 0; batch->top_token_ids != NULL && batch->top_logprobs != NULL && n < batch->top_stride; n++) {
    batch->top_token_ids[i * batch->top_stride + n] = -1;
    batch->top_logprobs[i * batch->top_stride + n] = -INFINITY;
  }
}

static void sample_row(const decoding_batch *batch, int32_t i, dk_workspace *workspace) {
  const char *logits = (const char *)batch->logits + i * batch->row_stride;
  int64_t top = i * batch->top_stride;
  int32_t *top_token_ids = batch->top_token_ids == NULL ? NULL : batch->top_token_ids + top;
  float *top_logprobs = batch->top_logprobs == NULL ? NULL : batch->top_logprobs + top;
  clear_top(batch, i);
  dk_sample_row(batch, batch->rows[i], logits, workspace, &batch->results[i], top_token_ids, top_logprobs);
}

static int32_t run(const decoding_batch *batch, double *probabilities) {
  dk_workspace workspace;
  int32_t failed = 0;
  uint64_t host = dk_fpenv_pin();
  for (int32_t i = 0; i < batch->num_rows; i++) {
    const decoding_row *row = batch->rows[i];
    (void)dk_workspace_layout(batch->vocab_size, (int64_t)row->num_history + row->num_bias, batch->workspace,
                              &workspace);
    if (probabilities == NULL)
      sample_row(batch, i, &workspace);
    else
      dk_row_probabilities(batch, row, (const char *)batch->logits + i * batch->row_stride, &workspace,
                           &batch->results[i], probabilities + (size_t)i * (size_t)batch->vocab_size);
    failed |= batch->results[i].status != DECODING_OK;
  }
  dk_fpenv_restore(host);
  return failed ? DECODING_ROW_FAILED : DECODING_OK;
}

int32_t decoding_sample(const decoding_batch *batch) {
  int32_t status = check_batch(batch);
  return status == DECODING_OK ? run(batch, NULL) : status;
}

int32_t decoding_probabilities(const decoding_batch *batch, double *probabilities) {
  int32_t status = check_batch(batch);
  if (status == DECODING_OK && probabilities == NULL && batch->num_rows > 0)
    status = DECODING_BAD_ARGUMENT;
  if (status == DECODING_OK && batch->num_rows == 0)
    return DECODING_OK;
  return status == DECODING_OK ? run(batch, probabilities) : status;
}
