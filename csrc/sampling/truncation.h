/* Internal: the truncations that keep a prefix of the total order. Each does nothing if its parameter is off. */
#ifndef DK_TRUNCATION_H
#define DK_TRUNCATION_H

#include "sampling/distribution.h"

void dk_apply_top_k(dk_distribution *d);
void dk_apply_top_p(dk_distribution *d);
void dk_apply_min_p(dk_distribution *d);
void dk_apply_top_n_sigma(dk_distribution *d);
void dk_apply_epsilon_cutoff(dk_distribution *d);
void dk_apply_eta_cutoff(dk_distribution *d);
void dk_apply_top_a(dk_distribution *d);

#endif
