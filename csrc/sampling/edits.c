/* Edited logits, linked per block so that a block can be fetched with its own edits alone. */
#include "sampling/edits.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "sampling/kernels.h"

void dk_clear_edits(dk_edits *edits, int32_t num_blocks) {
  edits->count = 0;
  memset(edits->first, 0xFF, (size_t)num_blocks * sizeof *edits->first); /* -1 */
}

dk_edit *dk_find_edit(const dk_edits *edits, int32_t token_id) {
  for (int32_t i = edits->first[token_id / DK_BLOCK]; i >= 0; i = edits->items[i].next)
    if (edits->items[i].token_id == token_id)
      return &edits->items[i];
  return NULL;
}

dk_edit *dk_add_edit(dk_edits *edits, int32_t token_id, float raw) {
  int32_t *first = &edits->first[token_id / DK_BLOCK];
  dk_edit *edit = &edits->items[edits->count];
  *edit = (dk_edit){.token_id = token_id, .next = *first, .raw = raw, .value = raw, .match = 0};
  *first = edits->count++;
  return edit;
}

/* Without branches: the CPU cannot predict which tokens are banned. */
bool dk_set_edit(dk_edit *edit, float value) {
  bool is_banned = edit->value == -INFINITY, overflows = !is_banned && !isfinite(value);
  edit->value = is_banned ? -INFINITY : overflows ? NAN : value;
  return overflows;
}
