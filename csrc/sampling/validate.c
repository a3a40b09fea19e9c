/* Everything that a batch says of itself, checked at the door; what only the logits can tell is found later, row by
 * row. Comparisons are written so that NaN fails each of them. */
#include "sampling/validate.h"

#include <math.h>
#include <stddef.h>

static int32_t is_share(float x) { return x >= 0.0f && x <= 1.0f; }
static int32_t is_finite_from(float x, float least) { return x >= least && isfinite(x); }
static int32_t is_positive(float x) { return x > 0.0f && isfinite(x); }

static int32_t check_distribution(const decoding_row *row) {
  int32_t shape = is_finite_from(row->temperature, 0.0f) && is_finite_from(row->dynatemp_range, 0.0f) &&
                  (row->dynatemp_range == 0.0f || is_positive(row->dynatemp_exponent)) &&
                  is_finite_from(row->smoothing_factor, 0.0f) &&
                  (row->smoothing_factor == 0.0f || (row->smoothing_curve >= 1.0f && row->smoothing_curve <= 3.0f));
  int32_t truncation = row->top_k >= 1 && is_share(row->top_p) && is_share(row->min_p) && is_share(row->typical_p) &&
                       row->top_n_sigma >= 0.0f && is_share(row->epsilon_cutoff) && is_share(row->eta_cutoff) &&
                       is_share(row->top_a) && is_share(row->xtc_probability) && is_share(row->xtc_threshold);
  return shape && truncation && (!(row->flags & DECODING_MIROSTAT) || row->mirostat_mu >= 0.0);
}

static int32_t check_penalties(const decoding_row *row) {
  int32_t dry =
      row->dry_multiplier == 0.0f || (is_positive(row->dry_multiplier) && is_finite_from(row->dry_base, 1.0f) &&
                                      row->dry_allowed_length >= 1 && row->dry_range >= 1);
  return dry && is_positive(row->repetition_penalty) && isfinite(row->frequency_penalty) &&
         isfinite(row->presence_penalty) && isfinite(row->context_frequency_penalty);
}

static int32_t check_sequences(const decoding_sequences *sequences) {
  int32_t n = sequences->num_sequences;
  if (n < 0 || (n > 0 && (sequences->token_ids == NULL || sequences->lengths == NULL)))
    return 0;
  for (int32_t i = 0; i < n; i++)
    if (sequences->lengths[i] < 1)
      return 0;
  return 1;
}

static int32_t check_arrays(const decoding_row *row) {
  int32_t history = row->num_history == 0 || (row->history_token_ids != NULL && row->history_scope_counts != NULL &&
                                              row->history_output_counts != NULL && row->history_total_counts != NULL);
  int32_t bias = row->num_bias == 0 || (row->bias_token_ids != NULL && row->bias_values != NULL);
  int32_t counts = row->num_history >= 0 && row->num_bias >= 0 && row->num_banned >= 0 && row->num_allowed >= 0 &&
                   row->num_context >= 0 && row->no_repeat_ngram_size >= 0;
  if (!counts || !history || !bias || (row->num_banned > 0 && row->banned_token_ids == NULL) ||
      (row->num_context > 0 && row->context_token_ids == NULL))
    return 0;
  for (int32_t i = 0; i < row->num_bias; i++)
    if (!isfinite(row->bias_values[i]))
      return 0;
  return check_sequences(&row->dry_breakers) && check_sequences(&row->bad_words);
}

/* Modes come first, each once; the rest of the array is DECODING_LOGPROBS_NONE. */
static int32_t check_modes(const decoding_batch *batch, const decoding_row *row) {
  uint32_t seen = 0;
  int32_t n = 0;
  for (int32_t i = 0; i < DECODING_MAX_MODES; i++) {
    int32_t mode = row->logprobs_modes[i];
    if (mode == DECODING_LOGPROBS_NONE)
      continue;
    if (mode < DECODING_LOGPROBS_NONE || mode > DECODING_LOGPROBS_FINAL || (seen >> mode & 1u) || i != n)
      return 0;
    seen |= 1u << mode;
    n++;
  }
  return row->num_top == 0 || n <= batch->top_modes;
}

