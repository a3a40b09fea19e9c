/* Private to the Python module: loops over rows, each as one call, because every call from Python releases the GIL. */
#ifndef DK_PYTHON_ROWS_H
#define DK_PYTHON_ROWS_H

#include "decoding.h"
#include "python/thread_pool.h"

/* Let each row point to its own mask: masks + i * stride words; or to none, if masks is null. */
void dk_use_bitmasks(decoding_row *const *rows, int32_t num_rows, const uint32_t *masks, int64_t stride);

/* Append a token to each history, and let its row point to it. Stops at a history that has no room; returns the number
 * of those that are done. */
int32_t dk_append_tokens(decoding_history *const *histories, decoding_row *const *rows, const int32_t *token_ids,
                         int32_t n);

/* Move the places for results and reports by so many rows. */
void dk_move_outputs(decoding_batch *batch, int64_t num_rows);

#define DK_MAX_PARTS 64

/* Do what decoding_sample does, or with probabilities what decoding_probabilities does, with the rows divided among
 * num_parts tasks of the pool, 1 .. DK_MAX_PARTS. The workspace is that of num_parts batches, one after another. */
int32_t dk_sample_in_parts(dk_thread_pool *pool, const decoding_batch *batch, int32_t num_parts, double *probabilities);

#endif
