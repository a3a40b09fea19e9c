/* Internal: stage temperature. */
#ifndef DK_TEMPERATURE_H
#define DK_TEMPERATURE_H

#include "sampling/distribution.h"

#define DK_GREEDY_TEMPERATURE 0x1p-20f /* below it, all probability is on the first token */

/* Apply quadratic smoothing, then the temperature or the dynamic temperature. */
void dk_apply_temperature(dk_distribution *d);

#endif
