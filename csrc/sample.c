/* One row through the pipeline: views, truncation, draw, log-probabilities. The stages are those of decoding.h. */
#include "sample.h"

#include <math.h>
#include <string.h>

#include "decoding.h"
#include "logarithm.h"
#include "philox.h"
#include "select.h"

#define GREEDY_TEMPERATURE 0x1p-20f
#define CUT (-40.0 * DK_LN2)        /* weights below 2^-40 are zero by definition */
#define NEGLIGIBLE (-45.0 * DK_LN2) /* weights below 2^-45 round to zero in units of 2^-43 */

/* A distribution over a view: exp((x - max) / T) over a prefix, divided by its total. */
typedef struct dk_distribution {
  const dk_view *view;
  dk_prefix kept;
  float temperature;
  dk_scale scale;
  uint64_t total; /* in units of 2^-DK_WEIGHT_BITS; 0: a point at the first token of the order */
  int32_t point;  /* that token */
} dk_distribution;

/* exp2(d * rate): see expf16.h. For a temperature beyond 2^60 both sides are scaled by 2^-64, exactly. */
static dk_scale make_scale(float max, float temperature) {
  float unit = temperature >= 0x1p60f ? 0x1p-64f : 1.0f;
  double rate = DK_LOG2E / ((double)temperature * (double)unit);
  float high = (float)rate;
  return (dk_scale){unit, -max * unit, high, (float)(rate - (double)high)};
}

static dk_prefix at_least(const dk_view *view, float temperature, double log_ratio) {
  return dk_prefix_from((double)view->max + (double)temperature * log_ratio);
}

/* Everything that is not banned, at this temperature. */
static dk_distribution whole(const dk_view *view, float temperature) {
  dk_distribution all = {
      view, at_least(view, temperature, NEGLIGIBLE), temperature, make_scale(view->max, temperature), 0, -1};
  all.total = dk_prefix_mass(view, all.kept, &all.scale, NULL);
  all.kept = dk_prefix_all();
  return all;
}

static int32_t first_of_order(const dk_view *view) {
  for (int32_t block = 0; block < view->num_blocks; block++) {
    if (view->block_max[block] != view->max)
      continue;
    const float *values = dk_fetch(view, block);
    for (int32_t i = 0; i < DK_BLOCK; i++)
      if (values[i] == view->max)
        return block * DK_BLOCK + i;
  }
  return -1;
}

static dk_distribution point(const dk_view *view) {
  int32_t first = first_of_order(view);
  return (dk_distribution){.view = view, .kept = {view->max, first}, .point = first};
}

static int32_t is_greedy(const decoding_row *row) { return row->temperature < GREEDY_TEMPERATURE; }

static uint64_t crossing(float top_p, uint64_t total) {
  double target = ceil((double)top_p * (double)total);
  uint64_t mass = target < 1.0 ? 1u : (uint64_t)target;
  return mass < total ? mass : total;
}

/* Stages 8 to 12. sums[block] gets the mass of each block of what is kept. */
static dk_distribution truncated(const dk_view *view, const decoding_row *row, uint64_t *sums) {
  if (is_greedy(row))
    return point(view);
  dk_distribution d = {view, dk_prefix_all(), row->temperature, make_scale(view->max, row->temperature), 0, -1};
  if (row->top_k < view->vocab_size)
    d.kept = dk_select_count(view, row->top_k);
  d.kept = dk_prefix_tighter(d.kept, at_least(view, row->temperature, CUT));
  if (row->top_p < 1.0f) {
    uint64_t mass = dk_prefix_mass(view, d.kept, &d.scale, NULL);
    d.kept = dk_select_mass(view, d.kept, &d.scale, crossing(row->top_p, mass));
  }
  if (row->min_p > 0.0f)
    d.kept = dk_prefix_tighter(d.kept, at_least(view, row->temperature, dk_log((double)row->min_p)));
  d.total = dk_prefix_mass(view, d.kept, &d.scale, sums);
  return d;
}

static double log_total(const dk_distribution *d) { return dk_log((double)d->total) - (double)DK_WEIGHT_BITS * DK_LN2; }

/* From the logit itself, in double: the integer weight is only as fine as 2^-43 of the largest. */
static float logprob(const dk_distribution *d, double log_total, float value, int32_t token_id) {
  if (d->total == 0)
    return token_id == d->point ? 0.0f : -INFINITY;
  if (value == -INFINITY || !dk_prefix_has(d->kept, value, token_id))
    return -INFINITY;
  return (float)(((double)value - (double)d->view->max) / (double)d->temperature - log_total);
}

/* Stage 13: the first token, in order of id, at which the running mass exceeds a uniform integer below the total. */
static int32_t draw(const dk_distribution *d, const decoding_row *row, const uint64_t *sums) {
  const uint64_t counter[4] = {row->position, row->choice, 0, 0}, key[2] = {row->seed, row->stream};
  uint64_t random[4];
  if (d->total == 0)
    return d->point;
  dk_philox4x64(counter, key, random);
  uint64_t rest = dk_multiply(random[0], d->total).high;
  int32_t block = 0, i = 0;
  while (rest >= sums[block])
    rest -= sums[block++];
  uint64_t *weights = d->view->workspace->weights;
  d->view->kernel->weights(dk_fetch(d->view, block), dk_prefix_in_block(d->kept, block), &d->scale, weights);
  while (rest >= weights[i])
    rest -= weights[i++];
  return block * DK_BLOCK + i;
}

