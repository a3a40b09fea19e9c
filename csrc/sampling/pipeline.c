/* One row through the pipeline: two views, what is drawn from, the draw, the report. Stages are those of decoding.h. */
#include "sampling/pipeline.h"

#include <math.h>

#include "decoding.h"
#include "sampling/distribution.h"
#include "sampling/edited_view.h"
#include "sampling/log_exp.h"

static void fail(decoding_result *result, dk_failure failure) {
  *result = (decoding_result){.status = failure.status,
                              .stage = failure.stage,
                              .bad_token_id = failure.token_id,
                              .token_id = -1,
                              .raw_logprob = NAN,
                              .surprise = NAN,
                              .logprobs = {NAN, NAN, NAN, NAN}};
}

static dk_failure make_views(const decoding_batch *batch, const decoding_row *row, const void *logits,
                             dk_workspace *workspace, dk_view *raw, dk_view *edited) {
  dk_failure failure = dk_view_raw(raw, batch, logits, workspace);
  return failure.status == DECODING_OK ? dk_view_edited(edited, raw, batch, row) : failure;
}

static dk_distribution in_mode(int32_t mode, const dk_view *raw, const dk_distribution *drawn) {
  if (mode == DECODING_LOGPROBS_RAW)
    return dk_whole(raw);
  if (mode == DECODING_LOGPROBS_PENALIZED)
    return dk_whole(drawn->edited);
  return mode == DECODING_LOGPROBS_FINAL ? *drawn : dk_scaled(drawn);
}

/* The token's log-probability in one mode, and those of the top tokens. */
static float report_mode(int32_t mode, const dk_view *raw, const dk_distribution *drawn, const decoding_result *result,
                         const int32_t *top_token_ids, float *top_logprobs) {
  dk_distribution d = in_mode(mode, raw, drawn);
  const dk_view *view = mode == DECODING_LOGPROBS_RAW ? raw : drawn->edited;
  for (int32_t i = 0; i < result->num_top; i++)
    top_logprobs[i] = (float)dk_logprob(&d, dk_value(view, top_token_ids[i]), top_token_ids[i]);
  return (float)dk_logprob(&d, dk_value(view, result->token_id), result->token_id);
}

static void report(const decoding_batch *batch, const dk_view *raw, const dk_distribution *drawn,
                   const decoding_row *row, decoding_result *result, int32_t *top_token_ids, float *top_logprobs) {
  const int32_t *modes = row->logprobs_modes;
  if (modes[0] != DECODING_LOGPROBS_NONE) {
    const dk_view *order = modes[0] == DECODING_LOGPROBS_RAW ? raw : drawn->edited;
    result->rank = dk_rank(order, result->token_id);
    result->num_top = dk_list_top(order, row->num_top, top_token_ids, top_logprobs);
  }
  for (int32_t i = 0; i < DECODING_MAX_MODES && modes[i] != DECODING_LOGPROBS_NONE; i++) {
    float *list = top_logprobs == NULL ? NULL : top_logprobs + i * batch->top_stride;
    result->logprobs[i] = report_mode(modes[i], raw, drawn, result, top_token_ids, list);
    if (modes[i] == DECODING_LOGPROBS_RAW)
      result->raw_logprob = result->logprobs[i];
  }
  if ((row->flags & DECODING_WANT_RAW_LOGPROB) && isnan(result->raw_logprob))
    result->raw_logprob =
        report_mode(DECODING_LOGPROBS_RAW, raw, drawn, &(decoding_result){.token_id = result->token_id}, NULL, NULL);
}

static float surprise_of(dk_distribution *drawn, int32_t token_id) {
  return (float)((0.0 - dk_logprob(drawn, dk_value(drawn->edited, token_id), token_id)) * DK_LOG2E);
}

/* A forced token needs a distribution only where something is said about it. */
static int32_t needs_distribution(const decoding_row *row) {
  int32_t needed = !(row->flags & DECODING_FORCE_TOKEN) || (row->flags & DECODING_MIROSTAT);
  for (int32_t i = 0; i < DECODING_MAX_MODES; i++)
    needed |= row->logprobs_modes[i] == DECODING_LOGPROBS_SCALED || row->logprobs_modes[i] == DECODING_LOGPROBS_FINAL;
  return needed;
}

void dk_sample_row(const decoding_batch *batch, const decoding_row *row, const void *logits, dk_workspace *workspace,
                   decoding_result *result, int32_t *top_token_ids, float *top_logprobs) {
  dk_view raw, edited;
  fail(result, make_views(batch, row, logits, workspace, &raw, &edited));
  if (result->status != DECODING_OK)
    return;
  dk_distribution drawn = {.edited = &edited, .point = -1};
  if (needs_distribution(row))
    drawn = dk_truncated(&edited, batch, row);
  result->token_id = row->flags & DECODING_FORCE_TOKEN ? row->forced_token_id : dk_draw(&drawn);
  if (drawn.by_rejection)
    drawn.total = 0; /* the draw has used the sums for something else */
  report(batch, &raw, &drawn, row, result, top_token_ids, top_logprobs);
  if (row->flags & DECODING_MIROSTAT)
    result->surprise = surprise_of(&drawn, result->token_id);
}

void dk_row_probabilities(const decoding_batch *batch, const decoding_row *row, const void *logits,
                          dk_workspace *workspace, decoding_result *result, double *probabilities) {
  dk_view raw, edited;
  fail(result, make_views(batch, row, logits, workspace, &raw, &edited));
  for (int32_t i = 0; i < batch->vocab_size; i++)
    probabilities[i] = 0.0;
  if (result->status != DECODING_OK)
    return;
  dk_distribution d = dk_truncated(&edited, batch, row);
  dk_find_total(&d);
  if (d.point >= 0) {
    probabilities[d.point] = 1.0;
    return;
  }
  for (int32_t block = 0; block < d.view.num_blocks; block++) {
    if (d.sums[block] == 0)
      continue;
    dk_slice slice = dk_slice_of(&d.view, d.kept, block);
    d.view.kernel->weights(slice.block, slice.low, &d.scale, workspace->weights);
    for (int32_t i = 0; i < DK_BLOCK; i++)
      if (workspace->weights[i] > 0)
        probabilities[dk_id(&d.view, block * DK_BLOCK + i)] = (double)workspace->weights[i] / (double)d.total;
  }
}
