/* Calls that must be refused: one fault in an otherwise valid batch. */
#include <math.h>

#include "problem.h"

/* 32 bits to write over a field, and the status that must result. */
typedef struct flaw {
  size_t field;
  uint32_t bits;
  int32_t status;
} flaw;

/* A pointer to set to null, and the 32-bit count of its array, which becomes 1. */
typedef struct loss {
  size_t pointer;
  size_t count;
} loss;

#define NAN_BITS 0x7FC00000u
#define INFINITY_BITS 0x7F800000u
#define MINUS_ONE_BITS 0xBF800000u
#define TWO_BITS 0x40000000u
#define ROW(field, bits) {offsetof(decoding_row, field), (uint32_t)(bits), DECODING_BAD_ARGUMENT}
#define BATCH(field, bits) {offsetof(decoding_batch, field), (uint32_t)(bits), DECODING_BAD_ARGUMENT}
#define ROW_LOSS(array, number) {offsetof(decoding_row, array), offsetof(decoding_row, number)}

/* A float that must be from 0 to 1. */
#define SHARE(field) ROW(field, NAN_BITS), ROW(field, MINUS_ONE_BITS), ROW(field, TWO_BITS)

static const flaw ROW_FLAWS[] = {
    SHARE(top_p),
    SHARE(min_p),
    SHARE(typical_p),
    SHARE(epsilon_cutoff),
    SHARE(eta_cutoff),
    SHARE(top_a),
    SHARE(top_h),
    SHARE(tfs),
    ROW(min_k, NAN_BITS),
    ROW(min_k, MINUS_ONE_BITS),
    ROW(skew, NAN_BITS),
    ROW(skew, INFINITY_BITS),
    SHARE(xtc_probability),
    SHARE(xtc_threshold),
    ROW(temperature, NAN_BITS),
    ROW(temperature, INFINITY_BITS),
    ROW(temperature, MINUS_ONE_BITS),
    ROW(dynatemp_range, NAN_BITS),
    ROW(dynatemp_range, MINUS_ONE_BITS),
    ROW(smoothing_factor, INFINITY_BITS),
    ROW(smoothing_factor, MINUS_ONE_BITS),
    ROW(top_n_sigma, NAN_BITS),
    ROW(top_n_sigma, MINUS_ONE_BITS),
    ROW(top_k, 0),
    ROW(top_k, INT32_MIN),
    ROW(repetition_penalty, 0),
    ROW(repetition_penalty, NAN_BITS),
    ROW(repetition_penalty, INFINITY_BITS),
    ROW(frequency_penalty, NAN_BITS),
    ROW(presence_penalty, INFINITY_BITS),
    ROW(context_frequency_penalty, NAN_BITS),
    ROW(dry_multiplier, NAN_BITS),
    ROW(dry_multiplier, MINUS_ONE_BITS),
    ROW(num_history, -1),
    ROW(num_bias, INT32_MIN),
    ROW(num_context, -1),
    ROW(no_repeat_ngram_size, -1),
    ROW(num_banned, -1),
    ROW(num_allowed, -1),
    ROW(dry_breakers.num_sequences, -1),
    ROW(bad_words.num_sequences, -1),
    ROW(flags, 1u << 20),
    ROW(flags, 1u << 31),
    ROW(reserved, 1),
    ROW(dry_breakers.reserved, 1),
    ROW(bad_words.reserved, -1),
    ROW(num_top, -1),
    ROW(num_top, MAX_TOP + 1),
    ROW(logprobs_modes[0], -1),
    ROW(logprobs_modes[3], DECODING_LOGPROBS_FINAL + 1),
    {offsetof(decoding_row, struct_size), 0, DECODING_BAD_SIZE},
};

static const flaw BATCH_FLAWS[] = {
    BATCH(vocab_size, 0),
    BATCH(vocab_size, -1),
    BATCH(vocab_size, DECODING_MAX_VOCAB_SIZE + 1),
    BATCH(vocab_size, INT32_MAX),
    BATCH(num_valid_tokens, -1),
    BATCH(num_valid_tokens, MAX_VOCAB + 1),
    BATCH(dtype, -1),
    BATCH(dtype, 3),
    BATCH(num_rows, -1),
    BATCH(flags, 1u << 20),
    BATCH(rules, 1u << 20),
    BATCH(num_stages, 1),
    {offsetof(decoding_batch, struct_size), 1, DECODING_BAD_SIZE},
};

