/* Internal: what is refused before anything is read or written. */
#ifndef DK_DOOR_H
#define DK_DOOR_H

#include "decoding.h"

/* DECODING_OK, or why the batch cannot be run. */
int32_t dk_check_batch(const decoding_batch *batch);

#endif
