/* Internal: the row after the stages that edit logits. */
#ifndef DK_EDITED_VIEW_H
#define DK_EDITED_VIEW_H

#include "sampling/row_view.h"

/* Run the penalties, the logit bias and the hard masks in the order of the batch, which must list its stages. */
dk_failure dk_view_edited(dk_view *view, const dk_view *raw, const decoding_batch *batch, const decoding_row *row);

#endif
