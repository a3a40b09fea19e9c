/* Stage hard_masks: allowed ids, bitmask, banned ids, padding and forbidden sequences are combined in one bitmask. */
#include "sampling/token_mask.h"

#include <string.h>

#include "sampling/repetition.h"

static dk_failure check_ids(const decoding_batch *batch, const decoding_row *row) {
  const int32_t stage = DECODING_STAGE_HARD_MASKS;
  dk_failure failure = dk_check_token_ids(row->banned_token_ids, row->num_banned, batch->vocab_size, stage);
  if (!dk_failed(failure) && row->allowed_token_ids != NULL)
    failure = dk_check_token_ids(row->allowed_token_ids, row->num_allowed, batch->vocab_size, stage);
  return failure;
}

/* Write the allowed tokens. Bits past the end of the row are set, so that no block is copied because of them. */
static void start_mask(const dk_view *view, const decoding_row *row, uint32_t *mask) {
  size_t words = (size_t)view->num_blocks * DK_MASK_WORDS, used = ((size_t)view->num_elements + 31) / 32;
  memset(mask, row->allowed_token_ids != NULL ? 0 : 0xFF, words * sizeof *mask);
  for (int32_t i = 0; row->allowed_token_ids != NULL && i < row->num_allowed; i++)
    mask[row->allowed_token_ids[i] / 32] |= 1u << row->allowed_token_ids[i] % 32;
  for (size_t w = 0; row->bitmask != NULL && w < used; w++)
    mask[w] &= row->bitmask[w];
}

dk_failure dk_apply_hard_masks(dk_view *view, const decoding_batch *batch, const decoding_row *row) {
  bool has_padding = batch->num_valid_tokens < batch->vocab_size;
  bool has_sequences = row->bad_words.num_sequences > 0 || (row->no_repeat_ngram_size > 0 && row->num_context > 0);
  if (row->num_banned == 0 && row->allowed_token_ids == NULL && row->bitmask == NULL && !has_padding && !has_sequences)
    return DK_NO_FAILURE;
  uint32_t *mask = view->workspace->mask;
  dk_failure failure = check_ids(batch, row);
  if (dk_failed(failure))
    return failure;
  start_mask(view, row, mask);
  for (int32_t i = 0; i < row->num_banned; i++)
    dk_ban(mask, row->banned_token_ids[i]);
  for (int32_t id = batch->num_valid_tokens; id < batch->vocab_size; id++)
    dk_ban(mask, id);
  if (has_sequences)
    failure = dk_ban_sequences(view, row, mask);
  view->mask = mask;
  return failure;
}
