/* Internal: the penalties that count tokens, and the logit bias. Each stage is a loop over the edits that it concerns,
 * in float32 with each operation rounded once. It returns true if a logit overflows. */
#ifndef DK_PENALTIES_H
#define DK_PENALTIES_H

#include "sampling/row_view.h"

/* Add an edit for every token of the history, in its order, if a penalty is on. They must be the first edits. */
dk_failure dk_add_history_edits(const dk_view *view, const decoding_row *row);

bool dk_apply_repetition_penalty(dk_edits *edits, const decoding_row *row);

/* counts: [num_history], how often each token of the history counts. */
bool dk_apply_frequency_presence(dk_edits *edits, const decoding_row *row, const int32_t *counts);

bool dk_apply_context_frequency_penalty(dk_edits *edits, const decoding_row *row);

/* The ids must have been checked. */
bool dk_apply_logit_bias(const dk_view *view, const decoding_row *row);

#endif
