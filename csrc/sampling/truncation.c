/* Stages top_k, top_p, min_p, top_n_sigma, epsilon_cutoff, eta_cutoff and top_a. */
#include "sampling/truncation.h"

#include <math.h>

#include "sampling/log_exp.h"
#include "sampling/moments.h"
#include "sampling/survivors.h"
#include "sampling/top_k.h"
#include "sampling/top_p.h"

void dk_apply_top_k(dk_distribution *d) {
  if (d->row->top_k >= d->view.num_elements)
    return;
  dk_use_list(d, dk_list_first(&d->view, d->row->top_k, d->rules & DECODING_RULE_KEEP_TIES));
}

void dk_apply_top_p(dk_distribution *d) {
  if (d->row->top_p >= 1.0f)
    return;
  dk_prefix before = d->kept;
  bool exceeds = d->rules & DECODING_RULE_TOP_P_EXCEEDS;
  d->kept = dk_select_by_mass(&d->view, dk_within_cut(d), &d->scale, d->row->top_p, exceeds, d->sums);
  d->total = 0;
  if (d->rules & DECODING_RULE_TOP_P_TIES) {
    d->kept = dk_prefix_shorter(before, (dk_prefix){d->kept.value, INT32_MAX});
    return; /* the total is computed when it is needed */
  }
  for (int32_t block = 0; block < d->view.num_blocks; block++)
    d->total += d->sums[block];
}

void dk_apply_min_p(dk_distribution *d) {
  if (d->row->min_p > 0.0f)
    dk_keep_exponents(d, dk_log((double)d->row->min_p));
}

void dk_apply_top_n_sigma(dk_distribution *d) {
  if (isinf(d->row->top_n_sigma))
    return;
  dk_keep_values(d, (double)d->base.max - (double)d->row->top_n_sigma * dk_deviation(&d->base));
}

static void keep_probabilities(dk_distribution *d, double bound) {
  if (bound > 0.0)
    dk_keep_exponents(d, dk_log(bound) + dk_log_total(d));
}

void dk_apply_epsilon_cutoff(dk_distribution *d) { keep_probabilities(d, (double)d->row->epsilon_cutoff); }

/* Hewitt et al. 2022, "Truncation sampling as language model desmoothing". */
void dk_apply_eta_cutoff(dk_distribution *d) {
  double eta = (double)d->row->eta_cutoff;
  if (eta == 0.0)
    return;
  double by_entropy = sqrt(eta) * dk_exp(-dk_entropy(d));
  keep_probabilities(d, by_entropy < eta ? by_entropy : eta);
}

/* p >= a * pmax^2, with both sides divided by pmax. */
void dk_apply_top_a(dk_distribution *d) {
  if (d->row->top_a > 0.0f)
    dk_keep_exponents(d, dk_log((double)d->row->top_a) - dk_log_total(d));
}