static const loss ROW_LOSSES[] = {
    ROW_LOSS(history_token_ids, num_history),
    ROW_LOSS(history_scope_counts, num_history),
    ROW_LOSS(history_output_counts, num_history),
    ROW_LOSS(history_total_counts, num_history),
    ROW_LOSS(bias_token_ids, num_bias),
    ROW_LOSS(bias_values, num_bias),
    ROW_LOSS(banned_token_ids, num_banned),
    ROW_LOSS(context_token_ids, num_context),
    ROW_LOSS(chosen_token_ids, num_chosen),
    ROW_LOSS(bad_words.token_ids, bad_words.num_sequences),
    ROW_LOSS(bad_words.lengths, bad_words.num_sequences),
    ROW_LOSS(dry_breakers.token_ids, dry_breakers.num_sequences),
    ROW_LOSS(dry_breakers.lengths, dry_breakers.num_sequences),
};

static const size_t BATCH_LOSSES[] = {offsetof(decoding_batch, logits), offsetof(decoding_batch, rows),
                                      offsetof(decoding_batch, results), offsetof(decoding_batch, workspace)};

static int32_t spoil(void *structure, const flaw *wrong) {
  memcpy((char *)structure + wrong->field, &wrong->bits, sizeof wrong->bits);
  return wrong->status;
}

static void take_away(void *structure, size_t pointer) { memset((char *)structure + pointer, 0, sizeof(void *)); }

static int32_t lose(void *structure, const loss *missing) {
  const int32_t one = 1;
  take_away(structure, missing->pointer);
  memcpy((char *)structure + missing->count, &one, sizeof one);
  return DECODING_BAD_ARGUMENT;
}

/* Makes a parameter invalid that is checked only if another one turns its stage on. */
static int32_t spoil_in_use(choices *in, decoding_row *row) {
  row->dynatemp_range = row->smoothing_factor = row->dry_multiplier = 1.0f;
  row->dynatemp_exponent = row->smoothing_curve = row->dry_base = 1.0f;
  row->dry_allowed_length = row->dry_range = 1;
  row->flags |= DECODING_MIROSTAT;
  switch (below(in, 6)) {
  case 0:
    row->dynatemp_exponent = one_in(in, 2) ? 0.0f : NAN;
    break;
  case 1:
    row->smoothing_curve = one_in(in, 2) ? 0.5f : 3.5f;
    break;
  case 2:
    row->dry_base = one_in(in, 2) ? 0.5f : INFINITY;
    break;
  case 3:
    row->dry_allowed_length = 0;
    break;
  case 4:
    row->dry_range = 0;
    break;
  default:
    row->mirostat_mu = NAN;
  }
  return DECODING_BAD_ARGUMENT;
}

static int32_t spoil_stages(choices *in, decoding_batch *batch) {
  static const int32_t unknown[] = {20, 60}, twice[] = {90, 91, 90}, late_edit[] = {20, 80, 50}, cut[] = {100};
  static const int32_t early_skew[] = {102, 90};
  static const int32_t *const lists[] = {unknown, twice, late_edit, cut, early_skew};
  static const int32_t lengths[] = {2, 3, 3, 1, 2};
  uint32_t n = below(in, 6);
  batch->stages = lists[n % 4];
  batch->num_stages = n < 4 ? lengths[n] : -1;
  return DECODING_BAD_ARGUMENT;
}

