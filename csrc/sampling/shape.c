/* Stages top_h, p_less, min_k and tfs. top_h and min_k read the head of the total order, as much of it as they need. */
#include "sampling/shape.h"

#include <float.h>
#include <math.h>

#include "sampling/log_exp.h"
#include "sampling/moments.h"
#include "sampling/sort.h"

#define FIRST_HEAD 128 /* tokens of the total order that are looked at first */
#define HEAD_GROWTH 8

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- top_h: Potraghloo et al. 2025, "Top-H decoding" ---- */

/* Return the number of leading tokens of a head whose renormalised entropy is at most `bound`; entropies only grow. */
static int32_t count_up_to_entropy(const dk_distribution *d, const dk_sorted *head, double bound) {
  double mass = 0.0, products = 0.0;
  for (int32_t i = 0; i < head->n; i++) {
    float value = dk_sorted_value(head, i);
    double weight = (double)d->view.kernel->weight(value, &d->scale);
    mass += weight;
    products += weight * ((double)value - (double)d->view.max);
    double log_mass = dk_log(mass) - (double)DK_WEIGHT_BITS * DK_LN2;
    if (i > 0 && log_mass - products / mass / d->temperature > bound)
      return i;
  }
  return head->n;
}

void dk_apply_top_h(dk_distribution *d) {
  if (d->row->top_h >= 1.0f)
    return;
  double bound = (double)d->row->top_h * dk_entropy(d);
  int64_t num_tokens = dk_prefix_count(&d->view, dk_within_cut(d)), size = smaller(FIRST_HEAD, num_tokens);
  for (;; size = smaller(size * HEAD_GROWTH, num_tokens)) {
    dk_sorted head = dk_sort_first(&d->view, size);
    int32_t k = count_up_to_entropy(d, &head, bound);
    if (k < head.n)
      dk_keep_prefix(d, dk_sorted_prefix(&head, k));
    if (k < head.n || size == num_tokens)
      return;
  }
}

/* ---- p_less: Tan et al. 2025, "p-less sampling" ---- */

/* The sum of the squared weights is the total at half the temperature. */
static double log_total_of_squares(const dk_distribution *d) {
  dk_distribution squared = *d;
  squared.temperature = d->temperature / 2.0;
  dk_rescale(&squared);
  dk_find_total(&squared);
  return dk_log_total(&squared);
}

/* The threshold of the rule "norm" is (n c - 1) / (n - 1), c being the collision probability. */
void dk_apply_p_less(dk_distribution *d) {
  bool is_plain = d->row->flags & DECODING_P_LESS;
  if (!is_plain && !(d->row->flags & DECODING_P_LESS_NORM))
    return;
  double log_total = dk_log_total(d), log_squares = log_total_of_squares(d), bound = log_squares - log_total;
  d->total = 0; /* the sums of the blocks are those of the squares */
  if (!is_plain) {
    double n = (double)dk_prefix_count(&d->view, d->kept);
    double threshold = n > 1.0 ? (n * dk_exp(log_squares - 2.0 * log_total) - 1.0) / (n - 1.0) : 0.0;
    if (threshold < DBL_MIN)
      return;
    bound = dk_log(threshold) + log_total;
  }
  dk_keep_exponents(d, bound);
}

/* ---- min_k: Ding et al. 2026, "Min-k sampling" ---- */

static float smallest_kept(const dk_distribution *d) {
  dk_entries list = d->view.workspace->list;
  int32_t n = dk_gather(&d->view, d->kept, list);
  float smallest = d->view.max;
  for (int32_t i = 0; i < n; i++)
    smallest = list.values[i] < smallest ? list.values[i] : smallest;
  return smallest;
}

/* Return the first i with the largest (l[i] - l[i + 1]) / i. Beyond a head of n tokens, none exceeds the fall from its
 * last token to the smallest one, divided by n; a larger head is sorted only if that may be more. */
