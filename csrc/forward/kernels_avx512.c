#define DK_ISA_AVX512
#define DK_TABLE dk_forward_kernel_avx512
#define DK_NAME "avx512"
#include "forward/kernels_body.h"
