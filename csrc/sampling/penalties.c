/* Stages repetition_penalty, frequency_presence, context_frequency_penalty and logit_bias. */
#include "sampling/penalties.h"

dk_failure dk_add_history_edits(const dk_view *view, const decoding_row *row) {
  dk_failure failure = dk_check_token_ids(row->history_token_ids, row->num_history, view->num_elements,
                                          DECODING_STAGE_REPETITION_PENALTY);
  bool is_on = row->repetition_penalty != 1.0f || row->frequency_penalty != 0.0f || row->presence_penalty != 0.0f ||
               row->context_frequency_penalty != 0.0f;
  for (int32_t i = 0; is_on && !dk_failed(failure) && i < row->num_history; i++) {
    int32_t token_id = row->history_token_ids[i];
    (void)dk_add_edit(view->edits, token_id, dk_read_logit(view, token_id));
  }
  return failure;
}

bool dk_apply_repetition_penalty(dk_edits *edits, const decoding_row *row) {
  dk_edit *items = edits->items;
  float r = row->repetition_penalty;
  bool overflows = false;
  for (int32_t i = 0; r != 1.0f && i < row->num_history; i++)
    if (row->history_scope_counts[i] > 0)
      overflows |= dk_set_edit(&items[i], items[i].value > 0.0f ? items[i].value / r : items[i].value * r);
  return overflows;
}

bool dk_apply_frequency_presence(dk_edits *edits, const decoding_row *row, const int32_t *counts) {
  bool is_on = row->frequency_penalty != 0.0f || row->presence_penalty != 0.0f, overflows = false;
  for (int32_t i = 0; is_on && i < row->num_history; i++) {
    float penalty = (float)counts[i] * row->frequency_penalty;
    penalty = penalty + row->presence_penalty;
    if (counts[i] > 0)
      overflows |= dk_set_edit(&edits->items[i], edits->items[i].value - penalty);
  }
  return overflows;
}

bool dk_apply_context_frequency_penalty(dk_edits *edits, const decoding_row *row) {
  bool overflows = false;
  for (int32_t i = 0; row->context_frequency_penalty != 0.0f && i < row->num_history; i++) {
    float penalty = (float)row->history_total_counts[i] * row->context_frequency_penalty;
    overflows |= dk_set_edit(&edits->items[i], edits->items[i].value - penalty);
  }
  return overflows;
}

bool dk_apply_logit_bias(const dk_view *view, const decoding_row *row) {
  bool overflows = false;
  for (int32_t i = 0; i < row->num_bias; i++) {
    dk_edit *edit = dk_edit_of(view, row->bias_token_ids[i]);
    overflows |= dk_set_edit(edit, edit->value + row->bias_values[i]);
  }
  return overflows;
}
