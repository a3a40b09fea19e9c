/* The distribution of a row: scale, total, and the prefix of tokens that it keeps, which stages can only shorten. */
#include "sampling/distribution.h"

#include "sampling/log_exp.h"

#define CUT (-40.0 * DK_LN2)        /* weights below 2^-40 are zero by definition */
#define NEGLIGIBLE (-45.0 * DK_LN2) /* weights below 2^-45 round to zero in units of 2^-43 */

static int32_t block_of_max(const dk_view *view) {
  for (int32_t first = 0;; first += DK_BLOCK) { /* one of the blocks has the maximum */
    int32_t index = view->kernel->find((dk_block){view->block_max + first, DECODING_FLOAT32}, view->max);
    if (index >= 0)
      return first + index;
  }
}

int32_t dk_first_token(const dk_view *view) {
  int32_t block = block_of_max(view);
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

dk_distribution dk_distribution_of(const dk_view *view, const decoding_row *row, uint32_t rules) {
  return (dk_distribution){.row = row,
                           .rules = rules,
                           .edited = view,
                           .base = *view,
                           .view = *view,
                           .kept = dk_prefix_all(),
                           .temperature = 1.0,
                           .point = -1,
                           .scale = scale_of(view->max, 1.0),
                           .sums = view->workspace->sums};
}

dk_prefix dk_prefix_of_exponent(const dk_distribution *d, double exponent) {
  return dk_prefix_from((double)d->view.max + d->temperature * exponent);
}

dk_prefix dk_within_cut(const dk_distribution *d) { return dk_prefix_shorter(d->kept, dk_prefix_of_exponent(d, CUT)); }

static uint64_t mass_of_all(const dk_distribution *d) {
  return dk_prefix_mass(&d->view, dk_prefix_of_exponent(d, NEGLIGIBLE), &d->scale, NULL);
}

dk_distribution dk_whole(const dk_view *view) {
  dk_distribution d = dk_distribution_of(view, NULL, 0);
  d.total = mass_of_all(&d);
  return d;
}

dk_distribution dk_untruncated(const dk_distribution *d) {
  dk_distribution all = *d;
  all.view = d->base;
  all.kept = dk_prefix_all();
  all.temperature = d->is_reshaped ? d->before.temperature : d->temperature;
  all.is_reshaped = false;
  dk_rescale(&all);
  if (d->point >= 0)
    all.point = dk_first_token(&all.view);
  else
    all.total = mass_of_all(&all);
  return all;
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
  return dk_exponent_of_value(d, value);
}

double dk_exponent_of_value(const dk_distribution *d, float value) {
  return ((double)value - (double)d->view.max) / d->temperature;
}

void dk_keep_prefix(dk_distribution *d, dk_prefix prefix) {
  prefix = dk_prefix_shorter(d->kept, prefix);
  if (prefix.value != d->kept.value || prefix.last_id != d->kept.last_id)
    d->total = 0;
  d->kept = prefix;
}

static void keep_first(dk_distribution *d) {
  bool with_ties = d->rules & DECODING_RULE_KEEP_TIES;
  dk_keep_prefix(d, (dk_prefix){d->view.max, with_ties ? INT32_MAX : dk_first_token(&d->view)});
}

void dk_keep_values(dk_distribution *d, double bound) {
  if (bound > (double)d->view.max)
    keep_first(d);
  else
    dk_keep_prefix(d, dk_prefix_from(bound));
}

void dk_keep_exponents(dk_distribution *d, double bound) {
  if (bound > 0.0) /* adding it to a huge maximum could round it away */
    keep_first(d);
  else
    dk_keep_prefix(d, dk_prefix_of_exponent(d, bound));
}
