/* Stages 2 to 5: penalties and biases. Each touched token has an edit beside the row; a stage is a loop over the edits
 * that concern it, in float32, each operation rounded once. A logit of -inf is a ban, and no edit touches it. */
#include <math.h>
#include <string.h>

#include "sampling/row_view.h"

static dk_edit *find_edit(const dk_view *view, int32_t token_id) {
  dk_workspace *workspace = view->workspace;
  for (int32_t i = workspace->edit_head[token_id / DK_BLOCK]; i >= 0; i = workspace->edits[i].next)
    if (workspace->edits[i].token_id == token_id)
      return &workspace->edits[i];
  return NULL;
}

static dk_edit *add_edit(const dk_view *view, int32_t *num_edits, int32_t token_id) {
  int32_t *head = &view->workspace->edit_head[token_id / DK_BLOCK];
  dk_edit *edit = &view->workspace->edits[*num_edits];
  float logit = dk_read_logit(view, token_id);
  *edit = (dk_edit){token_id, *head, logit, logit, 0};
  *head = (*num_edits)++;
  return edit;
}

dk_edit *dk_touch(const dk_view *view, int32_t *num_edits, int32_t token_id) {
  dk_edit *edit = find_edit(view, token_id);
  return edit != NULL ? edit : add_edit(view, num_edits, token_id);
}

/* A stage's new value. One that is not finite spoils the row: it becomes NaN, and the result is 1. No branch: whether a
 * token is banned cannot be guessed. */
static int32_t settle(dk_edit *edit, float value) {
  int32_t is_banned = edit->value == -INFINITY, is_spoilt = !is_banned && !isfinite(value);
  edit->value = is_banned ? -INFINITY : is_spoilt ? NAN : value;
  return is_spoilt;
}

/* The edits of the history are the first ones, in its order. */
static int32_t penalize_repetition(dk_edit *edits, const decoding_row *row) {
  float r = row->repetition_penalty;
  int32_t is_spoilt = 0;
  for (int32_t i = 0; r != 1.0f && i < row->num_history; i++)
    if (row->history_scope_counts[i] > 0)
      is_spoilt |= settle(&edits[i], edits[i].value > 0.0f ? edits[i].value / r : edits[i].value * r);
  return is_spoilt;
}

static int32_t penalize_frequency(dk_edit *edits, const decoding_row *row, const int32_t *counts) {
  int32_t is_on = row->frequency_penalty != 0.0f || row->presence_penalty != 0.0f, is_spoilt = 0;
  for (int32_t i = 0; is_on && i < row->num_history; i++) {
    float penalty = (float)counts[i] * row->frequency_penalty;
    penalty = penalty + row->presence_penalty;
    if (counts[i] > 0)
      is_spoilt |= settle(&edits[i], edits[i].value - penalty);
  }
  return is_spoilt;
}

static int32_t penalize_context(dk_edit *edits, const decoding_row *row) {
  int32_t is_spoilt = 0;
  for (int32_t i = 0; row->context_frequency_penalty != 0.0f && i < row->num_history; i++) {
    float penalty = (float)row->history_total_counts[i] * row->context_frequency_penalty;
    is_spoilt |= settle(&edits[i], edits[i].value - penalty);
  }
  return is_spoilt;
}

static int32_t penalize_matches(dk_edit *edits, int32_t num_edits, const decoding_row *row) {
  int32_t is_spoilt = 0;
  for (int32_t i = 0; i < num_edits; i++)
    if (edits[i].match > 0)
      is_spoilt |= settle(&edits[i], edits[i].value - dk_dry_penalty(row, edits[i].match));
  return is_spoilt;
}

static int32_t add_biases(const dk_view *view, const decoding_row *row, int32_t *num_edits) {
  int32_t is_spoilt = 0;
  for (int32_t i = 0; i < row->num_bias; i++) {
    dk_edit *edit = dk_touch(view, num_edits, row->bias_token_ids[i]);
    is_spoilt |= settle(edit, edit->value + row->bias_values[i]);
  }
  return is_spoilt;
}

static dk_failure check_ids(const dk_view *view, const int32_t *ids, int32_t n, int32_t stage) {
  for (int32_t i = 0; i < n; i++)
    if (!dk_is_token(view, ids[i]))
      return (dk_failure){DECODING_BAD_TOKEN_ID, stage, ids[i]};
  return DK_FINE;
}

/* One edit for every token of the history, where a penalty will want it. */
static dk_failure touch_history(const dk_view *view, const decoding_row *row, int32_t *num_edits) {
  dk_failure failure = check_ids(view, row->history_token_ids, row->num_history, DECODING_STAGE_REPETITION_PENALTY);
  int32_t is_on = row->repetition_penalty != 1.0f || row->frequency_penalty != 0.0f || row->presence_penalty != 0.0f ||
                  row->context_frequency_penalty != 0.0f;
  for (int32_t i = 0; is_on && failure.status == DECODING_OK && i < row->num_history; i++)
    (void)add_edit(view, num_edits, row->history_token_ids[i]);
  return failure;
}

