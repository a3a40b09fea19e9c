/* Log-probabilities, ranks and the most likely tokens. */
#include "sampling/logprobs.h"

#include <math.h>

#include "sampling/log_exp.h"
#include "sampling/top_k.h"

/* Return the log-probability of a token with this logit in `edited`. Computed from the logit in double: an integer
 * weight has no finer resolution than 2^-43 of the largest. */
static double logprob_of(dk_distribution *d, float logit, int32_t token_id) {
  if (d->point >= 0)
    return token_id == d->point ? 0.0 : -INFINITY;
  int32_t index = logit == -INFINITY ? -1 : dk_index_of(&d->view, token_id);
  if (index < 0 || !dk_prefix_contains(d->kept, dk_value(&d->view, index), token_id))
    return -INFINITY;
  double exponent = d->is_reshaped ? (double)dk_value(&d->view, index) - (double)d->view.max : dk_exponent(d, logit);
  return exponent - dk_log_total(d) + 0.0; /* never -0, whose order to +0 depends on the instruction set */
}

/* Banned tokens come last in the order, by id: after all others, and after the banned ones with lower ids. */
static int64_t num_ahead_of_banned(const dk_view *view, int32_t token_id) {
  int64_t num_kept_before = 0;
  for (int32_t block = 0; block * DK_BLOCK < token_id; block++) {
    const float *values = dk_fetch_floats(view, block);
    for (int32_t i = 0; i < DK_BLOCK && block * DK_BLOCK + i < token_id; i++)
      num_kept_before += values[i] > -INFINITY;
  }
  return dk_prefix_count(view, dk_prefix_all()) + token_id - num_kept_before;
}

/* Return 1 + the number of tokens that come before this one in the total order. */
static int32_t rank_of(const dk_view *view, int32_t token_id) {
  float value = dk_value(view, token_id);
  int64_t num_ahead = value == -INFINITY ? num_ahead_of_banned(view, token_id)
                                         : dk_prefix_count(view, (dk_prefix){value, token_id - 1});
  return 1 + (int32_t)num_ahead;
}

/* Return true if entry a of the list comes after entry b in the total order. */
static bool comes_after(const int32_t *ids, const float *values, int32_t a, int32_t b) {
  return values[a] < values[b] || (values[a] == values[b] && ids[a] > ids[b]);
}

static void swap_entries(int32_t *ids, float *values, int32_t a, int32_t b) {
  int32_t id = ids[a];
  float value = values[a];
  ids[a] = ids[b];
  values[a] = values[b];
  ids[b] = id;
  values[b] = value;
}

/* Heapsort by the total order. It sorts the listed entries only, never the row. */
static void sort_entries(int32_t *ids, float *values, int32_t n) {
  for (int32_t start = n / 2 - 1, end = n; end > 1;) {
    if (start >= 0)
      start--;
    else
      swap_entries(ids, values, 0, --end);
    for (int32_t parent = start + 1, child; (child = 2 * parent + 1) < end; parent = child) {
      if (child + 1 < end && comes_after(ids, values, child + 1, child))
        child++;
      if (!comes_after(ids, values, child, parent))
        break;
      swap_entries(ids, values, parent, child);
    }
  }
}

/* Write the first n tokens of the order with their values; fewer if the rest is banned. Returns the number written. */
static int32_t list_top(const dk_view *view, int32_t n, int32_t *ids, float *values) {
  const dk_entries *list = &view->workspace->list;
  if (n == 0)
    return 0;
  int32_t found = dk_list_first(view, n, false);
  for (int32_t i = 0; i < found; i++) {
    ids[i] = list->ids[i];
    values[i] = list->values[i];
  }
  sort_entries(ids, values, found);
  return found;
}

static dk_distribution distribution_in_mode(int32_t mode, const dk_view *raw, const dk_distribution *drawn) {
  if (mode == DECODING_LOGPROBS_RAW)
    return dk_whole(raw);
  if (mode == DECODING_LOGPROBS_PENALIZED)
    return dk_whole(drawn->edited);
  return mode == DECODING_LOGPROBS_FINAL ? *drawn : dk_untruncated(drawn);
}

