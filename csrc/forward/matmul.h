/* A matmul cut into tasks: some panels of outputs, some tiles of tokens. */
#ifndef DK_MATMUL_H
#define DK_MATMUL_H

#include "forward/pass.h"

#define DK_TOKEN_BLOCK 72 /* tokens per task, whole tiles of any set: their inputs should fit the second cache */
#define DK_LOGITS_PANELS 4 /* panels of logits that a task computes at once in its scratch */
#define DK_LOGITS_SCRATCH ((size_t)DK_TOKEN_BLOCK * DK_LOGITS_PANELS * DK_PANEL)

/* y[row] = W x[row] + bias of pass->input, for the outputs from first_output on, as whole panels. y is that of output
 * 0; rows are y_stride apart, and have room for whole panels. */
void dk_multiply(const dk_pass *pass, const decoding_matrix *matrix, int32_t num_rows, int32_t first_output,
                 int32_t end_output, float *y, int64_t y_stride);

/* The first half of an MLP: act(up) or act(gate) * up to the first intermediate_size numbers of each row of `wide`. */
void dk_multiply_up(const dk_pass *pass, const decoding_matrix *up, int32_t num_rows);

/* Scaled and capped logits to the batch's memory. */
void dk_multiply_head(const dk_pass *pass, int32_t num_rows);

#endif
