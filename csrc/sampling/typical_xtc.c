/* Truncations whose result is no prefix of the total order: locally typical sampling and XTC. What they leave becomes a
 * list, and the list the row that the stages after them see. */
#include <math.h>
#include <string.h>

#include "decoding.h"
#include "sampling/distribution.h"
#include "sampling/log_exp.h"

/* The first n entries of the survivors as the view; whatever is kept of them has been taken out. */
static void use_survivors(dk_distribution *d, int32_t n) {
  dk_workspace *workspace = d->view.workspace;
  d->view = dk_view_list(&d->view, workspace->survivors, n, workspace->survivor_max);
  d->kept = dk_prefix_all();
  dk_rescale(d);
}

static int32_t gather_survivors(const dk_view *view, dk_prefix prefix) {
  dk_workspace *workspace = view->workspace;
  int32_t n = dk_gather(view, prefix, workspace->list); /* the view may be the survivors themselves */
  memcpy(workspace->survivors.values, workspace->list.values, (size_t)n * sizeof(float));
  memcpy(workspace->survivors.ids, workspace->list.ids, (size_t)n * sizeof(int32_t));
  return n;
}

void dk_use_list(dk_distribution *d, int32_t n) {
  const dk_entries *list = &d->view.workspace->list, *survivors = &d->view.workspace->survivors;
  int32_t left = 0;
  for (int32_t i = 0; i < n; i++) {
    survivors->values[left] = list->values[i];
    survivors->ids[left] = list->ids[i];
    left += dk_prefix_has(d->kept, list->values[i], list->ids[i]);
  }
  use_survivors(d, left);
}

void dk_make_list(dk_distribution *d) { use_survivors(d, gather_survivors(&d->view, d->kept)); }

/* Drops the survivors whose value has become -inf. */
static int32_t compact(const dk_entries *survivors, int32_t n) {
  int32_t left = 0;
  for (int32_t i = 0; i < n; i++) {
    survivors->values[left] = survivors->values[i];
    survivors->ids[left] = survivors->ids[i];
    left += survivors->values[i] > -INFINITY;
  }
  return left;
}

/* ---- typical_p: Meister et al. 2023, "Locally typical sampling" ---- */

/* Log p is the exponent less a constant, so |log p + H| is the distance from the mean, here in units of the logits, and
 * halved: the largest would overflow. The nearer, the larger. */
static float nearness(float value, double centre) { return -(float)(0.5 * fabs((double)value - centre)); }

static uint64_t typical_target(const dk_distribution *d, const decoding_batch *batch) {
  double mass = (double)d->row->typical_p * (double)d->total;
  uint64_t target = batch->rules & DECODING_RULE_TYPICAL_EXCEEDS ? (uint64_t)mass + 1 : (uint64_t)ceil(mass);
  return target < 1 ? 1 : target < d->total ? target : d->total;
}

/* Of the tokens at the threshold's distance, those on one side of the centre: as many, by id, as are missing. */
static void keep_ties(dk_distribution *d, int32_t n, double centre, dk_threshold *end, int32_t is_upper) {
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

void dk_apply_typical_p(dk_distribution *d, const decoding_batch *batch) {
  if (d->row->typical_p >= 1.0f)
    return;
  dk_find_total(d);
  dk_workspace *workspace = d->view.workspace;
  double centre = (double)d->view.max + d->temperature * dk_mean_exponent(d);
  uint64_t target = typical_target(d, batch);
  int32_t n = gather_survivors(&d->view, dk_within_cut(d));
  dk_list list = dk_list_of(&d->view, n, &d->scale);
  for (int32_t i = 0; i < n; i++)
    list.entries.values[i] = nearness(workspace->survivors.values[i], centre);
  dk_threshold end = {-INFINITY, 0};
  (void)dk_search_list(&list, target, &end);
  for (int32_t i = 0; i < n; i++)
    if (nearness(workspace->survivors.values[i], centre) < end.value)
      workspace->survivors.values[i] = -INFINITY;
  if (!(batch->rules & DECODING_RULE_KEEP_TIES)) {
    keep_ties(d, n, centre, &end, 1);
    keep_ties(d, n, centre, &end, 0);
  }
  use_survivors(d, compact(&workspace->survivors, n));
}

/* ---- XTC: "exclude top choices" ---- */

static int32_t coin_falls(const decoding_row *row) {
  uint64_t words[4];
  dk_random_words(row, DK_DRAW_XTC, 0, words);
  double bound = (double)row->xtc_probability * 0x1p64;
  return row->xtc_probability >= 1.0f || words[0] < (uint64_t)bound;
}

/* The last of n tokens in the total order. */
static dk_prefix last_of(const dk_entries *list, int32_t n) {
  dk_prefix last = {list->values[0], list->ids[0]};
  for (int32_t i = 1; i < n; i++)
    if (list->values[i] <= last.value)
      last = (dk_prefix){list->values[i], list->ids[i]};
  return last;
}

void dk_apply_xtc(dk_distribution *d) {
  if (d->row->xtc_probability == 0.0f || !coin_falls(d->row))
    return;
  dk_workspace *workspace = d->view.workspace;
  dk_prefix top = d->kept;
  double log_total = dk_log_total(d), threshold = (double)d->row->xtc_threshold;
  if (threshold > 0.0) {
    double least = dk_log(threshold) + log_total; /* relative to the largest */
    if (least > 0.0)
      return;
    top = dk_prefix_tighter(top, dk_prefix_from((double)d->view.max + d->temperature * least));
  }
  int32_t n = dk_gather(&d->view, top, workspace->list);
  if (n < 2)
    return;
  dk_prefix last = last_of(&workspace->list, n);
  dk_distribution rest = *d; /* its cut is about the largest that will be left */
  rest.view.max = last.value;
  n = gather_survivors(&d->view, d->is_tempered ? dk_within_cut(&rest) : d->kept);
  dk_entries *survivors = &workspace->survivors;
  for (int32_t i = 0; i < n; i++)
    if (dk_prefix_has(top, survivors->values[i], survivors->ids[i]) && survivors->ids[i] != last.last_id)
      survivors->values[i] = -INFINITY;
  use_survivors(d, compact(survivors, n));
}
