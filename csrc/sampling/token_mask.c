/* Stage 7: allowed ids, the grammar's bitmask, banned ids, forbidden sequences and padding meet in one bitmask. */
#include <string.h>

#include "sampling/row_view.h"

const uint32_t *dk_block_mask(const dk_view *view, int32_t block) {
  if (view->mask == NULL)
    return NULL;
  const uint32_t *words = view->mask + (size_t)block * DK_MASK_WORDS;
  uint32_t all = words[0];
  for (int w = 1; w < DK_MASK_WORDS; w++)
    all &= words[w];
  return all == UINT32_MAX ? NULL : words;
}

static dk_failure check_ids(const dk_view *view, const int32_t *ids, int32_t n) {
  for (int32_t i = 0; i < n; i++)
    if (!dk_is_token(view, ids[i]))
      return (dk_failure){DECODING_BAD_TOKEN_ID, DECODING_STAGE_HARD_MASKS, ids[i]};
  return DK_FINE;
}

/* Bits past the end of the row are set: no block is copied for them. */
static void start_mask(const dk_view *view, const decoding_row *row, uint32_t *mask) {
  size_t words = (size_t)view->num_blocks * DK_MASK_WORDS, used = ((size_t)view->vocab_size + 31) / 32;
  memset(mask, row->allowed_token_ids != NULL ? 0 : 0xFF, words * sizeof *mask);
  for (int32_t i = 0; row->allowed_token_ids != NULL && i < row->num_allowed; i++)
    mask[row->allowed_token_ids[i] / 32] |= 1u << row->allowed_token_ids[i] % 32;
  for (size_t w = 0; row->bitmask != NULL && w < used; w++)
    mask[w] &= row->bitmask[w];
}

dk_failure dk_mask_tokens(dk_view *view, const decoding_batch *batch, const decoding_row *row) {
  int32_t has_padding = batch->num_valid_tokens < batch->vocab_size;
  int32_t has_sequences = row->bad_words.num_sequences > 0 || (row->no_repeat_ngram_size > 0 && row->num_context > 0);
  if (row->num_banned == 0 && row->allowed_token_ids == NULL && row->bitmask == NULL && !has_padding && !has_sequences)
    return DK_FINE;
  uint32_t *mask = view->workspace->mask;
  dk_failure failure = check_ids(view, row->banned_token_ids, row->num_banned);
  if (failure.status == DECODING_OK && row->allowed_token_ids != NULL)
    failure = check_ids(view, row->allowed_token_ids, row->num_allowed);
  if (failure.status != DECODING_OK)
    return failure;
  start_mask(view, row, mask);
  for (int32_t i = 0; i < row->num_banned; i++)
    mask[row->banned_token_ids[i] / 32] &= ~(1u << row->banned_token_ids[i] % 32);
  for (int32_t id = batch->num_valid_tokens; id < batch->vocab_size; id++)
    mask[id / 32] &= ~(1u << id % 32);
  if (has_sequences)
    failure = dk_ban_sequences(view, row, mask);
  view->mask = mask;
  return failure;
}
