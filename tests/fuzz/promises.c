/* The guarantees of every call. Each batch runs on every instruction set and with both searches, each time with other
 * garbage in workspace and outputs and another rounding mode of the host: all results must agree in every bit. */
#include <fenv.h>
#include <math.h>

#include "problem.h"

/* ---- one run, into memory full of garbage ---- */

typedef struct outcome {
  int32_t sample_status;
  int32_t probabilities_status;
  decoding_result *results;
  int32_t *top_token_ids;
  float *top_logprobs;
  float *chosen_logprobs;
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
  size_t num_logprobs = num_top * (size_t)batch.top_modes, num_chosen = num_rows * (size_t)batch.chosen_stride;
  outcome got = {.results = garbage(num_rows * sizeof *got.results, byte),
                 .top_token_ids = garbage(num_top * sizeof *got.top_token_ids, byte),
                 .top_logprobs = garbage(num_logprobs * sizeof *got.top_logprobs, byte),
                 .chosen_logprobs = garbage(num_chosen * sizeof *got.chosen_logprobs, byte),
                 .probabilities_results = garbage(num_rows * sizeof *got.results, byte),
                 .probabilities = garbage(num_rows * (size_t)batch.vocab_size * sizeof(double), byte)};
  batch.flags |= search;
  batch.workspace_size = decoding_workspace_size(batch.vocab_size, p->max_edits);
  char *workspace = garbage(skew + batch.workspace_size, byte);
  batch.workspace = workspace + skew;
  batch.results = got.results;
  batch.top_token_ids = got.top_token_ids;
  batch.top_logprobs = got.top_logprobs;
  batch.chosen_logprobs = got.chosen_logprobs;
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
  free(got->chosen_logprobs);
  free(got->probabilities_results);
  free(got->probabilities);
}

static void require_same(const problem *p, const outcome *a, const outcome *b) {
  size_t num_rows = (size_t)p->batch.num_rows, num_top = num_rows * (size_t)p->batch.top_stride;
  REQUIRE(a->sample_status == b->sample_status && a->probabilities_status == b->probabilities_status);
  REQUIRE(memcmp(a->results, b->results, num_rows * sizeof *a->results) == 0);
  REQUIRE(memcmp(a->top_token_ids, b->top_token_ids, num_top * sizeof *a->top_token_ids) == 0);
  size_t num_logprobs = num_top * (size_t)p->batch.top_modes;
  REQUIRE(memcmp(a->top_logprobs, b->top_logprobs, num_logprobs * sizeof *a->top_logprobs) == 0);
  size_t num_chosen = num_rows * (size_t)p->batch.chosen_stride;
  REQUIRE(memcmp(a->chosen_logprobs, b->chosen_logprobs, num_chosen * sizeof *a->chosen_logprobs) == 0);
  size_t num_probabilities = num_rows * (size_t)p->batch.vocab_size;
  REQUIRE(memcmp(a->probabilities, b->probabilities, num_probabilities * sizeof(double)) == 0);
}

/* ---- the guarantees of a row ---- */

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
  REQUIRE(isnan(result->raw_logprob) && isnan(result->surprise));
  for (int m = 0; m < DECODING_MAX_MODES; m++)
    REQUIRE(isnan(result->logprobs[m]));
  if (result->status == DECODING_BAD_TOKEN_ID)
    REQUIRE(p->has_wild_id && (bad < 0 || bad >= vocab_size));
  else if (result->status == DECODING_NONFINITE)
    REQUIRE(bad >= 0 && bad < vocab_size && result->stage >= 0 && result->stage <= DECODING_STAGE_LOGIT_BIAS);
  else
    REQUIRE(result->status == DECODING_EMPTY && bad == -1 &&
            (result->stage == DECODING_STAGE_FINITE_CHECK || result->stage == DECODING_STAGE_HARD_MASKS));
}

/* The maximum by which a log-probability may exceed 0 after rounding to float32. */
static int is_logprob(float value) { return value <= 1e-6f; }

static int num_modes(const decoding_row *row) {
  int n = 0;
  while (n < DECODING_MAX_MODES && row->logprobs_modes[n] != DECODING_LOGPROBS_NONE)
    n++;
  return n;
}

