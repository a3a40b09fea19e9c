/* Private to the Python module: what would be a loop over rows in Python. */
#ifndef DK_BITMASKS_H
#define DK_BITMASKS_H

#include "decoding.h"

/* Let each row point to its own mask: masks + i * stride words; or to none, if masks is null. */
void dk_use_bitmasks(decoding_row *const *rows, int32_t num_rows, const uint32_t *masks, int64_t stride);

#endif
