/* libFuzzer target: bytes become a batch, and whatever the batch is, decoding.h must keep its word. run.sh builds it.
 *
 * An input is read as a stream of choices, zeros past its end. Every array is an allocation of its own, of exactly the
 * size that the header asks for, so that AddressSanitizer sees the first byte read or written too far. Each batch is
 * run on every instruction set and with both searches, with other garbage in workspace and outputs and another
 * rounding mode in the host each time: all of them must agree in every bit. */
#include <fenv.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decoding.h"

#define MAX_ROWS 3
#define MAX_VOCAB 5000
#define MAX_TOP 40
#define MAX_BUFFERS 64
#define NUM_OF(array) ((uint32_t)(sizeof(array) / sizeof(array)[0]))

#define REQUIRE(condition)                                                                                             \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, #condition);                                  \
      abort();                                                                                                         \
    }                                                                                                                  \
  } while (0)

/* ---- bytes to choices ---- */

typedef struct choices {
  const uint8_t *bytes;
  size_t size;
} choices;

static uint32_t take(choices *in, int num_bytes) {
  uint32_t value = 0;
  for (int i = 0; i < num_bytes && in->size > 0; i++, in->size--)
    value = value << 8 | *in->bytes++;
  return value;
}

static uint32_t below(choices *in, uint32_t n) { return take(in, n <= 256 ? 1 : 2) % n; }

static int one_in(choices *in, uint32_t n) { return below(in, n) == n - 1; }

static float as_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static float finite_float(choices *in) {
  float value = as_float(take(in, 4));
  return isfinite(value) ? value : 1.0f;
}

/* ---- a batch and the memory that it points to ---- */

typedef struct buffer {
  char *start;
  size_t size;
} buffer;

typedef struct problem {
  decoding_batch batch;
  decoding_row *rows[MAX_ROWS]; /* batch.rows, for writing */
  int has_wild_id;              /* an id outside the vocabulary was planted */
  int64_t max_edits;
  buffer inputs[MAX_BUFFERS];
  int num_inputs;
} problem;

static void *input_array(problem *p, size_t size) {
  REQUIRE(p->num_inputs < MAX_BUFFERS);
  char *start = calloc(1, size);
  p->inputs[p->num_inputs++] = (buffer){start, size};
  return start;
}

/* FNV-1a over everything that the library must leave alone. */
static uint64_t digest_inputs(const problem *p) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (int b = 0; b < p->num_inputs; b++)
    for (size_t i = 0; i < p->inputs[b].size; i++)
      hash = (hash ^ (uint8_t)p->inputs[b].start[i]) * 0x100000001B3u;
  return hash;
}

/* ---- logits ---- */

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
  uint64_t z = *state += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

/* One logit of a kind of row, from 64 random bits. */
static float logit_of(uint32_t kind, uint64_t random, int32_t i) {
  float noise = (float)(int32_t)random * 0x1p-31f, scale[] = {1.0f, 1e-3f, 8.0f, 40.0f, 1e30f};
  switch (kind) {
  case 5: /* ties */
    return (float)(random % 4);
  case 6: /* most tokens banned */
    return random % 64 ? -INFINITY : noise;
  case 7: /* a few far above the rest */
    return noise + (random >> 32) % 256 / 255 * 12;
  case 8: /* peaks that a sample of the row may miss */
    return noise + (i % 37 == 5 ? 6.0f : 0.0f);
  case 9: /* any bits: NaN, infinities, subnormals */
    return as_float((uint32_t)random);
  case 10:
    return (float)i * 1e-2f;
  case 11:
    return -0.0f;
  default:
    return noise * scale[kind % NUM_OF(scale)];
  }
}

/* To half precision, rounded towards zero; what is too small becomes zero. */
static uint32_t half_bits(uint32_t bits) {
  uint32_t sign = bits >> 16 & 0x8000u, exponent = bits >> 23 & 255u, mantissa = bits >> 13 & 1023u;
  if (exponent == 255u)
    return sign | 0x7C00u | mantissa;
  if (exponent < 113u)
    return sign;
  return exponent > 142u ? sign | 0x7BFFu : sign | (exponent - 112u) << 10 | mantissa;
}

