#define DK_ISA_NEON
#define DK_TABLE dk_kernel_neon
#define DK_NAME "neon"
#include "sampling/kernels_body.h"
