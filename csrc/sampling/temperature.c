/* Stage temperature: quadratic smoothing, temperature, dynamic temperature by entropy. */
#include "sampling/temperature.h"

#include "sampling/log_exp.h"
#include "sampling/moments.h"
#include "sampling/survivors.h"

/* Replace the logits by smoothed ones. Rounding makes ties, so a prefix of the logits need not be a prefix of the
 * result; if tokens were dropped before, the rest becomes a list. */
static void smooth(dk_distribution *d, dk_smoothing smoothing) {
  bool is_whole = d->view.ids == NULL && d->kept.value == dk_prefix_all().value && d->kept.last_id == INT32_MAX;
  if (!is_whole)
    dk_use_kept(d);
  d->base = dk_view_smoothed(&d->base, smoothing);
  if (is_whole) {
    d->view = d->base;
    return;
  }
  dk_workspace *workspace = d->view.workspace;
  for (int32_t i = 0; i < d->view.num_elements; i += DK_BLOCK)
    d->view.kernel->smooth(workspace->survivors.values + i, &smoothing);
  d->view = dk_view_list(&d->view, workspace->survivors, d->view.num_elements, workspace->survivor_max);
}

/* Factor f and curve of text-generation-webui's quadratic sampling: d' = d^2 (s f d - k f), k = (3 - curve) / 2,
 * s = (curve - 1) / 2. */
static void apply_smoothing(dk_distribution *d) {
  double f = (double)d->row->smoothing_factor, curve = (double)d->row->smoothing_curve;
  smooth(d, (dk_smoothing){d->edited->max, (float)(-f * (3.0 - curve) / 2.0), (float)(f * (curve - 1.0) / 2.0)});
}

/* llama.cpp's entropy-based temperature: between T - range and T + range, by the entropy as a fraction of its maximum.
 */
static double dynamic_temperature(dk_distribution *d) {
  double temperature = (double)d->row->temperature, range = (double)d->row->dynatemp_range;
  double minimum = temperature > range ? temperature - range : 0.0, maximum = temperature + range;
  int64_t num_tokens = dk_prefix_count(&d->view, d->kept);
  double fraction = num_tokens > 1 ? dk_entropy(d) / dk_log((double)num_tokens) : 0.0;
  double power = fraction > 0.0 ? 1.0 : 0.0;
  if (fraction > 0.0 && fraction < 1.0) /* rounding may have made it larger */
    power = dk_exp((double)d->row->dynatemp_exponent * dk_log(fraction));
  return minimum + (maximum - minimum) * power;
}

void dk_apply_temperature(dk_distribution *d) {
  if (d->row->smoothing_factor > 0.0f)
    apply_smoothing(d);
  dk_rescale(d);
  double temperature = d->row->dynatemp_range > 0.0f ? dynamic_temperature(d) : (double)d->row->temperature;
  if (temperature < (double)DK_GREEDY_TEMPERATURE) {
    d->point = dk_first_token(&d->view);
    return;
  }
  d->temperature = temperature;
  d->is_tempered = true;
  dk_rescale(d);
}
