/* Internal: stage mirostat, which stands in place of the truncations. */
#ifndef DK_MIROSTAT_H
#define DK_MIROSTAT_H

#include "sampling/distribution.h"

/* Drop the tokens whose surprise exceeds mirostat_mu; with DECODING_MIROSTAT_V1 those beyond the estimated number. */
void dk_apply_mirostat(dk_distribution *d);

#endif
