#define DK_ISA_AVX512
#define DK_VNNI
#define DK_AMX
#define DK_TABLE dk_quantised_avx512_amx
#define DK_NAME "avx512"
#include "forward/quantised_body.h"