static size_t element_size(const decoding_batch *batch) { return batch->dtype == DECODING_FLOAT32 ? 4 : 2; }

static void store_logit(const decoding_batch *batch, char *row, int32_t i, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  bits = batch->dtype == DECODING_FLOAT32 ? bits : batch->dtype == DECODING_FLOAT16 ? half_bits(bits) : bits >> 16;
  memcpy(row + (size_t)i * element_size(batch), &bits, element_size(batch)); /* little endian */
}

static void fill_row(choices *in, const decoding_batch *batch, char *row) {
  static const uint32_t special[] = {0xFF800000u, 0x7F800000u, 0x7FC00000u, 0x7F7FFFFFu,
                                     0xFF7FFFFFu, 0x80000000u, 1u,          0x42280000u};
  uint32_t kind = below(in, 13);
  uint64_t state = take(in, 2);
  for (int32_t i = 0; i < batch->vocab_size; i++)
    store_logit(batch, row, i, logit_of(kind, next_random(&state), i));
  for (uint32_t patches = below(in, 8); patches > 1; patches--) {
    int32_t i = (int32_t)below(in, (uint32_t)batch->vocab_size);
    uint32_t choice = below(in, NUM_OF(special) + 8);
    store_logit(batch, row, i, choice < NUM_OF(special) ? as_float(special[choice]) : finite_float(in));
  }
}

/* Rows at any alignment, any distance, forwards or backwards; the allocation ends where the last of them does. */
static void make_logits(choices *in, problem *p) {
  decoding_batch *batch = &p->batch;
  size_t length = (size_t)batch->vocab_size * element_size(batch), skew = below(in, 65);
  size_t stride = length + below(in, 40), gaps = (size_t)(batch->num_rows > 0 ? batch->num_rows - 1 : 0) * stride;
  char *first = (char *)input_array(p, skew + gaps + length) + skew;
  int backwards = one_in(in, 2);
  batch->logits = backwards ? first + gaps : first;
  batch->row_stride = backwards ? -(int64_t)stride : (int64_t)stride;
  for (int32_t i = 0; i < batch->num_rows; i++)
    fill_row(in, batch, (char *)p->batch.logits + i * batch->row_stride);
}

/* ---- rows ---- */

static float pick(choices *in, const float *values, uint32_t n) { return values[below(in, n)]; }

static void make_distribution(choices *in, const problem *p, decoding_row *row) {
  static const float temperatures[] = {1.0f, 0.0f, 0.7f, 3.0f, 0x1p-20f, 0x1.fffffep-21f, 1e20f, 3e38f, 1e-4f};
  static const float top_ps[] = {1.0f, 0.9f, 0.5f, 0.0f, 0.99f, 0x1.fffffep-1f, 1e-7f, 1e-45f};
  static const float min_ps[] = {0.0f, 0.05f, 1.0f, 1e-30f, 1e-45f};
  row->temperature = one_in(in, 6) ? fabsf(finite_float(in)) : pick(in, temperatures, NUM_OF(temperatures));
  row->top_p = one_in(in, 6) ? (float)take(in, 2) / 65535.0f : pick(in, top_ps, NUM_OF(top_ps));
  row->min_p = one_in(in, 6) ? (float)take(in, 2) / 65535.0f : pick(in, min_ps, NUM_OF(min_ps));
  row->top_k = one_in(in, 2) ? 1 + (int32_t)below(in, (uint32_t)p->batch.vocab_size) : DECODING_TOP_K_OFF;
  row->seed = take(in, 4);
  row->stream = take(in, 1);
  row->position = take(in, 1);
  row->choice = take(in, 1);
}

