/* The parameters of a row, in and just outside of their usual ranges, and the arrays that they point to. Each array is
 * an allocation of its own, of exactly the size that the header documents, so that AddressSanitizer finds the first
 * byte read past its end. */
#include <math.h>

#include "problem.h"

static float pick(choices *in, const float *values, uint32_t n) { return values[below(in, n)]; }
#define PICK(in, ...) pick(in, (const float[]){__VA_ARGS__}, NUM_OF(((const float[]){__VA_ARGS__})))

/* Returns one of the values, or any number from 0 to 1. */
static float share(choices *in, float neutral, const float *values, uint32_t n) {
  if (!one_in(in, 4))
    return neutral;
  return one_in(in, 3) ? (float)take(in, 2) / 65535.0f : pick(in, values, n);
}
#define SHARE(in, neutral, ...) share(in, neutral, (const float[]){__VA_ARGS__}, NUM_OF(((const float[]){__VA_ARGS__})))

static void make_draw(choices *in, decoding_row *row) {
  row->seed = take(in, 4);
  row->stream = take(in, 1);
  row->position = take(in, 1);
  row->choice = take(in, 1);
}

static void make_temperature(choices *in, decoding_row *row) {
  row->temperature = one_in(in, 6) ? fabsf(finite_float(in))
                                   : PICK(in, 1.0f, 0.0f, 0.7f, 3.0f, 0x1p-20f, 0x1.fffffep-21f, 1e20f, 3e38f, 1e-4f);
  if (one_in(in, 4)) {
    row->dynatemp_range = one_in(in, 6) ? fabsf(finite_float(in)) : PICK(in, 0.5f, 1e-3f, 2.0f, 3e38f);
    row->dynatemp_exponent = PICK(in, 1.0f, 0.3f, 4.0f, 1e-30f, 1e30f);
  }
  if (one_in(in, 4)) {
    row->smoothing_factor = one_in(in, 6) ? fabsf(finite_float(in)) : PICK(in, 0.2f, 1.0f, 1e-6f, 30.0f);
    row->smoothing_curve = PICK(in, 1.0f, 1.7f, 3.0f);
  }
}

static void make_truncation(choices *in, const problem *p, decoding_row *row) {
  row->flags |= DECODING_ALLOW_ZEROS;
  row->top_k = one_in(in, 3) ? 1 + (int32_t)below(in, (uint32_t)p->batch.vocab_size) : DECODING_TOP_K_OFF;
  row->top_p = SHARE(in, 1.0f, 0.9f, 0.5f, 0.0f, 0.99f, 0x1.fffffep-1f, 1e-7f, 1e-45f);
  row->min_p = SHARE(in, 0.0f, 0.05f, 1.0f, 1e-30f, 1e-45f);
  row->typical_p = SHARE(in, 1.0f, 0.9f, 0.2f, 0.0f, 0x1.fffffep-1f, 1e-45f);
  row->top_n_sigma = one_in(in, 4) ? PICK(in, 1.0f, 0.0f, 0.1f, 5.0f, 3e38f) : INFINITY;
  row->epsilon_cutoff = SHARE(in, 0.0f, 3e-4f, 0.02f, 1.0f, 1e-45f);
  row->eta_cutoff = SHARE(in, 0.0f, 3e-4f, 0.02f, 1.0f, 1e-45f);
  row->top_a = SHARE(in, 0.0f, 0.2f, 1.0f, 1e-45f);
  row->xtc_probability = SHARE(in, 0.0f, 0.5f, 1.0f, 1e-45f);
  row->xtc_threshold = SHARE(in, 0.1f, 0.0f, 0.5f, 1.0f, 1e-45f);
  row->top_h = SHARE(in, 1.0f, 0.4f, 0.0f, 0x1.fffffep-1f, 1e-45f);
  row->min_k = one_in(in, 4) ? PICK(in, 3.0f, 0.0f, 40.0f, 3e38f) : INFINITY;
  row->tfs = SHARE(in, 1.0f, 0.9f, 0.0f, 0x1.fffffep-1f, 1e-45f);
  row->skew = one_in(in, 4) ? PICK(in, 0.5f, -0.5f, 5.0f, -5.0f, 1e-45f) : 0.0f;
  row->flags |= one_in(in, 6) ? DECODING_P_LESS : one_in(in, 6) ? DECODING_P_LESS_NORM : 0;
  if (one_in(in, 6)) {
    row->flags |= DECODING_MIROSTAT;
    row->mirostat_mu = PICK(in, 5.0f, 0.0f, 1.5f, 100.0f, INFINITY, -1.0f);
    row->flags |= DECODING_ADAPTIVE_P;
    row->adaptive_p_center = (double)PICK(in, 0.3f, 0.0f, 1.0f, 0.55f);
  }
  if (one_in(in, 6)) {
    row->flags |= DECODING_MIROSTAT | (one_in(in, 2) ? DECODING_MIROSTAT_V1 : 0);
    row->mirostat_mu = PICK(in, 5.0f, 0.0f, 1.5f, 100.0f, INFINITY);
  }
}

