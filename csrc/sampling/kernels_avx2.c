/* The sampling kernels in AVX2. */
#define DK_ISA_AVX2
#define DK_TABLE dk_kernel_avx2
#include "sampling/kernels_body.h"
