/* Internal: log-probabilities, ranks and the most likely tokens of a row. */
#ifndef DK_LOGPROBS_H
#define DK_LOGPROBS_H

#include "sampling/distribution.h"

/* Destination of a row's most likely tokens and of its chosen ones; an array may be null if none are asked for. */
typedef struct dk_report_lists {
  int32_t *token_ids; /* [num_top] */
  float *logprobs;    /* [modes, stride] */
  int64_t stride;
  float *chosen; /* [num_chosen] */
} dk_report_lists;

/* Return true if a report on the row needs the distribution after the truncations. */
bool dk_report_needs_distribution(const decoding_row *row);

/* Write rank, log-probabilities and surprise of result->token_id, the most likely tokens and the chosen ones, as the
 * row asks for. */
void dk_report(const dk_view *raw, dk_distribution *drawn, dk_report_lists lists, decoding_result *result);

#endif