static int32_t rank_of(const dk_view *view, int32_t token_id) {
  return 1 + (int32_t)dk_prefix_count(view, (dk_prefix){dk_value(view, token_id), token_id - 1});
}

/* Whether entry a of the report comes after entry b in the total order. */
static int32_t comes_after(const int32_t *ids, const float *values, int32_t a, int32_t b) {
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

/* Heapsort: the entries of the report, never the row. */
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

/* The first n tokens of the order, with their values; fewer where the rest is banned. Returns how many. */
static int32_t list_top(const dk_view *view, int32_t n, int32_t *ids, float *values) {
  if (n == 0)
    return 0;
  dk_prefix top = dk_select_count(view, n);
  int32_t found = 0;
  for (int32_t block = 0; block < view->num_blocks && found < n; block++) {
    if (view->block_max[block] < top.value)
      continue;
    const float *block_values = dk_fetch(view, block);
    for (int32_t i = 0; i < DK_BLOCK && found < n; i++) {
      if (!dk_prefix_has(top, block_values[i], block * DK_BLOCK + i))
        continue;
      ids[found] = block * DK_BLOCK + i;
      values[found++] = block_values[i];
    }
  }
  sort_entries(ids, values, found);
  return found;
}

/* The log-probabilities that the row asks for, of the drawn token and of the first num_top of the order. */
static void report(const dk_distribution *d, const decoding_row *row, decoding_result *result, int32_t *top_ids,
                   float *top_logprobs) {
  double total = d->total == 0 ? 0.0 : log_total(d);
  result->logprob = logprob(d, total, dk_value(d->view, result->token_id), result->token_id);
  result->rank = rank_of(d->view, result->token_id);
  result->num_top = list_top(d->view, row->num_top, top_ids, top_logprobs);
  for (int32_t i = 0; i < result->num_top; i++)
    top_logprobs[i] = logprob(d, total, top_logprobs[i], top_ids[i]);
}

static void report_raw(const dk_view *raw, decoding_result *result) {
  dk_distribution d = whole(raw, 1.0f);
  result->raw_logprob = logprob(&d, log_total(&d), dk_value(raw, result->token_id), result->token_id);
}

static dk_distribution in_mode(int32_t mode, const dk_view *raw, const dk_view *edited, const decoding_row *row,
                               const dk_distribution *drawn) {
  if (mode == DECODING_LOGPROBS_RAW)
    return whole(raw, 1.0f);
  if (mode == DECODING_LOGPROBS_PENALIZED)
    return whole(edited, 1.0f);
  if (mode == DECODING_LOGPROBS_SCALED)
    return is_greedy(row) ? point(edited) : whole(edited, row->temperature);
  return *drawn;
}

static void fail(decoding_result *result, dk_failure failure) {
  *result = (decoding_result){.status = failure.status,
                              .stage = failure.stage,
                              .bad_token_id = failure.token_id,
                              .token_id = -1,
                              .logprob = NAN,
                              .raw_logprob = NAN};
}

static dk_failure make_views(const decoding_batch *batch, const decoding_row *row, const void *logits,
                             dk_workspace *workspace, dk_view *raw, dk_view *edited) {
  dk_failure failure = dk_view_raw(raw, batch, logits, workspace);
  return failure.status == DECODING_OK ? dk_view_edited(edited, raw, batch, row) : failure;
}

void dk_sample_row(const decoding_batch *batch, const decoding_row *row, const void *logits, dk_workspace *workspace,
                   decoding_result *result, int32_t *top_token_ids, float *top_logprobs) {
  dk_view raw, edited;
  int32_t draws = !(row->flags & DECODING_FORCE_TOKEN);
  fail(result, make_views(batch, row, logits, workspace, &raw, &edited));
  if (result->status != DECODING_OK)
    return;
  dk_distribution drawn = {0};
  if (draws || row->logprobs_mode == DECODING_LOGPROBS_FINAL)
    drawn = truncated(&edited, row, workspace->sums);
  result->token_id = draws ? draw(&drawn, row, workspace->sums) : row->forced_token_id;
  if (row->logprobs_mode != DECODING_LOGPROBS_NONE) {
    dk_distribution d = in_mode(row->logprobs_mode, &raw, &edited, row, &drawn);
    report(&d, row, result, top_token_ids, top_logprobs);
  }
  if (row->logprobs_mode == DECODING_LOGPROBS_RAW)
    result->raw_logprob = result->logprob;
  else if (row->flags & DECODING_WANT_RAW_LOGPROB)
    report_raw(&raw, result);
}

void dk_row_probabilities(const decoding_batch *batch, const decoding_row *row, const void *logits,
                          dk_workspace *workspace, decoding_result *result, double *probabilities) {
  dk_view raw, edited;
  fail(result, make_views(batch, row, logits, workspace, &raw, &edited));
  for (int32_t i = 0; i < batch->vocab_size; i++)
    probabilities[i] = 0.0;
  if (result->status != DECODING_OK)
    return;
  dk_distribution d = truncated(&edited, row, workspace->sums);
  if (d.total == 0) {
    probabilities[d.point] = 1.0;
    return;
  }
  for (int32_t block = 0; block < edited.num_blocks; block++) {
    if (workspace->sums[block] == 0)
      continue;
    uint64_t *weights = workspace->weights;
    edited.kernel->weights(dk_fetch(&edited, block), dk_prefix_in_block(d.kept, block), &d.scale, weights);
    for (int32_t i = 0; i < DK_BLOCK && block * DK_BLOCK + i < batch->vocab_size; i++)
      probabilities[block * DK_BLOCK + i] = (double)weights[i] / (double)d.total;
  }
}
