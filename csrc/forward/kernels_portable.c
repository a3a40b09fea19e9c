#define DK_ISA_PORTABLE
#define DK_TABLE dk_forward_kernel_portable
#define DK_NAME "portable"
#include "forward/kernels_body.h"
