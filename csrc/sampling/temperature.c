/* Stage 8, and the moments of a whole distribution: quadratic smoothing, temperature, dynamic temperature by entropy,
 * top-n-sigma. */
#include <math.h>
#include <string.h>

#include "decoding.h"
#include "sampling/distribution.h"
#include "sampling/log_exp.h"

/* Sums over the elements of a prefix, each times its weight where there is a scale. */
typedef struct dk_moments {
  double zeroth;
  double first; /* of value - origin */
  double second;
} dk_moments;

/* Sixteen sums, folded 16 -> 8 -> 4 -> 2 -> 1. */
static double fold(double *lanes) {
  for (int32_t width = DK_LANES / 2; width > 0; width /= 2)
    for (int32_t i = 0; i < width; i++)
      lanes[i] += lanes[i + width];
  return lanes[0];
}

static dk_moments moments_of(const dk_view *view, dk_prefix prefix, const dk_scale *scale, double origin) {
  double sums[3 * DK_LANES] = {0.0};
  for (int32_t block = 0; block < view->num_blocks; block++) {
    if (!dk_may_have(view, prefix, block))
      continue;
    dk_slice slice = dk_slice_of(view, prefix, block);
    view->kernel->moments(slice.block, slice.low, scale, origin, sums);
  }
  return (dk_moments){fold(sums), fold(sums + DK_LANES), fold(sums + 2 * DK_LANES)};
}

double dk_mean_exponent(dk_distribution *d) {
  dk_moments m = moments_of(&d->view, dk_within_cut(d), &d->scale, (double)d->view.max);
  return m.first / m.zeroth / d->temperature;
}

/* -sum(p log p) with log p = x / T - log Z. */
double dk_entropy(dk_distribution *d) { return dk_log_total(d) - dk_mean_exponent(d); }

void dk_apply_top_n_sigma(dk_distribution *d, const decoding_batch *batch) {
  const dk_view *base = &d->base;
  if (isinf(d->row->top_n_sigma))
    return;
  dk_moments about_max = moments_of(base, dk_prefix_all(), NULL, (double)base->max);
  double mean = (double)base->max + about_max.first / about_max.zeroth;
  dk_moments about_mean = moments_of(base, dk_prefix_all(), NULL, mean);
  double sigma = sqrt(about_mean.second / about_mean.zeroth);
  dk_keep_values(d, batch, (double)base->max - (double)d->row->top_n_sigma * sigma);
}

/* Logits become exponents. What has been dropped before would not be a prefix of them: rounding makes ties. */
static void reshape(dk_distribution *d, dk_smoothing shape) {
  int32_t is_whole = d->view.ids == NULL && d->kept.value == dk_prefix_all().value && d->kept.last_id == INT32_MAX;
  if (!is_whole)
    dk_make_list(d);
  d->base = dk_view_smoothed(&d->base, shape);
  if (is_whole) {
    d->view = d->base;
    return;
  }
  dk_workspace *workspace = d->view.workspace;
  for (int32_t i = 0; i < d->view.num_elements; i += DK_BLOCK)
    d->view.kernel->smooth(workspace->survivors.values + i, &shape);
  d->view = dk_view_list(&d->view, workspace->survivors, d->view.num_elements, workspace->survivor_max);
}

/* f and curve of text-generation-webui's quadratic sampling: d' = d^2 (s f d - k f), k = (3 - curve) / 2,
 * s = (curve - 1) / 2. */
static void apply_smoothing(dk_distribution *d) {
  double f = (double)d->row->smoothing_factor, curve = (double)d->row->smoothing_curve;
  reshape(d, (dk_smoothing){d->edited->max, (float)(-f * (3.0 - curve) / 2.0), (float)(f * (curve - 1.0) / 2.0)});
}

/* llama.cpp's entropy-based temperature: between T - R and T + R, by the entropy's share of the largest possible. */
static double dynamic_temperature(dk_distribution *d) {
  double temperature = (double)d->row->temperature, range = (double)d->row->dynatemp_range;
  double least = temperature > range ? temperature - range : 0.0, most = temperature + range;
  int64_t num_tokens = dk_prefix_count(&d->view, d->kept);
  double share = num_tokens > 1 ? dk_entropy(d) / dk_log((double)num_tokens) : 0.0;
  double power = share > 0.0 ? 1.0 : 0.0;
  if (share > 0.0 && share < 1.0) /* rounding may have made it more */
    power = dk_exp((double)d->row->dynatemp_exponent * dk_log(share));
  return least + (most - least) * power;
}

void dk_apply_temperature(dk_distribution *d) {
  if (d->row->smoothing_factor > 0.0f)
    apply_smoothing(d);
  dk_rescale(d);
  double temperature = d->row->dynatemp_range > 0.0f ? dynamic_temperature(d) : (double)d->row->temperature;
  if (temperature < (double)DK_GREEDY_TEMPERATURE) {
    d->point = dk_first(&d->view);
    return;
  }
  d->temperature = temperature;
  d->is_tempered = 1;
  dk_rescale(d);
}
