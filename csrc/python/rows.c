#include "python/rows.h"

#include <stddef.h>

void dk_use_bitmasks(decoding_row *const *rows, int32_t num_rows, const uint32_t *masks, int64_t stride) {
  for (int32_t i = 0; i < num_rows; i++)
    rows[i]->bitmask = masks == NULL ? NULL : masks + i * stride;
}

int32_t dk_append_tokens(decoding_history *const *histories, decoding_row *const *rows, const int32_t *token_ids,
                         int32_t n) {
  for (int32_t i = 0; i < n; i++) {
    if (decoding_history_append(histories[i], &token_ids[i], 1) != DECODING_OK)
      return i;
    decoding_history_use(histories[i], rows[i]);
  }
  return n;
}
