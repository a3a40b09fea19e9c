/* One row through all stages: the editing stages give a view, the stages from temperature on a distribution, from which
 * a token is drawn and reported. */
#include "sampling/pipeline.h"

#include <math.h>

#include "sampling/draw.h"
#include "sampling/edited_view.h"
#include "sampling/mirostat.h"
#include "sampling/reshape.h"
#include "sampling/shape.h"
#include "sampling/stages.h"
#include "sampling/temperature.h"
#include "sampling/truncation.h"
#include "sampling/typical_xtc.h"

static decoding_result empty_result(dk_failure failure) {
  return (decoding_result){.status = failure.status,
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
  return dk_failed(failure) ? failure : dk_view_edited(edited, raw, batch, row);
}

/* The editing stages, and mirostat, are not run here. */
static void run_stage(dk_distribution *d, int32_t stage) {
  switch (stage) {
  case DECODING_STAGE_TEMPERATURE:
    dk_apply_temperature(d);
    break;
  case DECODING_STAGE_TOP_H:
    dk_apply_top_h(d);
    break;
  case DECODING_STAGE_P_LESS:
    dk_apply_p_less(d);
    break;
  case DECODING_STAGE_MIN_K:
    dk_apply_min_k(d);
    break;
  case DECODING_STAGE_TFS:
    dk_apply_tfs(d);
    break;
  case DECODING_STAGE_TOP_K:
    dk_apply_top_k(d);
    break;
  case DECODING_STAGE_TOP_P:
    dk_apply_top_p(d);
    break;
  case DECODING_STAGE_MIN_P:
    dk_apply_min_p(d);
    break;
  case DECODING_STAGE_TYPICAL_P:
    dk_apply_typical_p(d);
    break;
  case DECODING_STAGE_TOP_N_SIGMA:
    dk_apply_top_n_sigma(d);
    break;
  case DECODING_STAGE_EPSILON_CUTOFF:
    dk_apply_epsilon_cutoff(d);
    break;
  case DECODING_STAGE_ETA_CUTOFF:
    dk_apply_eta_cutoff(d);
    break;
  case DECODING_STAGE_TOP_A:
    dk_apply_top_a(d);
    break;
  case DECODING_STAGE_XTC:
    dk_apply_xtc(d);
    break;
  case DECODING_STAGE_ADAPTIVE_P:
    dk_apply_adaptive_p(d);
    break;
  case DECODING_STAGE_SKEW:
    dk_apply_skew(d);
    break;
  }
}

/* Mirostat replaces the truncations, so temperature precedes it wherever the batch lists it. The stages that reshape
 * follow. */
static void run_mirostat(dk_distribution *d, const decoding_batch *batch) {
  if (dk_has_stage(batch, DECODING_STAGE_TEMPERATURE))
    dk_apply_temperature(d);
  if (d->point < 0 && dk_has_stage(batch, DECODING_STAGE_MIROSTAT))
    dk_apply_mirostat(d);
  for (int32_t i = 0; i < batch->num_stages && d->point < 0; i++)
    if (batch->stages[i] > DECODING_STAGE_CUT)
      run_stage(d, batch->stages[i]);
}

/* Run the stages from temperature on. The result has its total, unless it is drawn by rejection. */
static void run_stages(dk_distribution *d, const decoding_batch *batch) {
  d->by_rejection = dk_draws_by_rejection(batch, d->row);
  if (d->row->flags & DECODING_MIROSTAT)
    run_mirostat(d, batch);
  else
    for (int32_t i = 0; i < batch->num_stages && d->point < 0; i++)
      run_stage(d, batch->stages[i]);
  if (d->point >= 0)
    return;
  d->kept = dk_within_cut(d); /* a total never has more than that */
  if (!d->by_rejection)
    dk_find_total(d);
}

void dk_sample_row(const decoding_batch *batch, const decoding_row *row, const void *logits, dk_workspace *workspace,
                   dk_report_lists lists, decoding_result *result) {
  dk_view raw, edited;
  bool is_forced = row->flags & DECODING_FORCE_TOKEN;
  dk_failure failure = make_views(batch, row, logits, workspace, &raw, &edited);
  *result = empty_result(failure);
  if (dk_failed(failure))
    return;
  dk_distribution d = dk_distribution_of(&edited, row, batch->rules);
  if (!is_forced || dk_report_needs_distribution(row))
    run_stages(&d, batch);
  result->token_id = is_forced ? row->forced_token_id : dk_draw(&d);
  dk_report(&raw, &d, lists, result);
}

/* Write the probabilities of a distribution that has its total; the array must be all 0. */
static void write_probabilities(const dk_distribution *d, double *probabilities) {
  uint64_t *weights = d->view.workspace->weights;
  for (int32_t block = 0; block < d->view.num_blocks; block++) {
    if (d->sums[block] == 0)
      continue;
    dk_slice slice = dk_slice_of(&d->view, d->kept, block);
    d->view.kernel->weights(slice.block, slice.low, &d->scale, weights);
    for (int32_t i = 0; i < DK_BLOCK; i++)
      if (weights[i] > 0)
        probabilities[dk_id(&d->view, block * DK_BLOCK + i)] = (double)weights[i] / (double)d->total;
  }
}

void dk_row_probabilities(const decoding_batch *batch, const decoding_row *row, const void *logits,
                          dk_workspace *workspace, double *probabilities, decoding_result *result) {
  dk_view raw, edited;
  dk_failure failure = make_views(batch, row, logits, workspace, &raw, &edited);
  *result = empty_result(failure);
  for (int32_t i = 0; i < batch->vocab_size; i++)
    probabilities[i] = 0.0;
  if (dk_failed(failure))
    return;
  dk_distribution d = dk_distribution_of(&edited, row, batch->rules);
  run_stages(&d, batch);
  dk_find_total(&d);
  if (d.point >= 0)
    probabilities[d.point] = 1.0;
  else
    write_probabilities(&d, probabilities);
}
