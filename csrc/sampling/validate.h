/* Internal: the checks of a call's arguments. */
#ifndef DK_VALIDATE_H
#define DK_VALIDATE_H

#include "decoding.h"

/* Why a batch is refused: the index of the row, or -1 for the batch itself, and the name of the first wrong field. */
typedef struct dk_refusal {
  int32_t status; /* DECODING_OK if it is not */
  int32_t row;
  const char *field;
} dk_refusal;

/* Check a batch and all of its rows. */
dk_refusal dk_check_batch(const decoding_batch *batch);

#endif