/* Sets an invalid sequence, bias or list of modes. */
static int32_t spoil_list(choices *in, decoding_row *row) {
  static const float infinite_bias = INFINITY;
  static const int32_t token_id = 0, no_length = 0;
  switch (below(in, 3)) {
  case 0:
    row->bad_words = (decoding_sequences){.token_ids = &token_id, .lengths = &no_length, .num_sequences = 1};
    break;
  case 1:
    row->num_bias = 1;
    row->bias_token_ids = &token_id;
    row->bias_values = &infinite_bias;
    break;
  default:
    row->logprobs_modes[0] = one_in(in, 2) ? DECODING_LOGPROBS_RAW : DECODING_LOGPROBS_NONE;
    row->logprobs_modes[1] = DECODING_LOGPROBS_RAW;
  }
  return DECODING_BAD_ARGUMENT;
}

/* Makes a row and its batch inconsistent. */
static int32_t spoil_together(choices *in, problem *p, decoding_row *row) {
  switch (below(in, 7)) {
  case 0:
    row->flags |= DECODING_FORCE_TOKEN;
    row->forced_token_id = wild_id(in, p->batch.vocab_size);
    return DECODING_BAD_ARGUMENT;
  case 1:
    row->num_top = 1;
    p->batch.top_token_ids = NULL;
    return DECODING_BAD_ARGUMENT;
  case 2:
    ((const decoding_row **)(uintptr_t)p->batch.rows)[below(in, (uint32_t)p->batch.num_rows)] = NULL;
    return DECODING_BAD_ARGUMENT;
  case 3:
    p->batch.top_stride = -1 - (int64_t)take(in, 4);
    return DECODING_BAD_ARGUMENT;
  case 4:
    p->batch.flags |= DECODING_SHARED_LOGITS;
    p->batch.row_stride = one_in(in, 2) ? 1 : -1;
    return DECODING_BAD_ARGUMENT;
  case 5: /* the value of a forgotten field */
    row->flags &= ~DECODING_ALLOW_ZEROS;
    *(one_in(in, 3) ? &row->top_p : one_in(in, 2) ? &row->typical_p : &row->top_n_sigma) = 0.0f;
    return DECODING_BAD_ARGUMENT;
  default:
    p->batch.workspace_size = decoding_workspace_size(p->batch.vocab_size, p->max_edits) - 1;
    return DECODING_SMALL_WORKSPACE;
  }
}

static int32_t spoil_somehow(choices *in, problem *p) {
  decoding_row *row = p->rows[below(in, (uint32_t)p->batch.num_rows)];
  switch (below(in, 8)) {
  case 0:
    return spoil(row, &ROW_FLAWS[below(in, NUM_OF(ROW_FLAWS))]);
  case 1:
    return spoil(&p->batch, &BATCH_FLAWS[below(in, NUM_OF(BATCH_FLAWS))]);
  case 2:
    return lose(row, &ROW_LOSSES[below(in, NUM_OF(ROW_LOSSES))]);
  case 3:
    take_away(&p->batch, BATCH_LOSSES[below(in, NUM_OF(BATCH_LOSSES))]);
    return DECODING_BAD_ARGUMENT;
  case 4:
    return spoil_in_use(in, row);
  case 5:
    return spoil_stages(in, &p->batch);
  case 6:
    return spoil_list(in, row);
  default:
    return spoil_together(in, p, row);
  }
}

void check_refusal(choices *in, problem *p) {
  static char outputs[MAX_ROWS * MAX_TOP * sizeof(double)], untouched[sizeof outputs];
  static double workspace[1 << 16];
  memset(outputs, 0x5A, sizeof outputs);
  memset(untouched, 0x5A, sizeof untouched);
  p->batch.workspace = workspace;
  p->batch.workspace_size = decoding_workspace_size(p->batch.vocab_size, p->max_edits);
  REQUIRE(p->batch.workspace_size <= sizeof workspace);
  p->batch.results = (decoding_result *)(void *)outputs;
  p->batch.top_token_ids = (int32_t *)(void *)outputs;
  p->batch.top_logprobs = (float *)(void *)outputs;
  int32_t status = spoil_somehow(in, p);
  REQUIRE(decoding_sample(&p->batch) == status);
  REQUIRE(decoding_probabilities(&p->batch, (double *)(void *)outputs) == status);
  REQUIRE(memcmp(outputs, untouched, sizeof outputs) == 0);
}
