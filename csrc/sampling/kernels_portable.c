#define DK_ISA_PORTABLE
#define DK_TABLE dk_kernel_portable
#define DK_NAME "portable"
#include "sampling/kernels_body.h"
