/* The sampling kernels in plain C. */
#define DK_ISA_PORTABLE
#define DK_TABLE dk_kernel_portable
#include "sampling/kernels_body.h"
