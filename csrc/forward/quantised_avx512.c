#define DK_ISA_AVX512
#define DK_TABLE dk_quantised_avx512
#define DK_NAME "avx512"
#include "forward/quantised_body.h"
