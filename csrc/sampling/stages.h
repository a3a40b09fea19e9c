/* Internal: the stages that a batch can order and leave out. */
#ifndef DK_STAGES_H
#define DK_STAGES_H

#include <stdbool.h>

#include "decoding.h"

/* Return the batch; if it does not list its stages, with the list of all of them in the default order. */
decoding_batch dk_with_stages(const decoding_batch *batch);

/* Return true if a batch may list this stage. */
bool dk_is_listable_stage(int32_t stage);

/* Return true if the batch runs this stage; it must list its stages. */
bool dk_has_stage(const decoding_batch *batch, int32_t stage);

#endif
