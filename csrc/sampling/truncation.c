/* Stages 8 to 12: temperature and truncations in the order of the batch. Most truncations keep a prefix of the total
 * order, so that what is kept is one prefix, which each stage can only shorten. */
#include <math.h>

#include "decoding.h"
#include "sampling/distribution.h"
#include "sampling/log_exp.h"
#include "sampling/stages.h"

#define CUT (-40.0 * DK_LN2)        /* weights below 2^-40 are zero by definition */
#define NEGLIGIBLE (-45.0 * DK_LN2) /* weights below 2^-45 round to zero in units of 2^-43 */

int32_t dk_first(const dk_view *view) {
  int32_t block = 0;
  while (view->block_max[block] != view->max)
    block++;
  return dk_id(view, block * DK_BLOCK + view->kernel->find(dk_fetch(view, block), view->max));
}

static dk_scale scale_of(float max, double temperature) {
  double unit = temperature < 0x1p60 ? 1.0 : 0x1p-64; /* differences of huge logits must not overflow */
  return (dk_scale){max * (float)unit, (float)(DK_LOG2E / (temperature * unit)), (float)unit};
}

void dk_rescale(dk_distribution *d) {
  d->scale = scale_of(d->view.max, d->temperature);
  d->total = 0;
}

static dk_distribution before_temperature(const dk_view *edited, const decoding_row *row) {
  return (dk_distribution){.row = row,
                           .edited = edited,
                           .base = *edited,
                           .view = *edited,
                           .kept = dk_prefix_all(),
                           .temperature = 1.0,
                           .scale = scale_of(edited->max, 1.0),
                           .sums = edited->workspace->sums,
                           .point = -1};
}

static dk_prefix at_least(const dk_distribution *d, double exponent) {
  return dk_prefix_from((double)d->view.max + d->temperature * exponent);
}

dk_prefix dk_within_cut(const dk_distribution *d) { return dk_prefix_tighter(d->kept, at_least(d, CUT)); }

static void shorten(dk_distribution *d, dk_prefix prefix) {
  prefix = dk_prefix_tighter(d->kept, prefix);
  if (prefix.value != d->kept.value || prefix.last_id != d->kept.last_id)
    d->total = 0;
  d->kept = prefix;
}

static uint64_t mass_of_all(const dk_distribution *d) {
  return dk_prefix_mass(&d->view, at_least(d, NEGLIGIBLE), &d->scale, NULL);
}

dk_distribution dk_whole(const dk_view *view) {
  dk_distribution d = before_temperature(view, NULL);
  d.total = mass_of_all(&d);
  return d;
}

dk_distribution dk_scaled(const dk_distribution *d) {
  dk_distribution all = *d;
  all.view = d->base;
  all.kept = dk_prefix_all();
  dk_rescale(&all);
  if (d->point >= 0)
    all.point = dk_first(&all.view);
  else
    all.total = mass_of_all(&all);
  return all;
}

static uint64_t sum_of(const uint64_t *sums, int32_t n) {
  uint64_t total = 0;
  for (int32_t i = 0; i < n; i++)
    total += sums[i];
  return total;
}

void dk_find_total(dk_distribution *d) {
  if (d->point >= 0 || d->total != 0)
    return;
  d->total = dk_prefix_mass(&d->view, dk_within_cut(d), &d->scale, d->sums);
}

double dk_log_total(dk_distribution *d) {
  dk_find_total(d);
  return dk_log((double)d->total) - (double)DK_WEIGHT_BITS * DK_LN2;
}

double dk_exponent(const dk_distribution *d, float logit) {
  float value = d->base.is_smoothed ? dk_smooth_logit(&d->base, logit) : logit;
  return ((double)value - (double)d->view.max) / d->temperature;
}

static void keep_first(dk_distribution *d, const decoding_batch *batch) {
  shorten(d, (dk_prefix){d->view.max, batch->rules & DECODING_RULE_KEEP_TIES ? INT32_MAX : dk_first(&d->view)});
}

void dk_keep_values(dk_distribution *d, const decoding_batch *batch, double least) {
  if (least > (double)d->view.max)
    keep_first(d, batch);
  else
    shorten(d, dk_prefix_from(least));
}

static void keep_exponents(dk_distribution *d, const decoding_batch *batch, double least) {
  if (least > 0.0) /* a sum with a huge maximum would round this away */
    keep_first(d, batch);
  else
    shorten(d, at_least(d, least));
}

