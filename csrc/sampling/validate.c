/* Validate a batch's arguments. Errors in the logits and token ids are found later, per row. A check returns the name
 * of the first field that breaks its rule, or null. Comparisons are written so that NaN fails each of them. */
#include "sampling/validate.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

#include "sampling/stages.h"

#define ROW_FLAGS                                                                                                      \
  (DECODING_WANT_RAW_LOGPROB | DECODING_FORCE_TOKEN | DECODING_MIROSTAT | DECODING_MIROSTAT_V1 | DECODING_P_LESS |     \
   DECODING_P_LESS_NORM | DECODING_ADAPTIVE_P | DECODING_ALLOW_ZEROS)
#define BATCH_FLAGS (DECODING_MASK_NAN | DECODING_PLAIN_SEARCH | DECODING_SHARED_LOGITS)
#define RULES                                                                                                          \
  (DECODING_RULE_KEEP_TIES | DECODING_RULE_TYPICAL_EXCEEDS | DECODING_RULE_PENALTIES_IN_SCOPE |                        \
   DECODING_RULE_TOP_P_EXCEEDS | DECODING_RULE_TOP_P_TIES | DECODING_RULE_XTC_TIES)

#define REQUIRE(field, holds)                                                                                          \
  if (!(holds))                                                                                                        \
  return #field

static bool is_fraction(float x) { return x >= 0.0f && x <= 1.0f; }
static bool is_finite_from(float x, float minimum) { return x >= minimum && isfinite(x); }
static bool is_positive(float x) { return x > 0.0f && isfinite(x); }

static const char *check_temperature(const decoding_row *row) {
  REQUIRE(temperature, is_finite_from(row->temperature, 0.0f));
  REQUIRE(dynatemp_range, is_finite_from(row->dynatemp_range, 0.0f));
  REQUIRE(dynatemp_exponent, row->dynatemp_range == 0.0f || is_positive(row->dynatemp_exponent));
  REQUIRE(smoothing_factor, is_finite_from(row->smoothing_factor, 0.0f));
  REQUIRE(smoothing_curve,
          row->smoothing_factor == 0.0f || (row->smoothing_curve >= 1.0f && row->smoothing_curve <= 3.0f));
  return NULL;
}

static const char *check_truncation(const decoding_row *row) {
  bool zeros = (row->flags & DECODING_ALLOW_ZEROS) != 0;
  REQUIRE(top_k, row->top_k >= 1);
  REQUIRE(top_p, is_fraction(row->top_p) && (zeros || row->top_p != 0.0f));
  REQUIRE(min_p, is_fraction(row->min_p));
  REQUIRE(typical_p, is_fraction(row->typical_p) && (zeros || row->typical_p != 0.0f));
  REQUIRE(top_n_sigma, row->top_n_sigma >= 0.0f && (zeros || row->top_n_sigma != 0.0f));
  REQUIRE(epsilon_cutoff, is_fraction(row->epsilon_cutoff));
  REQUIRE(eta_cutoff, is_fraction(row->eta_cutoff));
  REQUIRE(top_a, is_fraction(row->top_a));
  REQUIRE(xtc_probability, is_fraction(row->xtc_probability));
  REQUIRE(xtc_threshold, is_fraction(row->xtc_threshold));
  REQUIRE(top_h, is_fraction(row->top_h) && (zeros || row->top_h != 0.0f));
  REQUIRE(min_k, row->min_k >= 0.0f && (zeros || row->min_k != 0.0f));
  REQUIRE(tfs, is_fraction(row->tfs) && (zeros || row->tfs != 0.0f));
  REQUIRE(skew, row->skew >= -5.0f && row->skew <= 5.0f);
  REQUIRE(adaptive_p_center,
          !(row->flags & DECODING_ADAPTIVE_P) || (row->adaptive_p_center >= 0.0 && row->adaptive_p_center <= 1.0));
  REQUIRE(mirostat_mu, !(row->flags & DECODING_MIROSTAT) || !isnan(row->mirostat_mu));
  REQUIRE(reserved, row->reserved == 0);
  return NULL;
}

