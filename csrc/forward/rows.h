/* The steps between two matmuls, row by row: embedding, norms, residual sums, rotary embeddings, writing the cache. */
#ifndef DK_ROWS_H
#define DK_ROWS_H

#include "forward/pass.h"

/* hidden[row] = embedding of token row. */
void dk_embed(const dk_pass *pass);

/* pass->input = the rows, normalised, as a matmul with the matrix reads them; norm null: as they are, and they must
 * stay what they are until the matmul is done. */
void dk_prepare(dk_pass *pass, const float *rows, int64_t stride, int32_t num_rows, const decoding_norm *norm,
                const decoding_matrix *matrix);

/* hidden[row] += residual_scale * norm(out[row]) */
void dk_add_out(const dk_pass *pass, int32_t num_rows, const decoding_norm *norm);

/* The keys in `wide` normalised and turned, they and the values written to the cache. All tokens. */
void dk_store_keys_and_values(const dk_pass *pass, int32_t layer);

/* The queries in `wide` normalised and turned. The pass's rows. */
void dk_turn_queries(const dk_pass *pass, int32_t layer);

#endif
