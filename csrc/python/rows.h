/* Private to the Python module: loops over rows, each as one call, because every call from Python releases the GIL. */
#ifndef DK_PYTHON_ROWS_H
#define DK_PYTHON_ROWS_H

#include "decoding.h"

/* Let each row point to its own mask: masks + i * stride words; or to none, if masks is null. */
void dk_use_bitmasks(decoding_row *const *rows, int32_t num_rows, const uint32_t *masks, int64_t stride);

/* Append a token to each history, and let its row point to it. Stops at a history that has no room; returns the number
 * of those that are done. */
int32_t dk_append_tokens(decoding_history *const *histories, decoding_row *const *rows, const int32_t *token_ids,
                         int32_t n);

#endif