static int32_t check_report(const decoding_batch *batch, const decoding_row *row) {
  int32_t top = row->num_top >= 0 && row->num_top <= batch->top_stride &&
                (row->num_top == 0 || (batch->top_token_ids != NULL && batch->top_logprobs != NULL));
  int32_t forced =
      !(row->flags & DECODING_FORCE_TOKEN) || (row->forced_token_id >= 0 && row->forced_token_id < batch->vocab_size);
  return top && forced && check_modes(batch, row);
}

static int32_t check_row(const decoding_batch *batch, const decoding_row *row) {
  if (row == NULL)
    return DECODING_BAD_ARGUMENT;
  if (row->struct_size != sizeof *row)
    return DECODING_BAD_SIZE;
  if (!check_distribution(row) || !check_penalties(row) || !check_arrays(row) || !check_report(batch, row))
    return DECODING_BAD_ARGUMENT;
  int64_t edits = (int64_t)row->num_history + row->num_bias + row->num_context;
  size_t needed = decoding_workspace_size(batch->vocab_size, edits);
  return needed == 0 ? DECODING_BAD_ARGUMENT : needed > batch->workspace_size ? DECODING_SMALL_WORKSPACE : DECODING_OK;
}

static int32_t is_stage(int32_t stage) {
  return stage == DECODING_STAGE_REPETITION_PENALTY || stage == DECODING_STAGE_FREQUENCY_PRESENCE ||
         stage == DECODING_STAGE_DRY || stage == DECODING_STAGE_CONTEXT_FREQUENCY_PENALTY ||
         stage == DECODING_STAGE_LOGIT_BIAS || stage == DECODING_STAGE_HARD_MASKS ||
         stage == DECODING_STAGE_TEMPERATURE || (stage >= DECODING_STAGE_TOP_K && stage <= DECODING_STAGE_MIROSTAT);
}

/* Known stages, each once, those that edit logits before those that work on the distribution. */
static int32_t check_stages(const decoding_batch *batch) {
  if (batch->stages == NULL)
    return 1;
  if (batch->num_stages < 0)
    return 0;
  for (int32_t i = 0; i < batch->num_stages; i++) {
    int32_t stage = batch->stages[i];
    if (!is_stage(stage))
      return 0;
    for (int32_t j = 0; j < i; j++)
      if (batch->stages[j] == stage ||
          (stage < DECODING_STAGE_TEMPERATURE && batch->stages[j] >= DECODING_STAGE_TEMPERATURE))
        return 0;
  }
  return 1;
}

int32_t dk_check_batch(const decoding_batch *batch) {
  if (batch == NULL)
    return DECODING_BAD_ARGUMENT;
  if (batch->struct_size != sizeof *batch)
    return DECODING_BAD_SIZE;
  int32_t sizes = batch->vocab_size >= 1 && batch->vocab_size <= DECODING_MAX_VOCAB_SIZE &&
                  batch->num_valid_tokens >= 0 && batch->num_valid_tokens <= batch->vocab_size &&
                  batch->num_rows >= 0 && batch->dtype >= DECODING_FLOAT32 && batch->dtype <= DECODING_BFLOAT16 &&
                  batch->top_stride >= 0 && batch->top_modes >= 0;
  int32_t pointers = batch->num_rows == 0 || (batch->logits != NULL && batch->rows != NULL && batch->results != NULL &&
                                              batch->workspace != NULL);
  if (!sizes || !pointers || !check_stages(batch))
    return DECODING_BAD_ARGUMENT;
  for (int32_t i = 0; i < batch->num_rows; i++) {
    int32_t status = check_row(batch, batch->rows[i]);
    if (status != DECODING_OK)
      return status;
  }
  return DECODING_OK;
}