static int32_t find_cliff(const dk_distribution *d, int64_t num_tokens, double smallest) {
  for (int64_t size = smaller(FIRST_HEAD, num_tokens);; size = smaller(size * HEAD_GROWTH, num_tokens)) {
    dk_sorted head = dk_sort_first(&d->view, size);
    double steepest = -1.0;
    int32_t cliff = 1;
    for (int32_t i = 1; i < head.n; i++) {
      double fall = ((double)dk_sorted_value(&head, i - 1) - (double)dk_sorted_value(&head, i)) / (double)i;
      if (fall > steepest) {
        steepest = fall;
        cliff = i;
      }
    }
    if (size == num_tokens || steepest >= ((double)dk_sorted_value(&head, head.n - 1) - smallest) / (double)size)
      return cliff;
  }
}

void dk_apply_min_k(dk_distribution *d) {
  if (isinf(d->row->min_k))
    return;
  double smallest = (double)smallest_kept(d), range = (double)d->view.max - smallest;
  int64_t num_tokens = dk_prefix_count(&d->view, d->kept);
  if (range == 0.0 || (double)d->row->min_k / range >= (double)num_tokens)
    return;
  int32_t fallback = (int32_t)((double)d->row->min_k / range), cliff = find_cliff(d, num_tokens, smallest);
  int32_t k = cliff > fallback ? cliff : fallback;
  dk_sorted head = dk_sort_first(&d->view, k);
  dk_keep_prefix(d, dk_sorted_prefix(&head, head.n));
}

/* ---- tfs: Bricken 2019, "Tail free sampling" ---- */

/* Return the weight of a token of the order, 0 beyond its end. */
static double weight_at(const dk_distribution *d, const dk_sorted *sorted, int32_t i) {
  return i < sorted->n ? dk_exp(dk_exponent_of_value(d, dk_sorted_value(sorted, i))) : 0.0;
}

/* Return w[i] - w[i + 1]. Its relative error is small even if the weights are nearly equal. */
static double slope_at(const dk_distribution *d, const dk_sorted *sorted, int32_t i) {
  double next = weight_at(d, sorted, i + 1);
  if (next == 0.0)
    return weight_at(d, sorted, i);
  double value = (double)dk_sorted_value(sorted, i), rise = (value - (double)dk_sorted_value(sorted, i + 1));
  return next * dk_expm1(rise / d->temperature);
}

/* Return the number of leading second differences, at most n of them, whose sizes sum up to at most `bound`; `sum` is
 * set to the sum. */
static int32_t count_up_to_curvature(const dk_distribution *d, const dk_sorted *sorted, int32_t n, double bound,
                                     double *sum) {
  double slope = slope_at(d, sorted, 0);
  *sum = 0.0;
  for (int32_t i = 0; i < n; i++) {
    double next = slope_at(d, sorted, i + 1);
    *sum += fabs(slope - next);
    if (*sum > bound)
      return i;
    slope = next;
  }
  return n;
}

/* Weights below the cut are 0. They have no curvature among themselves, so two of them are enough. */
void dk_apply_tfs(dk_distribution *d) {
  int64_t num_tokens = d->row->tfs < 1.0f ? dk_prefix_count(&d->view, d->kept) : 0;
  if (num_tokens < 3)
    return;
  const dk_workspace *workspace = d->view.workspace;
  dk_sorted sorted = dk_sort_list(workspace, dk_gather(&d->view, dk_within_cut(d), workspace->list));
  int32_t n = (int32_t)smaller(num_tokens, (int64_t)sorted.n + 2) - 2;
  double total, reached;
  (void)count_up_to_curvature(d, &sorted, n, INFINITY, &total);
  int32_t k = count_up_to_curvature(d, &sorted, n, (double)d->row->tfs * total, &reached);
  if (k < n)
    dk_keep_prefix(d, dk_sorted_prefix(&sorted, k + 1));
}
