/* Validate a batch's arguments. Errors in the logits and token ids are found later, per row. Comparisons are written so
 * that NaN fails each of them. */
#include "sampling/validate.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

#include "sampling/stages.h"

static bool is_fraction(float x) { return x >= 0.0f && x <= 1.0f; }
static bool is_finite_from(float x, float minimum) { return x >= minimum && isfinite(x); }
static bool is_positive(float x) { return x > 0.0f && isfinite(x); }

static bool check_distribution(const decoding_row *row) {
  bool temperature = is_finite_from(row->temperature, 0.0f) && is_finite_from(row->dynatemp_range, 0.0f) &&
                     (row->dynatemp_range == 0.0f || is_positive(row->dynatemp_exponent)) &&
                     is_finite_from(row->smoothing_factor, 0.0f) &&
                     (row->smoothing_factor == 0.0f || (row->smoothing_curve >= 1.0f && row->smoothing_curve <= 3.0f));
  bool truncation = row->top_k >= 1 && is_fraction(row->top_p) && is_fraction(row->min_p) &&
                    is_fraction(row->typical_p) && row->top_n_sigma >= 0.0f && is_fraction(row->epsilon_cutoff) &&
                    is_fraction(row->eta_cutoff) && is_fraction(row->top_a) && is_fraction(row->xtc_probability) &&
                    is_fraction(row->xtc_threshold) && is_fraction(row->top_h) && row->min_k >= 0.0f &&
                    is_fraction(row->tfs);
  bool reshaping =
      row->skew >= -5.0f && row->skew <= 5.0f &&
      (!(row->flags & DECODING_ADAPTIVE_P) || (row->adaptive_p_center >= 0.0 && row->adaptive_p_center <= 1.0));
  return temperature && truncation && reshaping && (!(row->flags & DECODING_MIROSTAT) || row->mirostat_mu >= 0.0);
}

static bool check_penalties(const decoding_row *row) {
  bool dry = row->dry_multiplier == 0.0f || (is_positive(row->dry_multiplier) && is_finite_from(row->dry_base, 1.0f) &&
                                             row->dry_allowed_length >= 1 && row->dry_range >= 1);
  return dry && is_positive(row->repetition_penalty) && isfinite(row->frequency_penalty) &&
         isfinite(row->presence_penalty) && isfinite(row->context_frequency_penalty);
}

static bool check_sequences(const decoding_sequences *sequences) {
  int32_t n = sequences->num_sequences;
  if (n < 0 || (n > 0 && (sequences->token_ids == NULL || sequences->lengths == NULL)))
    return false;
  for (int32_t i = 0; i < n; i++)
    if (sequences->lengths[i] < 1)
      return false;
  return true;
}

static bool check_arrays(const decoding_row *row) {
  bool history = row->num_history == 0 || (row->history_token_ids != NULL && row->history_scope_counts != NULL &&
                                           row->history_output_counts != NULL && row->history_total_counts != NULL);
  bool bias = row->num_bias == 0 || (row->bias_token_ids != NULL && row->bias_values != NULL);
  bool counts = row->num_history >= 0 && row->num_bias >= 0 && row->num_banned >= 0 && row->num_allowed >= 0 &&
                row->num_context >= 0 && row->no_repeat_ngram_size >= 0;
  if (!counts || !history || !bias || (row->num_banned > 0 && row->banned_token_ids == NULL) ||
      (row->num_context > 0 && row->context_token_ids == NULL))
    return false;
  for (int32_t i = 0; i < row->num_bias; i++)
    if (!isfinite(row->bias_values[i]))
      return false;
  return check_sequences(&row->dry_breakers) && check_sequences(&row->bad_words);
}

/* Modes come first, each once, and DECODING_LOGPROBS_NONE fills the rest. */
static bool check_modes(const decoding_batch *batch, const decoding_row *row) {
  uint32_t seen = 0;
  int32_t n = 0;
  for (int32_t i = 0; i < DECODING_MAX_MODES; i++) {
    int32_t mode = row->logprobs_modes[i];
    if (mode == DECODING_LOGPROBS_NONE)
      continue;
    if (mode < DECODING_LOGPROBS_NONE || mode > DECODING_LOGPROBS_FINAL || (seen >> mode & 1u) || i != n)
      return false;
    seen |= 1u << mode;
    n++;
  }
  return row->num_top == 0 || n <= batch->top_modes;
}

static bool check_report(const decoding_batch *batch, const decoding_row *row) {
  bool top = row->num_top >= 0 && row->num_top <= batch->top_stride &&
             (row->num_top == 0 || (batch->top_token_ids != NULL && batch->top_logprobs != NULL));
  bool forced =
      !(row->flags & DECODING_FORCE_TOKEN) || (row->forced_token_id >= 0 && row->forced_token_id < batch->vocab_size);
  return top && forced && check_modes(batch, row);
}

static int32_t validate_row(const decoding_batch *batch, const decoding_row *row) {
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

/* Stages that edit logits, stages that act on the distribution, stages that reshape it: in this order. */
static int phase_of(int32_t stage) { return (stage >= DECODING_STAGE_TEMPERATURE) + (stage > DECODING_STAGE_CUT); }

/* Known stages, each once, and those of an earlier phase first. */
static bool check_stages(const decoding_batch *batch) {
  if (batch->stages == NULL)
    return true;
  if (batch->num_stages < 0)
    return false;
  for (int32_t i = 0; i < batch->num_stages; i++) {
    int32_t stage = batch->stages[i];
    if (!dk_is_listable_stage(stage))
      return false;
    for (int32_t j = 0; j < i; j++)
      if (batch->stages[j] == stage || phase_of(stage) < phase_of(batch->stages[j]))
        return false;
  }
  return true;
}

int32_t dk_validate_batch(const decoding_batch *batch) {
  if (batch == NULL)
    return DECODING_BAD_ARGUMENT;
  if (batch->struct_size != sizeof *batch)
    return DECODING_BAD_SIZE;
  bool sizes = batch->vocab_size >= 1 && batch->vocab_size <= DECODING_MAX_VOCAB_SIZE && batch->num_valid_tokens >= 0 &&
               batch->num_valid_tokens <= batch->vocab_size && batch->num_rows >= 0 &&
               batch->dtype >= DECODING_FLOAT32 && batch->dtype <= DECODING_BFLOAT16 && batch->top_stride >= 0 &&
               batch->top_modes >= 0;
  bool pointers = batch->num_rows == 0 ||
                  (batch->logits != NULL && batch->rows != NULL && batch->results != NULL && batch->workspace != NULL);
  if (!sizes || !pointers || !check_stages(batch))
    return DECODING_BAD_ARGUMENT;
  for (int32_t i = 0; i < batch->num_rows; i++) {
    int32_t status = validate_row(batch, batch->rows[i]);
    if (status != DECODING_OK)
      return status;
  }
  return DECODING_OK;
}
