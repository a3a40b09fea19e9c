/* Stage mirostat: Basu et al. 2021, "Mirostat", its first algorithm and, by default, its second. */
#include "sampling/mirostat.h"

#include <math.h>

#include "sampling/log_exp.h"
#include "sampling/sort.h"

#define HEAD 100 /* tokens that Zipf's exponent is estimated from */

/* Estimate the exponent of Zipf's law by least squares over the first tokens. */
static double zipf_exponent(const dk_distribution *d) {
  dk_sorted head = dk_sort_first(&d->view, HEAD);
  double products = 0.0, squares = 0.0;
  for (int32_t i = 0; i + 1 < head.n; i++) {
    double step = dk_log((double)(i + 2) / (double)(i + 1));
    double fall = ((double)dk_sorted_value(&head, i) - (double)dk_sorted_value(&head, i + 1)) / d->temperature;
    products += step * fall;
    squares += step * step;
  }
  return products / squares;
}

/* Return y / (1 - exp(-y)). */
static double ratio_of(double y) {
  if (fabs(y) < 1e-3)
    return 1.0 + y / 2.0 + y * y / 12.0;
  return y < 700.0 ? -y / dk_expm1(-y) : y;
}

/* Return the bound, or 0 where mirostat's loop has gone below it. */
static double bound_of(const dk_distribution *d) { return d->row->mirostat_mu > 0.0 ? d->row->mirostat_mu : 0.0; }

/* Return the logarithm of k = (e 2^mu / (1 - N^-e))^(1 / s), e = s - 1. */
static double log_of_size(const dk_distribution *d) {
  double s = zipf_exponent(d), log_vocab = dk_log((double)d->base.num_elements);
  double base = dk_log(ratio_of((s - 1.0) * log_vocab) / log_vocab) + bound_of(d) * DK_LN2;
  if (s == 0.0)
    return base > 0.0 ? INFINITY : 0.0;
  return base / s;
}

static void keep_estimated(dk_distribution *d) {
  int64_t num_tokens = dk_prefix_count(&d->view, d->kept);
  if (num_tokens < 2)
    return;
  double log_size = log_of_size(d);
  if (log_size > 30.0 || dk_exp(log_size) >= (double)num_tokens)
    return;
  int32_t size = (int32_t)dk_exp(log_size);
  dk_sorted first = dk_sort_first(&d->view, size > 1 ? size : 1);
  dk_keep_prefix(d, dk_sorted_prefix(&first, first.n));
}

void dk_apply_mirostat(dk_distribution *d) {
  if (d->row->flags & DECODING_MIROSTAT_V1)
    keep_estimated(d);
  else
    dk_keep_exponents(d, dk_log_total(d) - bound_of(d) * DK_LN2);
}
