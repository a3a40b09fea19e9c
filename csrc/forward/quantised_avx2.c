#define DK_ISA_AVX2
#define DK_TABLE dk_quantised_avx2
#define DK_NAME "avx2"
#include "forward/quantised_body.h"
