/* The tokens of one sequence, with counts per distinct token: for hosts, and for SamplingState.
 *
 * A hash table with linear probing finds the entry of a token id. Entries are removed in the reverse order of their
 * coming, so a removed one leaves no later entry behind that was placed beyond it. */
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "decoding.h"

#define NUM_ARRAYS 5 /* of max_tokens numbers, before the table */

/* Return the logarithm of the table's size, so that at most half of it is in use. */
static int32_t table_bits_for(int32_t max_tokens) {
  int32_t bits = 1;
  while (((int64_t)1 << bits) < 2 * (int64_t)max_tokens)
    bits++;
  return bits;
}

size_t decoding_history_size(int32_t max_tokens) {
  if (max_tokens < 1 || max_tokens > DECODING_MAX_HISTORY)
    return 0;
  return (NUM_ARRAYS * (size_t)max_tokens + ((size_t)1 << table_bits_for(max_tokens))) * sizeof(int32_t);
}

/* Return the cell of a token id: the one that has its entry, or the empty one where it belongs. */
static int32_t *find(const decoding_history *history, int32_t token_id) {
  uint32_t mask = (1u << history->table_bits) - 1;
  uint32_t cell = (uint32_t)token_id * 2654435769u >> (32 - history->table_bits);
  while (history->table[cell] != 0 && history->distinct_ids[history->table[cell] - 1] != token_id)
    cell = (cell + 1) & mask;
  return &history->table[cell];
}

/* Return the entry of a token id, and make one if there is none. */
static int32_t entry_of(decoding_history *history, int32_t token_id) {
  int32_t *cell = find(history, token_id);
  if (*cell == 0) {
    int32_t entry = history->num_distinct++;
    history->distinct_ids[entry] = token_id;
    history->window_counts[entry] = history->output_counts[entry] = history->total_counts[entry] = 0;
    *cell = entry + 1;
  }
  return *cell - 1;
}

/* Count the token just before the window out (-1) or in again (+1). */
static void count_edge(decoding_history *history, int32_t step) {
  int32_t edge = history->num_tokens - history->scope - 1;
  if (edge >= 0)
    history->window_counts[*find(history, history->token_ids[edge]) - 1] += step;
}

static void append_one(decoding_history *history, int32_t token_id, bool is_output) {
  int32_t entry = entry_of(history, token_id);
  history->token_ids[history->num_tokens++] = token_id;
  history->total_counts[entry]++;
  history->output_counts[entry] += is_output;
  if (history->scope > 0) {
    history->window_counts[entry]++;
    count_edge(history, -1);
  }
}

static void remove_last(decoding_history *history) {
  if (history->scope > 0)
    count_edge(history, +1);
  int32_t *cell = find(history, history->token_ids[--history->num_tokens]), entry = *cell - 1;
  history->output_counts[entry]--;
  if (history->scope > 0)
    history->window_counts[entry]--;
  if (--history->total_counts[entry] == 0) {
    *cell = 0;
    history->num_distinct--;
  }
}

static int32_t append(decoding_history *history, const int32_t *token_ids, int32_t num_tokens, bool is_output) {
  if (num_tokens < 0 || (num_tokens > 0 && token_ids == NULL))
    return DECODING_BAD_ARGUMENT;
  if (num_tokens > history->max_tokens - history->num_tokens)
    return DECODING_SMALL_WORKSPACE;
  for (int32_t i = 0; i < num_tokens; i++)
    if (token_ids[i] < 0)
      return DECODING_BAD_TOKEN_ID;
  for (int32_t i = 0; i < num_tokens; i++)
    append_one(history, token_ids[i], is_output);
  return DECODING_OK;
}

int32_t decoding_history_init(decoding_history *history, void *memory, int32_t max_tokens, int32_t scope,
                              const int32_t *prompt_token_ids, int32_t num_prompt) {
  if (history == NULL || memory == NULL || decoding_history_size(max_tokens) == 0 || scope < DECODING_SCOPE_OUTPUT)
    return DECODING_BAD_ARGUMENT;
  int32_t *arrays = memory;
  size_t n = (size_t)max_tokens;
  *history = (decoding_history){.max_tokens = max_tokens,
                                .scope = scope,
                                .table_bits = table_bits_for(max_tokens),
                                .token_ids = arrays,
                                .distinct_ids = arrays + n,
                                .window_counts = arrays + 2 * n,
                                .output_counts = arrays + 3 * n,
                                .total_counts = arrays + 4 * n,
                                .table = arrays + NUM_ARRAYS * n};
  memset(history->table, 0, sizeof(int32_t) << history->table_bits);
  int32_t status = append(history, prompt_token_ids, num_prompt, false);
  history->num_prompt = history->num_tokens;
  return status;
}

int32_t decoding_history_append(decoding_history *history, const int32_t *token_ids, int32_t num_tokens) {
  return history == NULL ? DECODING_BAD_ARGUMENT : append(history, token_ids, num_tokens, true);
}

int32_t decoding_history_truncate(decoding_history *history, int32_t num_output) {
  if (history == NULL || num_output < 0 || num_output > history->num_tokens - history->num_prompt)
    return DECODING_BAD_ARGUMENT;
  while (history->num_tokens > history->num_prompt + num_output)
    remove_last(history);
  return DECODING_OK;
}

/* Return the counts that the repetition penalty looks at. */
static const int32_t *scope_counts(const decoding_history *history) {
  if (history->scope > 0)
    return history->window_counts;
  return history->scope == DECODING_SCOPE_OUTPUT ? history->output_counts : history->total_counts;
}

void decoding_history_use(const decoding_history *history, decoding_row *row) {
  int32_t reads = decoding_row_reads(row);
  row->position = (uint64_t)(history->num_tokens - history->num_prompt);
  if (reads & DECODING_READS_CONTEXT) {
    row->num_context = history->num_tokens;
    row->context_token_ids = history->token_ids;
  }
  if (reads & DECODING_READS_COUNTS) {
    row->num_history = history->num_distinct;
    row->history_token_ids = history->distinct_ids;
    row->history_scope_counts = scope_counts(history);
    row->history_output_counts = history->output_counts;
    row->history_total_counts = history->total_counts;
  }
}
