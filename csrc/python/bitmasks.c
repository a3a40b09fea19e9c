#include "python/bitmasks.h"

#include <stddef.h>

void dk_use_bitmasks(decoding_row *const *rows, int32_t num_rows, const uint32_t *masks, int64_t stride) {
  for (int32_t i = 0; i < num_rows; i++)
    rows[i]->bitmask = masks == NULL ? NULL : masks + i * stride;
}
