/* Internal: the truncations whose threshold follows from the shape of the distribution. Each does nothing if its
 * parameter is off. */
#ifndef DK_SHAPE_H
#define DK_SHAPE_H

#include "sampling/distribution.h"

void dk_apply_top_h(dk_distribution *d);
void dk_apply_p_less(dk_distribution *d);
void dk_apply_min_k(dk_distribution *d);
void dk_apply_tfs(dk_distribution *d);

#endif
