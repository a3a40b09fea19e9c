/* Validation of the arguments of decoding_forward. */
#ifndef DK_FORWARD_VALIDATE_H
#define DK_FORWARD_VALIDATE_H

#include "decoding.h"

/* DECODING_OK or why a plan is refused. */
int32_t dk_check_plan(const decoding_plan *plan);

/* DECODING_OK or why a batch for a valid plan is refused. *num_tokens: the total of num_new. */
int32_t dk_check_forward_batch(const decoding_plan *plan, const decoding_forward_batch *batch, int32_t *num_tokens);

#endif