static void make_penalties(choices *in, decoding_row *row) {
  static const float factors[] = {1.0f, 1.2f, 0.5f, 1e-3f};
  static const float offsets[] = {0.0f, 0.5f, -1.0f, 0.0f};
  int is_wild = one_in(in, 8);
  row->repetition_penalty = is_wild ? fabsf(finite_float(in)) : pick(in, factors, NUM_OF(factors));
  row->repetition_penalty = row->repetition_penalty > 0.0f ? row->repetition_penalty : 1.0f;
  row->frequency_penalty = is_wild ? finite_float(in) : pick(in, offsets, NUM_OF(offsets));
  row->presence_penalty = is_wild ? finite_float(in) : pick(in, offsets, NUM_OF(offsets));
  row->context_frequency_penalty = is_wild ? finite_float(in) : pick(in, offsets, NUM_OF(offsets));
}

static int32_t wild_id(choices *in, int32_t vocab_size) {
  uint32_t random = take(in, 4), above = (uint32_t)(INT32_MAX - vocab_size) + 1u;
  return random & 1u ? -1 - (int32_t)(random >> 1) : vocab_size + (int32_t)((random >> 1) % above);
}

/* Up to 20 distinct ids, evenly spaced and wrapped around; one of them, rarely, outside the vocabulary. */
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
  int64_t edits = (int64_t)row->num_history + row->num_bias;
  p->max_edits = edits > p->max_edits ? edits : p->max_edits;
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

static decoding_row *make_row(choices *in, problem *p) {
  decoding_row *row = input_array(p, sizeof *row);
  row->struct_size = sizeof *row;
  make_distribution(in, p, row);
  make_penalties(in, row);
  make_edits(in, p, row);
  make_masks(in, p, row);
  row->logprobs_mode = (int32_t)below(in, DECODING_LOGPROBS_FINAL + 1);
  row->num_top = (int32_t)below(in, (uint32_t)p->batch.top_stride + 1);
  row->flags = one_in(in, 4) ? DECODING_WANT_RAW_LOGPROB : 0;
  if (one_in(in, 5)) {
    row->flags |= DECODING_FORCE_TOKEN;
    row->forced_token_id = (int32_t)below(in, (uint32_t)p->batch.vocab_size);
  }
  return row;
}

static int32_t pick_vocab_size(choices *in) {
  static const int32_t sizes[] = {1, 2, 15, 16, 17, 31, 32, 33, 255, 256, 257, 511, 513, 1024, 4096, 4097};
  return one_in(in, 2) ? sizes[below(in, NUM_OF(sizes))] : 1 + (int32_t)below(in, MAX_VOCAB);
}

static void make_problem(choices *in, problem *p) {
  decoding_batch *batch = &p->batch;
  *p = (problem){.batch = {.struct_size = sizeof *batch}};
  batch->dtype = (int32_t)below(in, 3);
  batch->vocab_size = pick_vocab_size(in);
  batch->num_valid_tokens = batch->vocab_size - (one_in(in, 4) ? (int32_t)below(in, (uint32_t)batch->vocab_size) : 0);
  batch->num_rows = (int32_t)(1 + below(in, MAX_ROWS + 1)) % (MAX_ROWS + 1);
  batch->flags = one_in(in, 4) ? DECODING_MASK_NAN : 0;
  batch->top_stride = one_in(in, 2) ? below(in, MAX_TOP) : 3;
  make_logits(in, p);
  const decoding_row **pointers = input_array(p, (size_t)batch->num_rows * sizeof *pointers);
  for (int32_t i = 0; i < batch->num_rows; i++)
    pointers[i] = p->rows[i] = make_row(in, p);
  batch->rows = pointers;
}

static void free_inputs(problem *p) {
  for (int b = 0; b < p->num_inputs; b++)
    free(p->inputs[b].start);
}

/* ---- one run, into memory full of garbage ---- */

typedef struct outcome {
  int32_t sample_status;
  int32_t probabilities_status;
  decoding_result *results;
  int32_t *top_token_ids;
  float *top_logprobs;
  decoding_result *probabilities_results;
  double *probabilities;
} outcome;

static void *garbage(size_t size, uint8_t byte) {
  void *memory = malloc(size);
  memset(memory, byte, size);
  return memory;
}

