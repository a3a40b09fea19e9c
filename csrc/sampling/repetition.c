/* What the tokens so far say about the next one: DRY's penalties, n-grams that must not come twice, bad words.
 *
 * All three ask how the end of the context continues elsewhere. The lengths of all repetitions are found in linear time
 * by the Z algorithm (Gusfield 1997, "Algorithms on Strings, Trees and Sequences", 1.4) on the context read backwards.
 */
#include <float.h>
#include <string.h>

#include "sampling/row_view.h"

/* matches[j], 0 < j < n: how many tokens before place n - j equal the last tokens of the context, one by one. */
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
  for (int32_t i = 0; i < row->num_context; i++)
    if (!dk_is_token(view, row->context_token_ids[i]))
      return (dk_failure){DECODING_BAD_TOKEN_ID, stage, row->context_token_ids[i]};
  return DK_FINE;
}

/* Whether the n tokens end with the sequence. */
static int32_t ends_with(const int32_t *tokens, int32_t n, const int32_t *sequence, int32_t length) {
  return length == 0 || (length <= n && memcmp(tokens + n - length, sequence, (size_t)length * sizeof *tokens) == 0);
}

/* How far back a repetition may reach: to the last end of a breaker among the last `limit` tokens. */
static int32_t reach(const int32_t *tokens, int32_t n, const decoding_sequences *breakers, int32_t limit) {
  const int32_t *sequence = breakers->token_ids;
  for (int32_t i = 0; i < breakers->num_sequences; sequence += breakers->lengths[i++])
    for (int32_t back = 0; back < limit; back++)
      if (ends_with(tokens, n - back, sequence, breakers->lengths[i]))
        limit = back;
  return limit;
}

/* Whether the token alone is a breaker: then nothing is taken off it. */
static int32_t is_breaker(const decoding_sequences *breakers, int32_t token_id) {
  const int32_t *sequence = breakers->token_ids;
  for (int32_t i = 0; i < breakers->num_sequences; sequence += breakers->lengths[i++])
    if (breakers->lengths[i] == 1 && *sequence == token_id)
      return 1;
  return 0;
}

dk_failure dk_find_repetitions(const dk_view *view, const decoding_row *row, int32_t *num_edits) {
  int32_t n = row->num_context < row->dry_range ? row->num_context : row->dry_range, longest = 0;
  if (row->dry_multiplier == 0.0f || n == 0)
    return DK_FINE;
  const int32_t *tokens = row->context_token_ids + row->num_context - n;
  int32_t *matches = view->workspace->matches;
  dk_failure failure = check_context(view, row, DECODING_STAGE_DRY);
  if (failure.status != DECODING_OK)
    return failure;
  find_matches(tokens, n, matches);
  for (int32_t j = 1; j < n; j++)
    longest = matches[j] > longest ? matches[j] : longest;
  int32_t limit = reach(tokens, n, &row->dry_breakers, longest);
  for (int32_t j = 1; j < n; j++) {
    int32_t match = matches[j] < limit ? matches[j] : limit;
    if (match < row->dry_allowed_length || is_breaker(&row->dry_breakers, tokens[n - j]))
      continue;
    dk_edit *edit = dk_touch(view, num_edits, tokens[n - j]);
    edit->match = match > edit->match ? match : edit->match;
  }
  return DK_FINE;
}

float dk_dry_penalty(const decoding_row *row, int32_t match) {
  double power = 1.0, square = (double)row->dry_base;
  for (int32_t k = match - row->dry_allowed_length; k > 0; k >>= 1, square *= square)
    if (k & 1)
      power *= square;
  double penalty = (double)row->dry_multiplier * power;
  return penalty < (double)FLT_MAX ? (float)penalty : FLT_MAX;
}

static void ban(uint32_t *mask, int32_t token_id) { mask[token_id / 32] &= ~(1u << token_id % 32); }

/* Every token that has followed the last size - 1 tokens before. */
static void ban_ngrams(const dk_view *view, const decoding_row *row, uint32_t *mask) {
  const int32_t *tokens = row->context_token_ids;
  int32_t n = row->num_context, *matches = view->workspace->matches;
  if (row->no_repeat_ngram_size == 1 && n > 0)
    ban(mask, tokens[0]); /* nothing stands before it */
  find_matches(tokens, n, matches);
  for (int32_t j = 1; j < n; j++)
    if (matches[j] >= row->no_repeat_ngram_size - 1)
      ban(mask, tokens[n - j]);
}

static dk_failure ban_words(const dk_view *view, const decoding_row *row, uint32_t *mask) {
  const int32_t *word = row->bad_words.token_ids;
  for (int32_t i = 0; i < row->bad_words.num_sequences; word += row->bad_words.lengths[i++]) {
    int32_t length = row->bad_words.lengths[i];
    for (int32_t k = 0; k < length; k++)
      if (!dk_is_token(view, word[k]))
        return (dk_failure){DECODING_BAD_TOKEN_ID, DECODING_STAGE_HARD_MASKS, word[k]};
    if (ends_with(row->context_token_ids, row->num_context, word, length - 1))
      ban(mask, word[length - 1]);
  }
  return DK_FINE;
}

dk_failure dk_ban_sequences(const dk_view *view, const decoding_row *row, uint32_t *mask) {
  dk_failure failure = check_context(view, row, DECODING_STAGE_HARD_MASKS);
  if (failure.status == DECODING_OK && row->no_repeat_ngram_size > 0)
    ban_ngrams(view, row, mask);
  return failure.status == DECODING_OK ? ban_words(view, row, mask) : failure;
}
