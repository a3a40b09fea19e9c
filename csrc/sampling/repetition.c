/* Repetitions in the context: DRY's penalties, n-grams that must not recur, bad words.
 *
 * All three ask how the end of the context was continued before. The lengths of all repetitions are found in linear
 * time by the Z algorithm (Gusfield 1997, "Algorithms on Strings, Trees and Sequences", section 1.4) on the reversed
 * context.
 */
#include "sampling/repetition.h"

#include <float.h>
#include <string.h>

/* matches[j], 0 < j < n: number of tokens before index n - j that equal the last tokens of the context. */
static void find_matches(const int32_t *tokens, int32_t n, int32_t *matches) {
  int32_t left = 0, right = 0, end = n - 1;
  for (int32_t j = 1; j < n; j++) {
    int32_t length = 0;
    if (j < right)
      length = matches[j - left] < right - j ? matches[j - left] : right - j;
    while (j + length < n && tokens[end - length] == tokens[end - length - j])
      length++;
    if (j + length > right) {
      left = j;
      right = j + length;
    }
    matches[j] = length;
  }
}

static dk_failure check_context(const dk_view *view, const decoding_row *row, int32_t stage) {
  return dk_check_token_ids(row->context_token_ids, row->num_context, view->num_elements, stage);
}

static bool ends_with(const int32_t *tokens, int32_t n, const int32_t *sequence, int32_t length) {
  return length == 0 || (length <= n && tokens[n - 1] == sequence[length - 1] &&
                         memcmp(tokens + n - length, sequence, (size_t)length * sizeof *tokens) == 0);
}

/* The breakers, and a bitmask of the ones that are a single token: these may be half of the vocabulary, and are looked
 * up for every token of the context. */
typedef struct dk_breakers {
  const decoding_sequences *all;
  const uint32_t *single;
} dk_breakers;

static bool is_single(const dk_breakers *breakers, int32_t token_id) {
  return breakers->all->num_sequences > 0 && (breakers->single[token_id / 32] >> token_id % 32 & 1u);
}

/* The bitmask is written to the workspace's mask, which the stage hard_masks overwrites later. Ids outside the
 * vocabulary, which are not checked, equal no token of the context. */
static dk_breakers mark_breakers(const dk_view *view, const decoding_sequences *all) {
  uint32_t *single = view->workspace->mask;
  const int32_t *sequence = all->token_ids;
  if (all->num_sequences > 0)
    memset(single, 0, ((size_t)view->num_elements + 31) / 32 * sizeof *single);
  for (int32_t i = 0; i < all->num_sequences; sequence += all->lengths[i++])
    if (all->lengths[i] == 1 && *sequence >= 0 && *sequence < view->num_elements)
      single[*sequence / 32] |= 1u << *sequence % 32;
  return (dk_breakers){all, single};
}

/* Return how many tokens a repetition may reach back: to the last breaker that ends among the last `limit` tokens. */
static int32_t reach(const int32_t *tokens, int32_t n, const dk_breakers *breakers, int32_t limit) {
  const decoding_sequences *all = breakers->all;
  const int32_t *sequence = all->token_ids;
  for (int32_t back = 0; back < limit; back++)
    if (is_single(breakers, tokens[n - 1 - back]))
      limit = back;
  for (int32_t i = 0; i < all->num_sequences; sequence += all->lengths[i++])
    for (int32_t back = 0; all->lengths[i] != 1 && back < limit; back++)
      if (ends_with(tokens, n - back, sequence, all->lengths[i]))
        limit = back;
  return limit;
}

dk_failure dk_find_dry_matches(const dk_view *view, const decoding_row *row) {
  int32_t n = row->num_context < row->dry_range ? row->num_context : row->dry_range, longest = 0;
  if (row->dry_multiplier == 0.0f || n == 0)
    return DK_NO_FAILURE;
  const int32_t *tokens = row->context_token_ids + row->num_context - n;
  int32_t *matches = view->workspace->matches;
  dk_failure failure = check_context(view, row, DECODING_STAGE_DRY);
  if (dk_failed(failure))
    return failure;
  find_matches(tokens, n, matches);
  for (int32_t j = 1; j < n; j++)
    longest = matches[j] > longest ? matches[j] : longest;
  dk_breakers breakers = mark_breakers(view, &row->dry_breakers);
  int32_t limit = reach(tokens, n, &breakers, longest);
  for (int32_t j = 1; j < n; j++) {
    int32_t match = matches[j] < limit ? matches[j] : limit;
    if (match < row->dry_allowed_length || is_single(&breakers, tokens[n - j]))
      continue;
    dk_edit *edit = dk_edit_of(view, tokens[n - j]);
    edit->match = match > edit->match ? match : edit->match;
  }
  return DK_NO_FAILURE;
}

/* multiplier * base^(match - allowed_length), by repeated squaring, at most FLT_MAX. */
static float dry_penalty(const decoding_row *row, int32_t match) {
  double power = 1.0, square = (double)row->dry_base;
  for (int32_t k = match - row->dry_allowed_length; k > 0; k >>= 1, square *= square)
    if (k & 1)
      power *= square;
  double penalty = (double)row->dry_multiplier * power;
  return penalty < (double)FLT_MAX ? (float)penalty : FLT_MAX;
}

bool dk_apply_dry(dk_edits *edits, const decoding_row *row) {
  bool overflows = false;
  for (int32_t i = 0; i < edits->count; i++) {
    dk_edit *edit = &edits->items[i];
    if (edit->match > 0)
      overflows |= dk_set_edit(edit, edit->value - dry_penalty(row, edit->match));
  }
  return overflows;
}

/* Ban every token that once followed the last size - 1 tokens. */
static void ban_ngrams(const dk_view *view, const decoding_row *row, uint32_t *mask) {
  const int32_t *tokens = row->context_token_ids;
  int32_t n = row->num_context, *matches = view->workspace->matches;
  if (row->no_repeat_ngram_size == 1 && n > 0)
    dk_ban(mask, tokens[0]); /* it follows no token, so the loop below does not see it */
  find_matches(tokens, n, matches);
  for (int32_t j = 1; j < n; j++)
    if (matches[j] >= row->no_repeat_ngram_size - 1)
      dk_ban(mask, tokens[n - j]);
}

/* Ban the last token of each bad word whose other tokens end the context. */
static dk_failure ban_words(const dk_view *view, const decoding_row *row, uint32_t *mask) {
  const int32_t *word = row->bad_words.token_ids;
  for (int32_t i = 0; i < row->bad_words.num_sequences; word += row->bad_words.lengths[i++]) {
    int32_t length = row->bad_words.lengths[i];
    dk_failure failure = dk_check_token_ids(word, length, view->num_elements, DECODING_STAGE_HARD_MASKS);
    if (dk_failed(failure))
      return failure;
    if (ends_with(row->context_token_ids, row->num_context, word, length - 1))
      dk_ban(mask, word[length - 1]);
  }
  return DK_NO_FAILURE;
}

dk_failure dk_ban_sequences(const dk_view *view, const decoding_row *row, uint32_t *mask) {
  dk_failure failure = check_context(view, row, DECODING_STAGE_HARD_MASKS);
  if (!dk_failed(failure) && row->no_repeat_ngram_size > 0)
    ban_ngrams(view, row, mask);
  return dk_failed(failure) ? failure : ban_words(view, row, mask);
}
