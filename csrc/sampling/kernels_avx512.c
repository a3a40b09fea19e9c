/* The sampling kernels in AVX-512. */
#define DK_ISA_AVX512
#define DK_TABLE dk_kernel_avx512
#include "sampling/kernels_body.h"
