/* One row through the pipeline: two views, what is drawn from, the draw, the report. Stages are those of decoding.h. */
#include "sample.h"

#include <math.h>

#include "decoding.h"
#include "distribution.h"

static void fail(decoding_result *result, dk_failure failure) {
  *result = (decoding_result){.status = failure.status,
                              .stage = failure.stage,
                              .bad_token_id = failure.token_id,
                              .token_id = -1,
                              .logprob = NAN,
                              .raw_logprob = NAN};
}

static dk_failure make_views(const decoding_batch *batch, const decoding_row *row, const void *logits,
                             dk_workspace *workspace, dk_view *raw, dk_view *edited) {
  dk_failure failure = dk_view_raw(raw, batch, logits, workspace);
  return failure.status == DECODING_OK ? dk_view_edited(edited, raw, batch, row) : failure;
}

static dk_distribution in_mode(int32_t mode, const dk_view *raw, const dk_view *edited, const decoding_row *row,
                               const dk_distribution *drawn) {
  if (mode == DECODING_LOGPROBS_RAW)
    return dk_whole(raw, 1.0f);
  if (mode == DECODING_LOGPROBS_PENALIZED)
    return dk_whole(edited, 1.0f);
  if (mode == DECODING_LOGPROBS_SCALED)
    return dk_is_greedy(row) ? dk_point(edited) : dk_whole(edited, row->temperature);
  return *drawn;
}

static float raw_logprob(const dk_view *raw, int32_t token_id) {
  dk_distribution d = dk_whole(raw, 1.0f);
  return dk_logprob(&d, dk_value(raw, token_id), token_id);
}

void dk_sample_row(const decoding_batch *batch, const decoding_row *row, const void *logits, dk_workspace *workspace,
                   decoding_result *result, int32_t *top_token_ids, float *top_logprobs) {
  dk_view raw, edited;
  dk_distribution drawn = {0};
  int32_t mode = row->logprobs_mode, draws = !(row->flags & DECODING_FORCE_TOKEN);
  fail(result, make_views(batch, row, logits, workspace, &raw, &edited));
  if (result->status != DECODING_OK)
    return;
  if (draws || mode == DECODING_LOGPROBS_FINAL)
    drawn = dk_truncated(&edited, row, workspace->sums);
  result->token_id = draws ? dk_draw(&drawn, row, workspace) : row->forced_token_id;
  if (mode == DECODING_LOGPROBS_FINAL)
    dk_find_total(&drawn, workspace->sums);
  if (mode != DECODING_LOGPROBS_NONE) {
    dk_distribution d = in_mode(mode, &raw, &edited, row, &drawn);
    dk_report(&d, row, result, top_token_ids, top_logprobs);
  }
  if (mode == DECODING_LOGPROBS_RAW)
    result->raw_logprob = result->logprob;
  else if (row->flags & DECODING_WANT_RAW_LOGPROB)
    result->raw_logprob = raw_logprob(&raw, result->token_id);
}

void dk_row_probabilities(const decoding_batch *batch, const decoding_row *row, const void *logits,
                          dk_workspace *workspace, decoding_result *result, double *probabilities) {
  dk_view raw, edited;
  fail(result, make_views(batch, row, logits, workspace, &raw, &edited));
  for (int32_t i = 0; i < batch->vocab_size; i++)
    probabilities[i] = 0.0;
  if (result->status != DECODING_OK)
    return;
  dk_distribution d = dk_truncated(&edited, row, workspace->sums);
  dk_find_total(&d, workspace->sums);
  if (d.point >= 0) {
    probabilities[d.point] = 1.0;
    return;
  }
  for (int32_t block = 0; block < edited.num_blocks; block++) {
    if (workspace->sums[block] == 0)
      continue;
    uint64_t *weights = workspace->weights;
    edited.kernel->weights(dk_fetch(&edited, block), dk_prefix_in_block(d.kept, block), &d.scale, weights);
    for (int32_t i = 0; i < DK_BLOCK && block * DK_BLOCK + i < batch->vocab_size; i++)
      probabilities[block * DK_BLOCK + i] = (double)weights[i] / (double)d.total;
  }
}
