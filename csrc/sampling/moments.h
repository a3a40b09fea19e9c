/* Internal: mean, deviation and entropy of a distribution or a row. */
#ifndef DK_MOMENTS_H
#define DK_MOMENTS_H

#include "sampling/distribution.h"

/* Return the mean of (x - max) / T under the distribution. */
double dk_mean_exponent(dk_distribution *d);

/* Return the entropy in nats. */
double dk_entropy(dk_distribution *d);

/* Return the standard deviation of the values of a row that are not banned. */
double dk_deviation(const dk_view *view);

#endif
