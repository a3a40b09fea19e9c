#define DK_ISA_NEON
#define DK_TABLE dk_forward_kernel_neon
#define DK_NAME "neon"
#include "forward/kernels_body.h"
