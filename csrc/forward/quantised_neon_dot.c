#define DK_ISA_NEON
#define DK_TABLE dk_quantised_neon_dot
#define DK_NAME "neon"
#include "forward/quantised_body.h"
