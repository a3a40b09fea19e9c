/* Sums of powers over a row. Each lane adds up in a fixed order and the lanes are folded in a fixed order, so the bits
 * do not depend on the instruction set. */
#include "sampling/moments.h"

#include <math.h>

/* Sums over the elements x of a prefix, each multiplied by its weight if there is a scale. */
typedef struct dk_moments {
  double zeroth;
  double first; /* of x - origin */
  double second;
} dk_moments;

/* Add up sixteen sums: 16 -> 8 -> 4 -> 2 -> 1. */
static double fold(double *lanes) {
  for (int32_t width = DK_LANES / 2; width > 0; width /= 2)
    for (int32_t i = 0; i < width; i++)
      lanes[i] += lanes[i + width];
  return lanes[0];
}

static dk_moments moments_of(const dk_view *view, dk_prefix prefix, const dk_scale *scale, double origin) {
  double sums[3 * DK_LANES] = {0.0};
  for (int32_t block = 0; block < view->num_blocks; block++) {
    if (!dk_may_contain(view, prefix, block))
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

/* -sum(p log p) with log p = (x - max) / T - log Z. */
double dk_entropy(dk_distribution *d) { return dk_log_total(d) - dk_mean_exponent(d); }

double dk_deviation(const dk_view *view) {
  dk_moments about_max = moments_of(view, dk_prefix_all(), NULL, (double)view->max);
  double mean = (double)view->max + about_max.first / about_max.zeroth;
  dk_moments about_mean = moments_of(view, dk_prefix_all(), NULL, mean);
  return sqrt(about_mean.second / about_mean.zeroth);
}