static void apply_top_k(dk_distribution *d, const decoding_batch *batch) {
  if (d->row->top_k >= d->view.num_elements)
    return;
  dk_use_list(d, dk_list_first(&d->view, d->row->top_k, batch->rules & DECODING_RULE_KEEP_TIES));
}

static void apply_top_p(dk_distribution *d) {
  if (d->row->top_p >= 1.0f)
    return;
  d->kept = dk_select_mass(&d->view, dk_within_cut(d), &d->scale, d->row->top_p, d->sums);
  d->total = sum_of(d->sums, d->view.num_blocks);
}

static void apply_min_p(dk_distribution *d, const decoding_batch *batch) {
  if (d->row->min_p > 0.0f)
    keep_exponents(d, batch, dk_log((double)d->row->min_p));
}

/* Probabilities of at least `threshold`. */
static void keep_probabilities(dk_distribution *d, const decoding_batch *batch, double threshold) {
  if (threshold > 0.0)
    keep_exponents(d, batch, dk_log(threshold) + dk_log_total(d));
}

/* Hewitt et al. 2022, "Truncation sampling as language model desmoothing". */
static void apply_eta_cutoff(dk_distribution *d, const decoding_batch *batch) {
  double eta = (double)d->row->eta_cutoff;
  if (eta == 0.0)
    return;
  double by_entropy = sqrt(eta) * dk_exp(-dk_entropy(d));
  keep_probabilities(d, batch, by_entropy < eta ? by_entropy : eta);
}

static void apply_top_a(dk_distribution *d, const decoding_batch *batch) {
  if (d->row->top_a > 0.0f) /* p >= a * pmax^2, both sides divided by pmax */
    keep_exponents(d, batch, dk_log((double)d->row->top_a) - dk_log_total(d));
}

/* Basu et al. 2021, in the form of their second algorithm. */
static void apply_mirostat(dk_distribution *d, const decoding_batch *batch) {
  keep_exponents(d, batch, dk_log_total(d) - d->row->mirostat_mu * DK_LN2);
}

static void apply(dk_distribution *d, int32_t stage, const decoding_batch *batch) {
  switch (stage) {
  case DECODING_STAGE_TEMPERATURE:
    dk_apply_temperature(d);
    break;
  case DECODING_STAGE_TOP_K:
    apply_top_k(d, batch);
    break;
  case DECODING_STAGE_TOP_P:
    apply_top_p(d);
    break;
  case DECODING_STAGE_MIN_P:
    apply_min_p(d, batch);
    break;
  case DECODING_STAGE_TYPICAL_P:
    dk_apply_typical_p(d, batch);
    break;
  case DECODING_STAGE_TOP_N_SIGMA:
    dk_apply_top_n_sigma(d, batch);
    break;
  case DECODING_STAGE_EPSILON_CUTOFF:
    keep_probabilities(d, batch, (double)d->row->epsilon_cutoff);
    break;
  case DECODING_STAGE_ETA_CUTOFF:
    apply_eta_cutoff(d, batch);
    break;
  case DECODING_STAGE_TOP_A:
    apply_top_a(d, batch);
    break;
  case DECODING_STAGE_XTC:
    dk_apply_xtc(d);
    break;
  }
}

/* Mirostat stands in place of the truncations, so temperature comes before it wherever the batch has it. */
static void run_mirostat(dk_distribution *d, const decoding_batch *batch) {
  if (dk_has_stage(batch, DECODING_STAGE_TEMPERATURE))
    dk_apply_temperature(d);
  if (d->point < 0 && dk_has_stage(batch, DECODING_STAGE_MIROSTAT))
    apply_mirostat(d, batch);
}

dk_distribution dk_truncated(const dk_view *edited, const decoding_batch *batch, const decoding_row *row) {
  dk_distribution d = before_temperature(edited, row);
  d.by_rejection = dk_by_rejection(batch, row);
  if (row->flags & DECODING_MIROSTAT)
    run_mirostat(&d, batch);
  else
    for (int32_t i = 0; i < batch->num_stages && d.point < 0; i++)
      apply(&d, batch->stages[i], batch);
  if (d.point >= 0)
    return d;
  d.kept = dk_within_cut(&d); /* totals never had more than that */
  if (!d.by_rejection)
    dk_find_total(&d);
  return d;
}
