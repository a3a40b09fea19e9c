/* Internal: the stages that give other weights to the tokens that are left. Each does nothing if it is off. */
#ifndef DK_RESHAPE_H
#define DK_RESHAPE_H

#include "sampling/distribution.h"

/* Prefer tokens whose probability is near adaptive_p_center. */
void dk_apply_adaptive_p(dk_distribution *d);

/* Move the draw along the total order. */
void dk_apply_skew(dk_distribution *d);

#endif
