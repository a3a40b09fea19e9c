/* Internal: the hard masks. */
#ifndef DK_TOKEN_MASK_H
#define DK_TOKEN_MASK_H

#include "sampling/row_view.h"

/* Run stage hard_masks: set view->mask if any token is masked. */
dk_failure dk_apply_hard_masks(dk_view *view, const decoding_batch *batch, const decoding_row *row);

#endif