static void write_logprobs(dk_distribution *d, const dk_view *view, const int32_t *token_ids, int32_t n,
                           float *logprobs) {
  for (int32_t i = 0; i < n; i++)
    logprobs[i] = (float)logprob_of(d, dk_value(view, token_ids[i]), token_ids[i]);
}

/* Return the token's log-probability in mode number `index` of the row; replace the values of the most likely tokens by
 * theirs, and write those of the chosen ones in the first mode. */
static float report_mode(int32_t index, const dk_view *raw, const dk_distribution *drawn, const decoding_result *result,
                         dk_report_lists lists) {
  const decoding_row *row = drawn->row;
  int32_t mode = row->logprobs_modes[index];
  dk_distribution d = distribution_in_mode(mode, raw, drawn);
  const dk_view *view = mode == DECODING_LOGPROBS_RAW ? raw : drawn->edited;
  if (result->num_top > 0)
    write_logprobs(&d, view, lists.token_ids, result->num_top, lists.logprobs + index * lists.stride);
  if (index == 0)
    write_logprobs(&d, view, row->chosen_token_ids, row->num_chosen, lists.chosen);
  return (float)logprob_of(&d, dk_value(view, result->token_id), result->token_id);
}

static float raw_logprob_of(const dk_view *raw, int32_t token_id) {
  dk_distribution d = dk_whole(raw);
  return (float)logprob_of(&d, dk_value(raw, token_id), token_id);
}

/* Return the log-probability of a token before adaptive_p and skew. Both keep the list of tokens that they were given,
 * so a token that is not in it had been dropped. */
static double logprob_before(dk_distribution *drawn, int32_t token_id) {
  float logit = dk_value(drawn->edited, token_id);
  if (!drawn->is_reshaped)
    return logprob_of(drawn, logit, token_id);
  if (dk_index_of(&drawn->view, token_id) < 0)
    return -INFINITY;
  dk_distribution before = *drawn;
  before.view.max = drawn->before.max;
  before.temperature = drawn->before.temperature;
  return dk_exponent(&before, logit) - drawn->before.log_total;
}

static float surprise_of(dk_distribution *drawn, int32_t token_id) {
  return (float)((0.0 - logprob_before(drawn, token_id)) * DK_LOG2E);
}

#define FOLLOWS_SURPRISE (DECODING_MIROSTAT | DECODING_ADAPTIVE_P)

bool dk_report_needs_distribution(const decoding_row *row) {
  bool needed = row->flags & FOLLOWS_SURPRISE;
  for (int32_t i = 0; i < DECODING_MAX_MODES; i++)
    needed |= row->logprobs_modes[i] == DECODING_LOGPROBS_SCALED || row->logprobs_modes[i] == DECODING_LOGPROBS_FINAL;
  return needed;
}

void dk_report(const dk_view *raw, dk_distribution *drawn, dk_report_lists lists, decoding_result *result) {
  const decoding_row *row = drawn->row;
  const int32_t *modes = row->logprobs_modes;
  if (modes[0] != DECODING_LOGPROBS_NONE) {
    const dk_view *order = modes[0] == DECODING_LOGPROBS_RAW ? raw : drawn->edited;
    result->rank = rank_of(order, result->token_id);
    result->num_top = list_top(order, row->num_top, lists.token_ids, lists.logprobs);
  }
  for (int32_t i = 0; i < DECODING_MAX_MODES && modes[i] != DECODING_LOGPROBS_NONE; i++) {
    result->logprobs[i] = report_mode(i, raw, drawn, result, lists);
    if (modes[i] == DECODING_LOGPROBS_RAW)
      result->raw_logprob = result->logprobs[i];
  }
  if ((row->flags & DECODING_WANT_RAW_LOGPROB) && isnan(result->raw_logprob))
    result->raw_logprob = raw_logprob_of(raw, result->token_id);
  if (row->flags & FOLLOWS_SURPRISE)
    result->surprise = surprise_of(drawn, result->token_id);
}