static const char *check_penalties(const decoding_row *row) {
  REQUIRE(repetition_penalty, is_positive(row->repetition_penalty));
  REQUIRE(frequency_penalty, isfinite(row->frequency_penalty));
  REQUIRE(presence_penalty, isfinite(row->presence_penalty));
  REQUIRE(context_frequency_penalty, isfinite(row->context_frequency_penalty));
  REQUIRE(dry_multiplier, is_finite_from(row->dry_multiplier, 0.0f));
  if (row->dry_multiplier == 0.0f)
    return NULL;
  REQUIRE(dry_base, is_finite_from(row->dry_base, 1.0f));
  REQUIRE(dry_allowed_length, row->dry_allowed_length >= 1);
  REQUIRE(dry_range, row->dry_range >= 1);
  return NULL;
}

static bool are_all_from(const int32_t *numbers, int32_t n, int32_t minimum) {
  for (int32_t i = 0; i < n; i++)
    if (numbers[i] < minimum)
      return false;
  return true;
}

static bool are_all_below(const int32_t *numbers, int32_t n, int32_t end) {
  for (int32_t i = 0; i < n; i++)
    if (numbers[i] >= end)
      return false;
  return true;
}

static bool are_all_finite(const float *numbers, int32_t n) {
  for (int32_t i = 0; i < n; i++)
    if (!isfinite(numbers[i]))
      return false;
  return true;
}

#define REQUIRE_SEQUENCES(field)                                                                                       \
  REQUIRE(field.num_sequences, row->field.num_sequences >= 0);                                                         \
  REQUIRE(field.token_ids, row->field.num_sequences == 0 || row->field.token_ids != NULL);                             \
  REQUIRE(field.lengths, row->field.num_sequences == 0 || row->field.lengths != NULL);                                 \
  REQUIRE(field.lengths, are_all_from(row->field.lengths, row->field.num_sequences, 1));                               \
  REQUIRE(field.reserved, row->field.reserved == 0)

#define REQUIRE_ARRAY(field, count) REQUIRE(field, row->count == 0 || row->field != NULL)

static const char *check_arrays(const decoding_row *row) {
  REQUIRE(num_history, row->num_history >= 0);
  REQUIRE_ARRAY(history_token_ids, num_history);
  REQUIRE_ARRAY(history_scope_counts, num_history);
  REQUIRE_ARRAY(history_output_counts, num_history);
  REQUIRE_ARRAY(history_total_counts, num_history);
  REQUIRE(num_bias, row->num_bias >= 0);
  REQUIRE_ARRAY(bias_token_ids, num_bias);
  REQUIRE_ARRAY(bias_values, num_bias);
  REQUIRE(bias_values, are_all_finite(row->bias_values, row->num_bias));
  REQUIRE(num_context, row->num_context >= 0);
  REQUIRE_ARRAY(context_token_ids, num_context);
  REQUIRE(no_repeat_ngram_size, row->no_repeat_ngram_size >= 0);
  REQUIRE_SEQUENCES(dry_breakers);
  REQUIRE_SEQUENCES(bad_words);
  REQUIRE(num_banned, row->num_banned >= 0);
  REQUIRE_ARRAY(banned_token_ids, num_banned);
  REQUIRE(num_allowed, row->num_allowed >= 0);
  REQUIRE(num_chosen, row->num_chosen >= 0);
  REQUIRE_ARRAY(chosen_token_ids, num_chosen);
  REQUIRE(chosen_token_ids, are_all_from(row->chosen_token_ids, row->num_chosen, 0));
  REQUIRE(reserved_end, row->reserved_end == 0);
  return NULL;
}

