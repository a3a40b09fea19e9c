/* Stages repetition_penalty to hard_masks, and the block maxima after them. A logit of -inf is a ban, and no stage
 * edits it. */
#include "sampling/edited_view.h"

#include <math.h>

#include "sampling/penalties.h"
#include "sampling/repetition.h"
#include "sampling/stages.h"
#include "sampling/token_mask.h"

/* Return the failure for the lowest token id whose logit overflowed. */
static dk_failure overflow_failure(const dk_edits *edits, int32_t stage) {
  int32_t lowest = INT32_MAX;
  for (int32_t i = 0; i < edits->count; i++)
    if (isnan(edits->items[i].value) && edits->items[i].token_id < lowest)
      lowest = edits->items[i].token_id;
  return (dk_failure){DECODING_NONFINITE, stage, lowest};
}

/* Run one stage. The hard masks come after all others, wherever the batch lists them. */
static dk_failure run_stage(const dk_view *view, int32_t stage, uint32_t rules, const decoding_row *row) {
  const int32_t *counts =
      rules & DECODING_RULE_PENALTIES_IN_SCOPE ? row->history_scope_counts : row->history_output_counts;
  bool overflows = false;
  switch (stage) {
  case DECODING_STAGE_REPETITION_PENALTY:
    overflows = dk_apply_repetition_penalty(view->edits, row);
    break;
  case DECODING_STAGE_FREQUENCY_PRESENCE:
    overflows = dk_apply_frequency_presence(view->edits, row, counts);
    break;
  case DECODING_STAGE_DRY:
    overflows = dk_apply_dry(view->edits, row);
    break;
  case DECODING_STAGE_CONTEXT_FREQUENCY_PENALTY:
    overflows = dk_apply_context_frequency_penalty(view->edits, row);
    break;
  case DECODING_STAGE_LOGIT_BIAS:
    overflows = dk_apply_logit_bias(view, row);
    break;
  }
  return overflows ? overflow_failure(view->edits, stage) : DK_NO_FAILURE;
}

static dk_failure run_stages(dk_view *view, const decoding_batch *batch, const decoding_row *row) {
  dk_failure failure = dk_add_history_edits(view, row);
  if (!dk_failed(failure))
    failure = dk_find_dry_matches(view, row);
  if (!dk_failed(failure))
    failure = dk_check_token_ids(row->bias_token_ids, row->num_bias, view->num_elements, DECODING_STAGE_LOGIT_BIAS);
  for (int32_t i = 0; !dk_failed(failure) && i < batch->num_stages; i++)
    failure = run_stage(view, batch->stages[i], batch->rules, row);
  if (!dk_failed(failure) && dk_has_stage(batch, DECODING_STAGE_HARD_MASKS))
    failure = dk_apply_hard_masks(view, batch, row);
  return failure;
}

static bool masks_all(const uint32_t *words) {
  uint32_t any = words[0];
  for (int w = 1; w < DK_MASK_WORDS; w++)
    any |= words[w];
  return any == 0;
}

/* Return the maximum of a block. An edit lowers it only if it lowers the token that has the maximum; the block is read
 * only then, or if some of it is masked. */
static float edited_maximum(const dk_view *view, int32_t block, float raw_max) {
  const uint32_t *words = dk_block_mask(view, block);
  if (words != NULL)
    return masks_all(words) ? -INFINITY : view->kernel->maximum(dk_fetch_floats(view, block));
  float max = raw_max;
  for (int32_t i = view->edits->first[block]; i >= 0; i = view->edits->items[i].next) {
    const dk_edit *edit = &view->edits->items[i];
    if (edit->value < raw_max && edit->raw == raw_max)
      return view->kernel->maximum(dk_fetch_floats(view, block));
    max = edit->value > max ? edit->value : max;
  }
  return max;
}

static void refresh_maxima(dk_view *view, const dk_view *raw) {
  float *block_max = view->workspace->edited_max;
  for (int32_t block = 0; block < view->num_blocks; block++)
    block_max[block] = edited_maximum(view, block, raw->block_max[block]);
  view->block_max = block_max;
  view->max = dk_maximum_of(view->kernel, block_max, view->num_blocks);
}

dk_failure dk_view_edited(dk_view *view, const dk_view *raw, const decoding_batch *batch, const decoding_row *row) {
  *view = *raw;
  view->edits = &view->workspace->edits;
  view->num_plain = 0;
  dk_clear_edits(view->edits, view->num_blocks);
  dk_failure failure = run_stages(view, batch, row);
  if (dk_failed(failure))
    return failure;
  if (view->edits->count > 0 || view->mask != NULL)
    refresh_maxima(view, raw);
  else
    view->num_plain = raw->num_plain;
  if (view->max == -INFINITY)
    return (dk_failure){DECODING_EMPTY, DECODING_STAGE_HARD_MASKS, -1};
  return DK_NO_FAILURE;
}
