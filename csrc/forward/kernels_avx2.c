#define DK_ISA_AVX2
#define DK_TABLE dk_forward_kernel_avx2
#define DK_NAME "avx2"
#include "forward/kernels_body.h"