/* Modes come first, each once, and DECODING_LOGPROBS_NONE fills the rest. */
static bool are_modes(const decoding_row *row, int64_t *num_modes) {
  uint32_t seen = 0;
  *num_modes = 0;
  for (int32_t i = 0; i < DECODING_MAX_MODES; i++) {
    int32_t mode = row->logprobs_modes[i];
    if (mode == DECODING_LOGPROBS_NONE)
      continue;
    if (mode < DECODING_LOGPROBS_RAW || mode > DECODING_LOGPROBS_FINAL || (seen >> mode & 1u) || i != *num_modes)
      return false;
    seen |= 1u << mode;
    ++*num_modes;
  }
  return true;
}

static const char *check_alone(const decoding_row *row, int64_t *num_modes) {
  static const char *(*const CHECKS[])(const decoding_row *) = {check_temperature, check_truncation, check_penalties,
                                                                check_arrays};
  REQUIRE(flags, (row->flags & ~ROW_FLAGS) == 0);
  for (size_t i = 0; i < sizeof CHECKS / sizeof CHECKS[0]; i++) {
    const char *wrong = CHECKS[i](row);
    if (wrong != NULL)
      return wrong;
  }
  REQUIRE(logprobs_modes, are_modes(row, num_modes));
  REQUIRE(num_top, row->num_top >= 0);
  REQUIRE(forced_token_id, !(row->flags & DECODING_FORCE_TOKEN) || row->forced_token_id >= 0);
  return NULL;
}

/* Check a row against its batch. */
static const char *check_fit(const decoding_batch *batch, const decoding_row *row, int64_t num_modes) {
  bool has_lists = batch->top_token_ids != NULL && batch->top_logprobs != NULL;
  REQUIRE(num_top, row->num_top == 0 || (row->num_top <= batch->top_stride && has_lists));
  REQUIRE(logprobs_modes, row->num_top == 0 || num_modes <= batch->top_modes);
  bool has_chosen = row->num_chosen <= batch->chosen_stride && batch->chosen_logprobs != NULL;
  REQUIRE(num_chosen, row->num_chosen == 0 || has_chosen);
  REQUIRE(chosen_token_ids, are_all_below(row->chosen_token_ids, row->num_chosen, batch->vocab_size));
  REQUIRE(forced_token_id, !(row->flags & DECODING_FORCE_TOKEN) || row->forced_token_id < batch->vocab_size);
  return NULL;
}

static dk_refusal check_row(const decoding_batch *batch, int32_t index) {
  const decoding_row *row = batch->rows[index];
  int64_t num_modes;
  if (row == NULL)
    return (dk_refusal){DECODING_BAD_ARGUMENT, index, NULL};
  if (row->struct_size != sizeof *row)
    return (dk_refusal){DECODING_BAD_SIZE, index, "struct_size"};
  const char *wrong = check_alone(row, &num_modes);
  if (wrong == NULL)
    wrong = check_fit(batch, row, num_modes);
  if (wrong != NULL)
    return (dk_refusal){DECODING_BAD_ARGUMENT, index, wrong};
  int64_t edits = (int64_t)row->num_history + row->num_bias + row->num_context;
  size_t needed = decoding_workspace_size(batch->vocab_size, edits);
  if (needed == 0)
    return (dk_refusal){DECODING_BAD_ARGUMENT, index, "num_history"};
  if (needed > batch->workspace_size)
    return (dk_refusal){DECODING_SMALL_WORKSPACE, index, "workspace_size"};
  return (dk_refusal){DECODING_OK, index, NULL};
}

/* Stages that edit logits, stages that act on the distribution, stages that reshape it: in this order. */
static int phase_of(int32_t stage) { return (stage >= DECODING_STAGE_TEMPERATURE) + (stage > DECODING_STAGE_CUT); }

/* Known stages, each once, and those of an earlier phase first. */
static bool are_stages(const int32_t *stages, int32_t num_stages) {
  for (int32_t i = 0; i < num_stages; i++) {
    if (!dk_is_listable_stage(stages[i]))
      return false;
    for (int32_t j = 0; j < i; j++)
      if (stages[j] == stages[i] || phase_of(stages[i]) < phase_of(stages[j]))
        return false;
  }
  return true;
}

