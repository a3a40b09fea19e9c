/* The sampling kernels in NEON. */
#define DK_ISA_NEON
#define DK_TABLE dk_kernel_neon
#include "sampling/kernels_body.h"
