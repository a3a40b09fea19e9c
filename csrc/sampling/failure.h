/* Internal: why a row failed, in the terms of decoding_result. */
#ifndef DK_FAILURE_H
#define DK_FAILURE_H

#include <stdbool.h>
#include <stdint.h>

#include "decoding.h"

typedef struct dk_failure {
  int32_t status; /* DECODING_OK if there is none */
  int32_t stage;
  int32_t token_id; /* the first bad id, or -1 */
} dk_failure;

#define DK_NO_FAILURE ((dk_failure){DECODING_OK, 0, -1})

static inline bool dk_failed(dk_failure failure) { return failure.status != DECODING_OK; }

/* Fail at the first of n ids that is outside 0 .. vocab_size - 1. */
static inline dk_failure dk_check_token_ids(const int32_t *ids, int32_t n, int32_t vocab_size, int32_t stage) {
  for (int32_t i = 0; i < n; i++)
    if (ids[i] < 0 || ids[i] >= vocab_size)
      return (dk_failure){DECODING_BAD_TOKEN_ID, stage, ids[i]};
  return DK_NO_FAILURE;
}

#endif
