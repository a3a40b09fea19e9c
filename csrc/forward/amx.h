/* The use of Intel AMX for quantised weights. */
#ifndef DK_AMX_H
#define DK_AMX_H

#include <stdbool.h>

/* Return true if decoding_enable_amx has succeeded. */
bool dk_amx_is_enabled(void);

#endif