/* Rows lie apart, or all are one. A stride in elements instead of bytes makes them overlap. */
static bool is_stride(const decoding_batch *batch) {
  int64_t size = (int64_t)batch->vocab_size * (batch->dtype == DECODING_FLOAT32 ? 4 : 2), stride = batch->row_stride;
  if (batch->flags & DECODING_SHARED_LOGITS)
    return stride == 0;
  return batch->num_rows < 2 || stride >= size || stride <= -size;
}

static const char *check_sizes(const decoding_batch *batch) {
  REQUIRE(flags, (batch->flags & ~BATCH_FLAGS) == 0);
  REQUIRE(rules, (batch->rules & ~RULES) == 0);
  REQUIRE(dtype, batch->dtype >= DECODING_FLOAT32 && batch->dtype <= DECODING_BFLOAT16);
  REQUIRE(vocab_size, batch->vocab_size >= 1 && batch->vocab_size <= DECODING_MAX_VOCAB_SIZE);
  REQUIRE(num_valid_tokens, batch->num_valid_tokens >= 0 && batch->num_valid_tokens <= batch->vocab_size);
  REQUIRE(num_rows, batch->num_rows >= 0);
  REQUIRE(num_stages, batch->stages == NULL ? batch->num_stages == 0 : batch->num_stages >= 0);
  REQUIRE(stages, batch->stages == NULL || are_stages(batch->stages, batch->num_stages));
  REQUIRE(row_stride, is_stride(batch));
  REQUIRE(top_stride, batch->top_stride >= 0);
  REQUIRE(top_modes, batch->top_modes >= 0);
  REQUIRE(chosen_stride, batch->chosen_stride >= 0);
  return NULL;
}

static const char *check_pointers(const decoding_batch *batch) {
  if (batch->num_rows == 0)
    return NULL;
  REQUIRE(logits, batch->logits != NULL);
  REQUIRE(rows, batch->rows != NULL);
  REQUIRE(results, batch->results != NULL);
  REQUIRE(workspace, batch->workspace != NULL);
  return NULL;
}

dk_refusal dk_check_batch(const decoding_batch *batch) {
  if (batch == NULL)
    return (dk_refusal){DECODING_BAD_ARGUMENT, -1, NULL};
  if (batch->struct_size != sizeof *batch)
    return (dk_refusal){DECODING_BAD_SIZE, -1, "struct_size"};
  const char *wrong = check_sizes(batch);
  if (wrong == NULL)
    wrong = check_pointers(batch);
  if (wrong != NULL)
    return (dk_refusal){DECODING_BAD_ARGUMENT, -1, wrong};
  for (int32_t i = 0; i < batch->num_rows; i++) {
    dk_refusal refusal = check_row(batch, i);
    if (refusal.status != DECODING_OK)
      return refusal;
  }
  return (dk_refusal){DECODING_OK, -1, NULL};
}

int32_t decoding_check_batch(const decoding_batch *batch, int32_t *row, const char **field) {
  dk_refusal refusal = dk_check_batch(batch);
  if (row != NULL)
    *row = refusal.row;
  if (field != NULL)
    *field = refusal.field;
  return refusal.status;
}

int32_t decoding_check_row(const decoding_row *row, const char **field) {
  int64_t num_modes;
  const char *wrong = NULL;
  int32_t status = DECODING_OK;
  if (row == NULL) {
    status = DECODING_BAD_ARGUMENT;
  } else if (row->struct_size != sizeof *row) {
    status = DECODING_BAD_SIZE;
    wrong = "struct_size";
  } else {
    wrong = check_alone(row, &num_modes);
    status = wrong == NULL ? DECODING_OK : DECODING_BAD_ARGUMENT;
  }
  if (field != NULL)
    *field = wrong;
  return status;
}
