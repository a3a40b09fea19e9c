#define DK_ISA_AVX2
#define DK_VNNI
#define DK_TABLE dk_quantised_avx2_vnni
#define DK_NAME "avx2"
#include "forward/quantised_body.h"