static outcome run(const problem *p, const char *isa, uint32_t search, uint8_t byte) {
  static const int roundings[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
  int rounding = roundings[byte % 4];
  decoding_batch batch = p->batch;
  size_t num_rows = (size_t)batch.num_rows, num_top = num_rows * (size_t)batch.top_stride, skew = byte % 64;
  outcome got = {.results = garbage(num_rows * sizeof *got.results, byte),
                 .top_token_ids = garbage(num_top * sizeof *got.top_token_ids, byte),
                 .top_logprobs = garbage(num_top * sizeof *got.top_logprobs, byte),
                 .probabilities_results = garbage(num_rows * sizeof *got.results, byte),
                 .probabilities = garbage(num_rows * (size_t)batch.vocab_size * sizeof(double), byte)};
  batch.flags |= search;
  batch.workspace_size = decoding_workspace_size(batch.vocab_size, p->max_edits);
  char *workspace = garbage(skew + batch.workspace_size, byte);
  batch.workspace = workspace + skew;
  batch.results = got.results;
  batch.top_token_ids = got.top_token_ids;
  batch.top_logprobs = got.top_logprobs;
  REQUIRE(decoding_force_isa(isa) == DECODING_OK && strcmp(decoding_active_isa(), isa) == 0);
  fesetround(rounding);
  got.sample_status = decoding_sample(&batch);
  batch.results = got.probabilities_results;
  got.probabilities_status = decoding_probabilities(&batch, got.probabilities);
  REQUIRE(fegetround() == rounding);
  fesetround(FE_TONEAREST);
  free(workspace);
  return got;
}

static void free_outcome(outcome *got) {
  free(got->results);
  free(got->top_token_ids);
  free(got->top_logprobs);
  free(got->probabilities_results);
  free(got->probabilities);
}

static void require_same(const problem *p, const outcome *a, const outcome *b) {
  size_t num_rows = (size_t)p->batch.num_rows, num_top = num_rows * (size_t)p->batch.top_stride;
  REQUIRE(a->sample_status == b->sample_status && a->probabilities_status == b->probabilities_status);
  REQUIRE(memcmp(a->results, b->results, num_rows * sizeof *a->results) == 0);
  REQUIRE(memcmp(a->top_token_ids, b->top_token_ids, num_top * sizeof *a->top_token_ids) == 0);
  REQUIRE(memcmp(a->top_logprobs, b->top_logprobs, num_top * sizeof *a->top_logprobs) == 0);
  size_t num_probabilities = num_rows * (size_t)p->batch.vocab_size;
  REQUIRE(memcmp(a->probabilities, b->probabilities, num_probabilities * sizeof(double)) == 0);
}

/* ---- what a row promises ---- */

static int is_dead(const decoding_batch *batch, int32_t row, int32_t token_id) { /* -inf, or NaN that is masked */
  static const uint32_t infinities[] = {0x7F800000u, 0x7C00u, 0x7F80u};
  uint32_t bits = 0, infinity = infinities[batch->dtype], sign = element_size(batch) == 4 ? 0x80000000u : 0x8000u;
  const char *logits = (const char *)batch->logits + row * batch->row_stride;
  memcpy(&bits, logits + (size_t)token_id * element_size(batch), element_size(batch));
  return bits == (sign | infinity) || (bits & ~sign) > infinity;
}

static int holds(const int32_t *ids, int32_t n, int32_t token_id) {
  for (int32_t i = 0; i < n; i++)
    if (ids[i] == token_id)
      return 1;
  return 0;
}

static int may_draw(const decoding_batch *batch, int32_t i, int32_t token_id) {
  const decoding_row *row = batch->rows[i];
  if (token_id < 0 || token_id >= batch->num_valid_tokens || is_dead(batch, i, token_id))
    return 0;
  if (row->bitmask != NULL && !(row->bitmask[token_id / 32] >> token_id % 32 & 1u))
    return 0;
  return !holds(row->banned_token_ids, row->num_banned, token_id) &&
         (row->allowed_token_ids == NULL || holds(row->allowed_token_ids, row->num_allowed, token_id));
}

static void check_failure(const problem *p, const decoding_result *result) {
  int32_t bad = result->bad_token_id, vocab_size = p->batch.vocab_size;
  REQUIRE(result->token_id == -1 && result->rank == 0 && result->num_top == 0);
  REQUIRE(isnan(result->logprob) && isnan(result->raw_logprob));
  if (result->status == DECODING_BAD_TOKEN_ID)
    REQUIRE(p->has_wild_id && (bad < 0 || bad >= vocab_size));
  else if (result->status == DECODING_NONFINITE)
    REQUIRE(bad >= 0 && bad < vocab_size && result->stage >= 0 && result->stage <= DECODING_STAGE_LOGIT_BIAS);
  else
    REQUIRE(result->status == DECODING_EMPTY && bad == -1 &&
            (result->stage == DECODING_STAGE_FINITE_CHECK || result->stage == DECODING_STAGE_HARD_MASKS));
}

/* Rounded to float32, a log-probability may exceed 0 by no more than this. */
static int is_logprob(float value) { return value <= 1e-6f; }

static void check_report(const decoding_batch *batch, int32_t i, const decoding_result *result, const outcome *got) {
  const decoding_row *row = batch->rows[i];
  const int32_t *ids = got->top_token_ids + i * batch->top_stride;
  const float *logprobs = got->top_logprobs + i * batch->top_stride;
  int reports = row->logprobs_mode != DECODING_LOGPROBS_NONE, is_raw = row->logprobs_mode == DECODING_LOGPROBS_RAW;
  REQUIRE(reports ? is_logprob(result->logprob) : isnan(result->logprob));
  REQUIRE(reports ? result->rank >= 1 && result->rank <= batch->vocab_size : result->rank == 0);
  int has_raw = is_raw || (row->flags & DECODING_WANT_RAW_LOGPROB);
  REQUIRE(has_raw ? is_logprob(result->raw_logprob) : isnan(result->raw_logprob));
  REQUIRE(result->num_top >= 0 && result->num_top <= (reports ? row->num_top : 0));
  for (int32_t n = 0; n < batch->top_stride; n++) {
    if (n >= result->num_top) {
      REQUIRE(ids[n] == -1 && logprobs[n] == -INFINITY);
      continue;
    }
    REQUIRE(is_raw ? !is_dead(batch, i, ids[n]) : may_draw(batch, i, ids[n]));
    REQUIRE(is_logprob(logprobs[n]) && !holds(ids, n, ids[n]) && (n == 0 || logprobs[n] <= logprobs[n - 1]));
    REQUIRE((ids[n] == result->token_id) == (result->rank == n + 1));
  }
}

static void check_probabilities(const decoding_batch *batch, int32_t i, const double *probabilities) {
  const decoding_row *row = batch->rows[i];
  double sum = 0.0;
  int32_t support = 0;
  for (int32_t token_id = 0; token_id < batch->vocab_size; token_id++) {
    REQUIRE(probabilities[token_id] >= 0.0 && probabilities[token_id] <= 1.0);
    REQUIRE(probabilities[token_id] == 0.0 || may_draw(batch, i, token_id));
    sum += probabilities[token_id];
    support += probabilities[token_id] > 0.0;
  }
  REQUIRE(fabs(sum - 1.0) < 1e-9);
  REQUIRE(support <= row->top_k);
}

static void check_row(const problem *p, int32_t i, const outcome *got) {
  const decoding_batch *batch = &p->batch;
  const decoding_result *result = &got->results[i], *other = &got->probabilities_results[i];
  const double *probabilities = got->probabilities + (size_t)i * (size_t)batch->vocab_size;
  REQUIRE(result->status == other->status && result->stage == other->stage);
  REQUIRE(result->bad_token_id == other->bad_token_id);
  if (result->status != DECODING_OK) {
    check_failure(p, result);
    return;
  }
  if (batch->rows[i]->flags & DECODING_FORCE_TOKEN)
    REQUIRE(result->token_id == batch->rows[i]->forced_token_id);
  else
    REQUIRE(may_draw(batch, i, result->token_id) && probabilities[result->token_id] > 0.0);
  check_report(batch, i, result, got);
  check_probabilities(batch, i, probabilities);
}

static void check_outcome(const problem *p, const outcome *got) {
  int32_t num_failed = 0;
  for (int32_t i = 0; i < p->batch.num_rows; i++) {
    check_row(p, i, got);
    num_failed += got->results[i].status != DECODING_OK;
  }
  REQUIRE(got->sample_status == (num_failed > 0 ? DECODING_ROW_FAILED : DECODING_OK));
  REQUIRE(got->probabilities_status == got->sample_status);
}

static void check_all_ways(const problem *p) {
  static const uint32_t searches[] = {0, DECODING_PLAIN_SEARCH};
  uint64_t before = digest_inputs(p);
  outcome first = run(p, "portable", 0, 0);
  check_outcome(p, &first);
  uint8_t byte = 1;
  const char *isa;
  for (int32_t index = 0; (isa = decoding_isa_name(index)) != NULL; index++) {
    for (int s = 0; decoding_isa_available(isa) && s < 2; s++) {
      outcome again = run(p, isa, searches[s], byte += 37);
      require_same(p, &first, &again);
      free_outcome(&again);
    }
  }
  free_outcome(&first);
  REQUIRE(digest_inputs(p) == before);
}

/* ---- calls that must be refused ---- */

/* 32 bits to write over a field, and what must come of it. */
typedef struct flaw {
  size_t field;
  uint32_t bits;
  int32_t status;
} flaw;

/* An array to take away, and the 32-bit number of its elements, which becomes 1. */
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

static const flaw ROW_FLAWS[] = {
    ROW(temperature, NAN_BITS),
    ROW(temperature, INFINITY_BITS),
    ROW(temperature, MINUS_ONE_BITS),
    ROW(top_p, NAN_BITS),
    ROW(top_p, MINUS_ONE_BITS),
    ROW(top_p, TWO_BITS),
    ROW(min_p, NAN_BITS),
    ROW(min_p, MINUS_ONE_BITS),
    ROW(min_p, TWO_BITS),
    ROW(top_k, 0),
    ROW(top_k, INT32_MIN),
    ROW(repetition_penalty, 0),
    ROW(repetition_penalty, NAN_BITS),
    ROW(repetition_penalty, INFINITY_BITS),
    ROW(frequency_penalty, NAN_BITS),
    ROW(presence_penalty, INFINITY_BITS),
    ROW(context_frequency_penalty, NAN_BITS),
    ROW(num_history, -1),
    ROW(num_bias, INT32_MIN),
    ROW(num_banned, -1),
    ROW(num_allowed, -1),
    ROW(num_top, -1),
    ROW(num_top, MAX_TOP + 1),
    ROW(logprobs_mode, -1),
    ROW(logprobs_mode, DECODING_LOGPROBS_FINAL + 1),
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
    {offsetof(decoding_batch, struct_size), 1, DECODING_BAD_SIZE},
};

static const loss ROW_LOSSES[] = {
    ROW_LOSS(history_token_ids, num_history),     ROW_LOSS(history_scope_counts, num_history),
    ROW_LOSS(history_output_counts, num_history), ROW_LOSS(history_total_counts, num_history),
    ROW_LOSS(bias_token_ids, num_bias),           ROW_LOSS(bias_values, num_bias),
    ROW_LOSS(banned_token_ids, num_banned),
};

static const size_t BATCH_LOSSES[] = {offsetof(decoding_batch, logits), offsetof(decoding_batch, rows),
                                      offsetof(decoding_batch, results), offsetof(decoding_batch, workspace)};

static int32_t spoil(void *structure, const flaw *flaw) {
  memcpy((char *)structure + flaw->field, &flaw->bits, sizeof flaw->bits);
  return flaw->status;
}

static void take_away(void *structure, size_t pointer) { memset((char *)structure + pointer, 0, sizeof(void *)); }

static int32_t lose(void *structure, const loss *loss) {
  const int32_t one = 1;
  take_away(structure, loss->pointer);
  memcpy((char *)structure + loss->count, &one, sizeof one);
  return DECODING_BAD_ARGUMENT;
}

/* Flaws that need a value of the problem. */
static int32_t spoil_specially(choices *in, problem *p, decoding_row *row) {
  static const float infinite_bias = INFINITY;
  static const int32_t biased_id = 0;
  switch (below(in, 6)) {
  case 0:
    row->flags |= DECODING_FORCE_TOKEN;
    row->forced_token_id = wild_id(in, p->batch.vocab_size);
    return DECODING_BAD_ARGUMENT;
  case 1:
    row->num_bias = 1;
    row->bias_token_ids = &biased_id;
    row->bias_values = &infinite_bias;
    return DECODING_BAD_ARGUMENT;
  case 2:
    row->num_top = 1;
    p->batch.top_token_ids = NULL;
    return DECODING_BAD_ARGUMENT;
  case 3:
    ((const decoding_row **)(uintptr_t)p->batch.rows)[below(in, (uint32_t)p->batch.num_rows)] = NULL;
    return DECODING_BAD_ARGUMENT;
  case 4:
    p->batch.top_stride = -1 - (int64_t)take(in, 4);
    return DECODING_BAD_ARGUMENT;
  default:
    p->batch.workspace_size = decoding_workspace_size(p->batch.vocab_size, p->max_edits) - 1;
    return DECODING_SMALL_WORKSPACE;
  }
}

static int32_t spoil_somehow(choices *in, problem *p) {
  decoding_row *row = p->rows[below(in, (uint32_t)p->batch.num_rows)];
  switch (below(in, 5)) {
  case 0:
    return spoil(row, &ROW_FLAWS[below(in, NUM_OF(ROW_FLAWS))]);
  case 1:
    return spoil(&p->batch, &BATCH_FLAWS[below(in, NUM_OF(BATCH_FLAWS))]);
  case 2:
    return lose(row, &ROW_LOSSES[below(in, NUM_OF(ROW_LOSSES))]);
  case 3:
    take_away(&p->batch, BATCH_LOSSES[below(in, NUM_OF(BATCH_LOSSES))]);
    return DECODING_BAD_ARGUMENT;
  default:
    return spoil_specially(in, p, row);
  }
}

/* One wrong thing in an otherwise good batch: the call says so and writes nothing. */
static void check_refusal(choices *in, problem *p) {
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

static void check_small_calls(choices *in) {
  int32_t vocab_size = (int32_t)take(in, 4), index = (int32_t)take(in, 4);
  int64_t max_edits = (int64_t)((uint64_t)take(in, 4) << 32 | take(in, 4));
  char name[8] = {0};
  int is_valid = vocab_size >= 1 && vocab_size <= DECODING_MAX_VOCAB_SIZE && max_edits >= 0 && max_edits <= INT32_MAX;
  REQUIRE((decoding_workspace_size(vocab_size, max_edits) > 0) == is_valid);
  REQUIRE(decoding_status_message(index) != NULL);
  REQUIRE(decoding_isa_name(index) == NULL || decoding_isa_name(index)[0] != '\0');
  for (size_t i = 0; i + 1 < sizeof name; i++)
    name[i] = (char)take(in, 1);
  int32_t status = decoding_force_isa(name);
  REQUIRE(status == DECODING_OK ? decoding_isa_available(name)
                                : status == DECODING_UNKNOWN_ISA || status == DECODING_ABSENT_ISA);
  REQUIRE(decoding_sample(NULL) == DECODING_BAD_ARGUMENT &&
          decoding_probabilities(NULL, NULL) == DECODING_BAD_ARGUMENT);
  REQUIRE(decoding_isa_available(NULL) == 0 && decoding_force_isa(NULL) == DECODING_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  choices in = {bytes, size};
  problem p;
  uint32_t kind = below(&in, 16);
  if (kind == 15) {
    check_small_calls(&in);
    return 0;
  }
  make_problem(&in, &p);
  if (kind >= 12 && p.batch.num_rows > 0)
    check_refusal(&in, &p);
  else
    check_all_ways(&p);
  free_inputs(&p);
  return 0;
}
