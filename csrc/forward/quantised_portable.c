#define DK_ISA_PORTABLE
#define DK_TABLE dk_quantised_portable
#define DK_NAME "portable"
#include "forward/quantised_body.h"
