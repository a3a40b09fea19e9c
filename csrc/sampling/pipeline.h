/* Internal: one row through the pipeline. */
#ifndef DK_SAMPLE_H
#define DK_SAMPLE_H

#include "sampling/row_view.h"

/* Draws (or takes the forced token) and reports. top_token_ids and top_logprobs take row->num_top entries. */
void dk_sample_row(const decoding_batch *batch, const decoding_row *row, const void *logits, dk_workspace *workspace,
                   decoding_result *result, int32_t *top_token_ids, float *top_logprobs);

/* Writes the distribution of the draw over all tokens. */
void dk_row_probabilities(const decoding_batch *batch, const decoding_row *row, const void *logits,
                          dk_workspace *workspace, decoding_result *result, double *probabilities);

#endif
