/* Stages adaptive_p and skew. The result is a list of logarithms of weights, in place of the logits. */
#include "sampling/reshape.h"

#include <math.h>
#include <string.h>

#include "sampling/log_exp.h"
#include "sampling/sort.h"
#include "sampling/survivors.h"
#include "sampling/weighted_select.h"

/* Make the survivors, the logarithms of n weights, the view. */
static void use_logarithms(dk_distribution *d, int32_t n, double log_total) {
  if (!d->is_reshaped)
    d->before = (dk_before){d->view.max, d->temperature, log_total};
  d->is_reshaped = true;
  d->temperature = 1.0;
  dk_use_survivors(d, n);
}

/* ---- adaptive_p: llama.cpp, pull request 17927 ---- */

#define WIDTH 0.3 /* of the region around the target in which the curve is nearly a parabola */
#define SHARPNESS 10.0

static float preference(double probability, double center) {
  double distance = fabs(probability - center) / WIDTH;
  return (float)(0.0 - SHARPNESS * distance * distance / (1.0 + distance));
}

void dk_apply_adaptive_p(dk_distribution *d) {
  if (!(d->row->flags & DECODING_ADAPTIVE_P))
    return;
  const dk_entries *survivors = &d->view.workspace->survivors;
  double log_total = dk_log_total(d), total = (double)d->total;
  int32_t n = dk_gather(&d->view, dk_within_cut(d), d->view.workspace->list);
  dk_list list = dk_list_of(&d->view, n, &d->scale);
  for (int32_t i = 0; i < n; i++) {
    survivors->values[i] = preference((double)list.entries.weights[i] / total, d->row->adaptive_p_center);
    survivors->ids[i] = list.entries.ids[i];
  }
  use_logarithms(d, n, log_total);
}

/* ---- skew: ExLlamaV2 ---- */

/* Return log(F^g - B^g) with B the mass before a token, F that with it, as fractions of the total, and g the power:
 * B^g ((1 + w / B)^g - 1), in which nothing cancels. A power of up to 150 would make the rounding of integer weights
 * visible, so these are in double. */
static double log_of_step(double before, double weight, double log_total, double power) {
  if (before == 0.0)
    return power * (dk_log(weight) - log_total);
  return power * (dk_log(before) - log_total) + dk_log(dk_expm1(power * dk_log1p(weight / before)));
}

static double weight_of(const dk_distribution *d, float value) { return dk_exp(dk_exponent_of_value(d, value)); }

/* Tokens are ordered by their logits; those of a reshaped list are not in its values. */
static dk_sorted sort_by_logit(const dk_distribution *d, int32_t n) {
  const dk_entries *list = &d->view.workspace->list;
  for (int32_t i = 0; d->is_reshaped && i < n; i++)
    list->values[i] = dk_value(&d->base, list->ids[i]);
  return dk_sort_list(d->view.workspace, n);
}

void dk_apply_skew(dk_distribution *d) {
  if (d->row->skew == 0.0f)
    return;
  const dk_entries *survivors = &d->view.workspace->survivors;
  double log_total = dk_log_total(d), power = dk_exp((double)d->row->skew), total = 0.0, before = 0.0;
  int32_t n = dk_gather_survivors(&d->view, dk_within_cut(d));
  dk_sorted sorted = sort_by_logit(d, n);
  for (int32_t i = 0; i < n; i++)
    total += weight_of(d, survivors->values[dk_sorted_index(&sorted, i)]);
  double log_sum = dk_log(total);
  for (int32_t i = 0; i < n; i++) {
    float *value = &survivors->values[dk_sorted_index(&sorted, i)];
    double weight = weight_of(d, *value);
    *value = (float)log_of_step(before, weight, log_sum, power);
    before += weight;
  }
  use_logarithms(d, n, log_total);
}