static int has_mode(const decoding_row *row, int32_t mode) {
  for (int m = 0; m < num_modes(row); m++)
    if (row->logprobs_modes[m] == mode)
      return 1;
  return 0;
}

/* Checks a list of the top-N: log-probabilities descend, except for tokens that cannot be drawn. */
static void check_list(const decoding_batch *batch, int32_t mode, int32_t num_top, const float *logprobs) {
  int may_skip = mode == DECODING_LOGPROBS_SCALED || mode == DECODING_LOGPROBS_FINAL;
  float last = INFINITY;
  for (int32_t n = 0; n < batch->top_stride; n++) {
    REQUIRE(n < num_top ? is_logprob(logprobs[n]) : logprobs[n] == -INFINITY);
    if (may_skip && logprobs[n] == -INFINITY)
      continue;
    REQUIRE(logprobs[n] <= last);
    last = logprobs[n];
  }
}

static void check_top(const decoding_batch *batch, int32_t i, const decoding_result *result, const outcome *got) {
  const decoding_row *row = batch->rows[i];
  const int32_t *ids = got->top_token_ids + i * batch->top_stride;
  int is_raw = row->logprobs_modes[0] == DECODING_LOGPROBS_RAW;
  REQUIRE(result->num_top >= 0 && result->num_top <= (num_modes(row) > 0 ? row->num_top : 0));
  for (int32_t n = 0; n < batch->top_stride; n++) {
    if (n >= result->num_top) {
      REQUIRE(ids[n] == -1);
      continue;
    }
    REQUIRE(is_raw ? !is_dead(batch, i, ids[n]) : may_draw(batch, i, ids[n]));
    REQUIRE(!holds(ids, n, ids[n]) && (ids[n] == result->token_id) == (result->rank == n + 1));
  }
  for (int64_t m = 0; m < batch->top_modes; m++) {
    const float *logprobs = got->top_logprobs + (i * batch->top_modes + m) * batch->top_stride;
    int is_used = m < num_modes(row);
    if (is_used && m == 0)
      check_list(batch, row->logprobs_modes[m], result->num_top, logprobs);
    for (int64_t n = is_used ? result->num_top : 0; n < batch->top_stride; n++)
      REQUIRE(logprobs[n] == -INFINITY);
  }
}

/* A chosen token that is the row's own has the same log-probability. */
static void check_chosen(const decoding_batch *batch, int32_t i, const decoding_result *result, const outcome *got) {
  const decoding_row *row = batch->rows[i];
  const float *logprobs = got->chosen_logprobs + i * batch->chosen_stride;
  for (int64_t n = 0; n < batch->chosen_stride; n++) {
    if (n >= row->num_chosen || num_modes(row) == 0)
      REQUIRE(isnan(logprobs[n]));
    else
      REQUIRE(is_logprob(logprobs[n]) &&
              (row->chosen_token_ids[n] != result->token_id || logprobs[n] == result->logprobs[0]));
  }
}

static void check_report(const decoding_batch *batch, int32_t i, const decoding_result *result, const outcome *got) {
  const decoding_row *row = batch->rows[i];
  int modes = num_modes(row);
  for (int m = 0; m < DECODING_MAX_MODES; m++)
    REQUIRE(m < modes ? is_logprob(result->logprobs[m]) : isnan(result->logprobs[m]));
  REQUIRE(modes > 0 ? result->rank >= 1 && result->rank <= batch->vocab_size : result->rank == 0);
  int has_raw = has_mode(row, DECODING_LOGPROBS_RAW) || (row->flags & DECODING_WANT_RAW_LOGPROB);
  REQUIRE(has_raw ? is_logprob(result->raw_logprob) : isnan(result->raw_logprob));
  REQUIRE(row->flags & DECODING_MIROSTAT ? result->surprise >= -1e-6f : isnan(result->surprise));
  check_top(batch, i, result, got);
  check_chosen(batch, i, result, got);
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
  int is_truncated = !(row->flags & DECODING_MIROSTAT) && !(batch->rules & DECODING_RULE_KEEP_TIES);
  REQUIRE(support <= (is_truncated ? row->top_k : batch->vocab_size));
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

void check_promises(const problem *p) {
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