/* Of several tokens that a stage spoils, the lowest id is reported. */
static dk_failure lowest_spoilt(const dk_edit *edits, int32_t num_edits, int32_t stage) {
  int32_t lowest = INT32_MAX;
  for (int32_t i = 0; i < num_edits; i++)
    if (isnan(edits[i].value) && edits[i].token_id < lowest)
      lowest = edits[i].token_id;
  return (dk_failure){DECODING_NONFINITE, stage, lowest};
}

static dk_failure run_stage(const dk_view *view, int32_t stage, const decoding_batch *batch, const decoding_row *row,
                            int32_t *num_edits) {
  dk_edit *edits = view->workspace->edits;
  const int32_t *counts =
      batch->rules & DECODING_RULE_PENALTIES_IN_SCOPE ? row->history_scope_counts : row->history_output_counts;
  int32_t is_spoilt = 0;
  switch (stage) {
  case DECODING_STAGE_REPETITION_PENALTY:
    is_spoilt = penalize_repetition(edits, row);
    break;
  case DECODING_STAGE_FREQUENCY_PRESENCE:
    is_spoilt = penalize_frequency(edits, row, counts);
    break;
  case DECODING_STAGE_DRY:
    is_spoilt = penalize_matches(edits, *num_edits, row);
    break;
  case DECODING_STAGE_CONTEXT_FREQUENCY_PENALTY:
    is_spoilt = penalize_context(edits, row);
    break;
  case DECODING_STAGE_LOGIT_BIAS:
    is_spoilt = add_biases(view, row, num_edits);
    break;
  }
  return is_spoilt ? lowest_spoilt(edits, *num_edits, stage) : DK_FINE;
}

static int32_t masks_all(const uint32_t *words) {
  uint32_t any = words[0];
  for (int w = 1; w < DK_MASK_WORDS; w++)
    any |= words[w];
  return any == 0;
}

/* The maximum of an edited block. Edits cannot lower it, unless they lower the token that has it: only then, and under
 * a mask, is the block looked at. */
static float edited_maximum(const dk_view *view, int32_t block, float raw_max) {
  const uint32_t *words = dk_block_mask(view, block);
  if (words != NULL)
    return masks_all(words) ? -INFINITY : view->kernel->maximum(dk_fetch_floats(view, block));
  float max = raw_max;
  for (int32_t i = view->workspace->edit_head[block]; i >= 0; i = view->workspace->edits[i].next) {
    const dk_edit *edit = &view->workspace->edits[i];
    if (edit->value < raw_max && edit->raw == raw_max)
      return view->kernel->maximum(dk_fetch_floats(view, block));
    max = edit->value > max ? edit->value : max;
  }
  return max;
}

/* Exact maxima again. */
static void refresh_maxima(dk_view *view, const dk_view *raw) {
  float *block_max = view->workspace->edited_max;
  for (int32_t block = 0; block < view->num_blocks; block++)
    block_max[block] = edited_maximum(view, block, raw->block_max[block]);
  view->block_max = block_max;
  view->max = dk_largest(view->kernel, block_max, view->num_blocks);
}

dk_failure dk_view_edited(dk_view *view, const dk_view *raw, const decoding_batch *batch, const decoding_row *row) {
  int32_t num_edits = 0;
  *view = *raw;
  view->is_edited = 1;
  view->num_plain = 0;
  memset(view->workspace->edit_head, 0xFF, (size_t)view->num_blocks * sizeof(int32_t)); /* -1 */
  dk_failure failure = touch_history(view, row, &num_edits);
  if (failure.status == DECODING_OK)
    failure = dk_find_repetitions(view, row, &num_edits);
  if (failure.status == DECODING_OK)
    failure = check_ids(view, row->bias_token_ids, row->num_bias, DECODING_STAGE_LOGIT_BIAS);
  for (int32_t i = 0; failure.status == DECODING_OK && i < batch->num_stages; i++)
    failure = run_stage(view, batch->stages[i], batch, row, &num_edits);
  if (failure.status == DECODING_OK && dk_has_stage(batch, DECODING_STAGE_HARD_MASKS))
    failure = dk_mask_tokens(view, batch, row);
  if (failure.status != DECODING_OK)
    return failure;
  if (num_edits > 0 || view->mask != NULL)
    refresh_maxima(view, raw);
  else
    view->num_plain = raw->num_plain;
  if (view->max == -INFINITY)
    return (dk_failure){DECODING_EMPTY, DECODING_STAGE_HARD_MASKS, -1};
  return DK_FINE;
}
