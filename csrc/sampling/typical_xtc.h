/* Internal: the truncations that do not keep a prefix of the total order. Each does nothing if its parameter is off. */
#ifndef DK_TYPICAL_XTC_H
#define DK_TYPICAL_XTC_H

#include "sampling/distribution.h"

void dk_apply_typical_p(dk_distribution *d);
void dk_apply_xtc(dk_distribution *d);

#endif
