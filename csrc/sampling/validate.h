/* Internal: the checks of a call's arguments. */
#ifndef DK_VALIDATE_H
#define DK_VALIDATE_H

#include "decoding.h"

/* Return DECODING_OK, or the reason why the batch is refused. */
int32_t dk_validate_batch(const decoding_batch *batch);

#endif