static void make_penalties(choices *in, decoding_row *row) {
  int is_wild = one_in(in, 8);
  float factor = is_wild ? fabsf(finite_float(in)) : PICK(in, 1.0f, 1.2f, 0.5f, 1e-3f);
  row->repetition_penalty = factor > 0.0f ? factor : 1.0f;
  row->frequency_penalty = is_wild ? finite_float(in) : PICK(in, 0.0f, 0.5f, -1.0f, 0.0f);
  row->presence_penalty = is_wild ? finite_float(in) : PICK(in, 0.0f, 0.5f, -1.0f, 0.0f);
  row->context_frequency_penalty = is_wild ? finite_float(in) : PICK(in, 0.0f, 0.5f, -1.0f, 0.0f);
  if (one_in(in, 3)) {
    row->dry_multiplier = is_wild ? fabsf(finite_float(in)) : PICK(in, 0.8f, 1e-3f, 10.0f);
    row->dry_base = is_wild ? 1.0f + fabsf(finite_float(in)) : PICK(in, 1.75f, 1.0f, 4.0f);
    row->dry_base = isfinite(row->dry_base) ? row->dry_base : 3e38f;
    row->dry_allowed_length = 1 + (int32_t)below(in, 4);
    row->dry_range = one_in(in, 2) ? 1 + (int32_t)below(in, MAX_CONTEXT) : DECODING_DRY_RANGE_ALL;
  }
}

int32_t wild_id(choices *in, int32_t vocab_size) {
  uint32_t random = take(in, 4), above = (uint32_t)(INT32_MAX - vocab_size) + 1u;
  return random & 1u ? -1 - (int32_t)(random >> 1) : vocab_size + (int32_t)((random >> 1) % above);
}

/* Makes up to 20 distinct ids, evenly spaced and wrapped around. Rarely, one is outside the vocabulary. */
static const int32_t *make_ids(choices *in, problem *p, int32_t *n) {
  uint32_t vocab_size = (uint32_t)p->batch.vocab_size, wanted = below(in, 21), start = below(in, vocab_size);
  uint32_t step = 1 + below(in, 300);
  step = step < vocab_size ? step : vocab_size;
  *n = (int32_t)(wanted < vocab_size / step ? wanted : vocab_size / step);
  int32_t *ids = input_array(p, (size_t)*n * sizeof *ids);
  for (int32_t i = 0; i < *n; i++)
    ids[i] = (int32_t)((start + (uint32_t)i * step) % vocab_size);
  if (*n > 0 && one_in(in, 64)) {
    ids[below(in, (uint32_t)*n)] = wild_id(in, p->batch.vocab_size);
    p->has_wild_id = 1;
  }
  return ids;
}

static const int32_t *make_counts(choices *in, problem *p, int32_t n) {
  int32_t *counts = input_array(p, (size_t)n * sizeof *counts);
  for (int32_t i = 0; i < n; i++)
    counts[i] = one_in(in, 16) ? (int32_t)(take(in, 4) >> 1) : (int32_t)below(in, 4);
  return counts;
}

static void make_edits(choices *in, problem *p, decoding_row *row) {
  if (one_in(in, 2)) {
    row->history_token_ids = make_ids(in, p, &row->num_history);
    row->history_scope_counts = make_counts(in, p, row->num_history);
    row->history_output_counts = make_counts(in, p, row->num_history);
    row->history_total_counts = make_counts(in, p, row->num_history);
  }
  if (one_in(in, 2)) {
    row->bias_token_ids = make_ids(in, p, &row->num_bias);
    float *values = input_array(p, (size_t)row->num_bias * sizeof *values);
    for (int32_t i = 0; i < row->num_bias; i++)
      values[i] = one_in(in, 16) ? finite_float(in) : (float)below(in, 200) - 100.0f;
    row->bias_values = values;
  }
}

/* A few ids of the row, so that sequences of them repeat. */
typedef struct alphabet {
  uint32_t first;
  uint32_t step;
  uint32_t size;
} alphabet;

