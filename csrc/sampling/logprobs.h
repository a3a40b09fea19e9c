/* Internal: log-probabilities, ranks and the most likely tokens of a row. */
#ifndef DK_LOGPROBS_H
#define DK_LOGPROBS_H

#include "sampling/distribution.h"

/* Destination of a row's most likely tokens; both arrays may be null if none are asked for. */
typedef struct dk_top_lists {
  int32_t *token_ids; /* [num_top] */
  float *logprobs;    /* [modes, stride] */
  int64_t stride;
} dk_top_lists;

/* Return true if a report on the row needs the distribution after the truncations. */
bool dk_report_needs_distribution(const decoding_row *row);

/* Write rank, log-probabilities and surprise of result->token_id, and the most likely tokens, as the row asks for. */
void dk_report(const dk_view *raw, dk_distribution *drawn, dk_top_lists top, decoding_result *result);

#endif
