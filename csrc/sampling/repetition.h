/* Internal: the stages that look at the order of the context: DRY, no_repeat_ngram and bad words. */
#ifndef DK_REPETITION_H
#define DK_REPETITION_H

#include "sampling/row_view.h"

/* Find the repetitions that DRY penalizes, and store their lengths in the edits of the tokens that would continue them.
 * Must precede the stages, so that a bad id is reported whatever their order is. */
dk_failure dk_find_dry_matches(const dk_view *view, const decoding_row *row);

/* Run stage dry. Returns true if a logit overflows. */
bool dk_apply_dry(dk_edits *edits, const decoding_row *row);

/* Clear the bits of the tokens that no_repeat_ngram and bad words forbid. */
dk_failure dk_ban_sequences(const dk_view *view, const decoding_row *row, uint32_t *mask);

#endif
