#include "python/decode_steps.h"

#include <stdbool.h>
#include <stddef.h>

#include "python/rows.h"

static bool is_ending(const dk_decode_steps *steps, int32_t token_id) {
  for (int32_t i = 0; i < steps->num_ending; i++)
    if (steps->ending_ids[i] == token_id)
      return true;
  return false;
}

/* Make a drawn token the newest of its sequence. */
static void append(dk_decode_steps *steps, int32_t row, int32_t token_id) {
  const decoding_plan *plan = steps->plan;
  const int32_t num_rows = steps->sampling->num_rows;
  steps->token_ids[row] = token_id;
  steps->start[row]++;
  for (int32_t rope = 0; rope < plan->num_ropes; rope++)
    steps->rotary[(size_t)rope * (size_t)num_rows + (size_t)row] += 2 * plan->rope_pairs[rope]; /* the next position */
  steps->rows[row]->position++;
  decoding_history *history = steps->histories[row];
  if (history != NULL) {
    decoding_history_append(history, &token_id, 1);
    decoding_history_use(history, steps->rows[row]);
  }
}

/* Record a step's tokens; rows that failed are left alone. Returns true if an ending id is among them. */
static bool record(dk_decode_steps *steps, const decoding_result *results) {
  bool ends = false;
  for (int32_t row = 0; row < steps->sampling->num_rows; row++) {
    if (results[row].status != DECODING_OK)
      continue;
    append(steps, row, results[row].token_id);
    ends = ends || is_ending(steps, results[row].token_id);
  }
  return ends;
}

int32_t dk_decode(dk_decode_steps *steps) {
  decoding_batch batch = *steps->sampling;
  dk_move_outputs(&batch, (int64_t)steps->num_done * batch.num_rows);
  for (;;) {
    int32_t status = decoding_forward(steps->plan, steps->forward);
    if (status != DECODING_OK)
      return status;
    status = steps->num_parts == 1 ? decoding_sample(&batch)
                                   : dk_sample_in_parts(steps->pool, &batch, steps->num_parts, NULL);
    if (status != DECODING_OK && status != DECODING_ROW_FAILED)
      return status;
    steps->num_done++;
    const bool ends = record(steps, batch.results);
    dk_move_outputs(&batch, batch.num_rows);
    if (status != DECODING_OK || ends || steps->num_done == steps->num_steps || *steps->interrupted)
      return status;
  }
}
