/* What follows a draw: position, history, mirostat's bound and the bans before min_tokens of each sequence. */
#include <stdbool.h>
#include <stddef.h>

#include "decoding.h"

static bool is_valid(const decoding_sequence *sequence) {
  return sequence->row != NULL && sequence->min_tokens >= 0 && sequence->num_ending >= 0 &&
         sequence->num_banned >= sequence->num_ending;
}

static bool is_full(const decoding_sequence *sequence) {
  return sequence->history != NULL && sequence->history->num_tokens == sequence->history->max_tokens;
}

static int32_t check(decoding_sequence *const *sequences, const decoding_result *results, int32_t n, int32_t *full) {
  if (n < 0 || (n > 0 && (sequences == NULL || results == NULL)))
    return DECODING_BAD_ARGUMENT;
  for (int32_t i = 0; i < n; i++) {
    if (sequences[i] == NULL)
      continue;
    if (sequences[i]->struct_size != sizeof *sequences[i])
      return DECODING_BAD_SIZE;
    if (!is_valid(sequences[i]))
      return DECODING_BAD_ARGUMENT;
    if (results[i].status == DECODING_OK && is_full(sequences[i])) {
      *full = i;
      return DECODING_SMALL_WORKSPACE;
    }
  }
  return DECODING_OK;
}

static void commit(decoding_sequence *sequence, const decoding_result *result) {
  decoding_row *row = sequence->row;
  if (sequence->history != NULL) {
    (void)decoding_history_append(sequence->history, &result->token_id, 1); /* there is room: it has been checked */
    decoding_history_use(sequence->history, row);
  } else {
    row->position++;
  }
  if (row->flags & DECODING_MIROSTAT) {
    row->mirostat_mu =
        decoding_mirostat_next(row->mirostat_mu, sequence->mirostat_tau, sequence->mirostat_eta, result->surprise);
    if (sequence->mirostat_mus != NULL)
      sequence->mirostat_mus[row->position] = row->mirostat_mu;
  }
  bool may_end = row->position >= (uint64_t)sequence->min_tokens;
  row->num_banned = sequence->num_banned - (may_end ? sequence->num_ending : 0);
}

int32_t decoding_commit(decoding_sequence *const *sequences, const decoding_result *results, int32_t num_sequences,
                        int32_t *full) {
  int32_t index = -1, status = check(sequences, results, num_sequences, &index);
  if (full != NULL)
    *full = index;
  for (int32_t i = 0; status == DECODING_OK && i < num_sequences; i++)
    if (sequences[i] != NULL && results[i].status == DECODING_OK)
      commit(sequences[i], &results[i]);
  return status;
}