static int32_t letter(choices *in, problem *p, alphabet from) {
  uint32_t vocab_size = (uint32_t)p->batch.vocab_size;
  if (!one_in(in, 200))
    return (int32_t)((from.first + from.step * below(in, from.size)) % vocab_size);
  p->has_wild_id = 1;
  return wild_id(in, p->batch.vocab_size);
}

/* Makes n ids of the alphabet. Returns null if n is 0. */
static const int32_t *make_letters(choices *in, problem *p, alphabet from, int32_t n) {
  if (n == 0)
    return NULL;
  int32_t *ids = input_array(p, (size_t)n * sizeof *ids);
  for (int32_t i = 0; i < n; i++)
    ids[i] = letter(in, p, from);
  return ids;
}

static decoding_sequences make_sequences(choices *in, problem *p, alphabet from) {
  int32_t n = (int32_t)below(in, 5), num_ids = 0;
  int32_t *lengths = input_array(p, (size_t)n * sizeof *lengths);
  for (int32_t i = 0; i < n; i++)
    num_ids += lengths[i] = 1 + (int32_t)(below(in, 8) & below(in, 8));
  return (decoding_sequences){.token_ids = make_letters(in, p, from, num_ids), .lengths = lengths, .num_sequences = n};
}

static void make_context(choices *in, problem *p, decoding_row *row) {
  alphabet from = {below(in, (uint32_t)p->batch.vocab_size), 1 + below(in, 300), 1 + below(in, 4)};
  if (!one_in(in, 2))
    return;
  row->num_context = (int32_t)below(in, MAX_CONTEXT + 1);
  row->context_token_ids = make_letters(in, p, from, row->num_context);
  row->no_repeat_ngram_size = one_in(in, 2) ? 1 + (int32_t)below(in, 4) : 0;
  if (one_in(in, 2))
    row->dry_breakers = make_sequences(in, p, from);
  if (one_in(in, 2))
    row->bad_words = make_sequences(in, p, from);
}

static void make_masks(choices *in, problem *p, decoding_row *row) {
  if (one_in(in, 3))
    row->banned_token_ids = make_ids(in, p, &row->num_banned);
  if (one_in(in, 5))
    row->allowed_token_ids = make_ids(in, p, &row->num_allowed);
  if (one_in(in, 4)) {
    size_t num_words = ((size_t)p->batch.vocab_size + 31) / 32;
    uint32_t *words = input_array(p, num_words * sizeof *words);
    uint64_t state = take(in, 2);
    int density = (int)below(in, 3);
    for (size_t w = 0; w < num_words; w++)
      words[w] =
          density == 0 ? UINT32_MAX : (uint32_t)(next_random(&state) & next_random(&state) >> (density - 1) * 32);
    row->bitmask = words;
  }
}

/* Sets any modes in any order. */
static void make_report(choices *in, problem *p, decoding_row *row) {
  uint32_t first = below(in, 4), num_modes = below(in, DECODING_MAX_MODES + 1);
  for (uint32_t i = 0; i < num_modes; i++)
    row->logprobs_modes[i] = DECODING_LOGPROBS_RAW + (int32_t)((first + i) % 4);
  row->num_top = num_modes <= p->batch.top_modes ? (int32_t)below(in, (uint32_t)p->batch.top_stride + 1) : 0;
  row->num_chosen = (int32_t)below(in, (uint32_t)p->batch.chosen_stride + 1);
  int32_t *chosen = input_array(p, (size_t)row->num_chosen * sizeof *chosen);
  for (int32_t i = 0; i < row->num_chosen; i++)
    chosen[i] = (int32_t)below(in, (uint32_t)p->batch.vocab_size);
  row->chosen_token_ids = chosen;
  row->flags |= one_in(in, 4) ? DECODING_WANT_RAW_LOGPROB : 0;
  if (one_in(in, 5)) {
    row->flags |= DECODING_FORCE_TOKEN;
    row->forced_token_id = (int32_t)below(in, (uint32_t)p->batch.vocab_size);
  }
}

decoding_row *make_row(choices *in, problem *p) {
  decoding_row *row = input_array(p, sizeof *row);
  row->struct_size = sizeof *row;
  make_draw(in, row);
  make_temperature(in, row);
  make_truncation(in, p, row);
  make_penalties(in, row);
  make_edits(in, p, row);
  make_context(in, p, row);
  make_masks(in, p, row);
  make_report(in, p, row);
  int64_t edits = (int64_t)row->num_history + row->num_bias + row->num_context;
  p->max_edits = edits > p->max_edits ? edits : p->max_edits;
  return row;
}
