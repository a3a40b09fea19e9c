/* Internal: one row through all stages. */
#ifndef DK_PIPELINE_H
#define DK_PIPELINE_H

#include "sampling/logprobs.h"
#include "sampling/workspace.h"

/* Draw a token, or take the forced one, and report on it. The batch must list its stages. */
void dk_sample_row(const decoding_batch *batch, const decoding_row *row, const void *logits, dk_workspace *workspace,
                   dk_report_lists lists, decoding_result *result);

/* Write the probabilities of all tokens in the draw. The batch must list its stages. */
void dk_row_probabilities(const decoding_batch *batch, const decoding_row *row, const void *logits,
                          dk_workspace *workspace, double *probabilities, decoding_result *result);

#endif
