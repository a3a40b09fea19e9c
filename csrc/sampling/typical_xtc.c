/* Stages typical_p and xtc. The tokens that they keep become the list of survivors, which is the view of later stages.
 */
#include "sampling/typical_xtc.h"

#include <math.h>

#include "sampling/log_exp.h"
#include "sampling/moments.h"
#include "sampling/random_words.h"
#include "sampling/survivors.h"
#include "sampling/weighted_select.h"

/* ---- typical_p: Meister et al. 2023, "Locally Typical Sampling", TACL 11 ---- */

/* log p is the exponent minus a constant, so |log p + H| is the distance of the exponent from its mean. Return minus
 * that distance in units of the logits, halved so that it cannot overflow. */
static float nearness(float value, double centre) { return -(float)(0.5 * fabs((double)value - centre)); }

static uint64_t typical_target(const dk_distribution *d) {
  double mass = (double)d->row->typical_p * (double)d->total;
  uint64_t target = d->rules & DECODING_RULE_TYPICAL_EXCEEDS ? (uint64_t)mass + 1 : (uint64_t)ceil(mass);
  return target < 1 ? 1 : target < d->total ? target : d->total;
}

/* Of the tokens at the threshold's distance on one side of the centre, keep the first, by id, until their mass is no
 * longer missing. */
static void keep_ties(dk_distribution *d, int32_t n, double centre, dk_threshold *end, bool is_upper) {
  dk_entries *survivors = &d->view.workspace->survivors;
  for (int32_t i = 0; i < n; i++) {
    float value = survivors->values[i];
    if (nearness(value, centre) != end->value || ((double)value > centre) != is_upper)
      continue;
    uint64_t weight = d->view.kernel->weight(value, &d->scale);
    if (end->missing == 0)
      survivors->values[i] = -INFINITY;
    end->missing -= weight < end->missing ? weight : end->missing;
  }
}

void dk_apply_typical_p(dk_distribution *d) {
  if (d->row->typical_p >= 1.0f)
    return;
  dk_find_total(d);
  dk_workspace *workspace = d->view.workspace;
  double centre = (double)d->view.max + d->temperature * dk_mean_exponent(d);
  uint64_t target = typical_target(d);
  int32_t n = dk_gather_survivors(&d->view, dk_within_cut(d));
  dk_list list = dk_list_of(&d->view, n, &d->scale);
  for (int32_t i = 0; i < n; i++)
    list.entries.values[i] = nearness(workspace->survivors.values[i], centre);
  dk_threshold end = {-INFINITY, 0};
  (void)dk_search_list(&list, target, &end);
  for (int32_t i = 0; i < n; i++)
    if (nearness(workspace->survivors.values[i], centre) < end.value)
      workspace->survivors.values[i] = -INFINITY;
  if (!(d->rules & DECODING_RULE_KEEP_TIES)) {
    keep_ties(d, n, centre, &end, true);
    keep_ties(d, n, centre, &end, false);
  }
  dk_use_survivors(d, dk_compact_survivors(&workspace->survivors, n));
}

/* ---- XTC: "exclude top choices" ---- */

static bool is_chosen(const decoding_row *row) {
  uint64_t words[4];
  dk_random_words(row, DK_DRAW_XTC, 0, words);
  double bound = (double)row->xtc_probability * 0x1p64;
  return row->xtc_probability >= 1.0f || words[0] < (uint64_t)bound;
}

/* Return the prefix that ends with the last of n tokens in the total order. */
static dk_prefix last_of(const dk_entries *list, int32_t n) {
  dk_prefix last = {list->values[0], list->ids[0]};
  for (int32_t i = 1; i < n; i++)
    if (list->values[i] <= last.value)
      last = (dk_prefix){list->values[i], list->ids[i]};
  return last;
}

void dk_apply_xtc(dk_distribution *d) {
  if (d->row->xtc_probability == 0.0f || !is_chosen(d->row))
    return;
  dk_workspace *workspace = d->view.workspace;
  dk_prefix top = d->kept;
  double log_total = dk_log_total(d), threshold = (double)d->row->xtc_threshold;
  if (threshold > 0.0) {
    double exponent = dk_log(threshold) + log_total;
    if (exponent > 0.0)
      return;
    top = dk_prefix_shorter(top, dk_prefix_of_exponent(d, exponent));
  }
  int32_t n = dk_gather(&d->view, top, workspace->list);
  if (n < 2)
    return;
  dk_prefix last = last_of(&workspace->list, n);
  dk_distribution rest = *d; /* its cut refers to the largest token that will remain */
  bool with_ties = d->rules & DECODING_RULE_XTC_TIES;
  rest.view.max = last.value;
  n = dk_gather_survivors(&d->view, d->is_tempered ? dk_within_cut(&rest) : d->kept);
  dk_entries *survivors = &workspace->survivors;
  for (int32_t i = 0; i < n; i++)
    if (dk_prefix_contains(top, survivors->values[i], survivors->ids[i]) && survivors->ids[i] != last.last_id &&
        !(with_ties && survivors->values[i] == last.value))
      survivors->values[i] = -INFINITY;
  dk_use_survivors(d, dk_compact_survivors(survivors, n));
}
