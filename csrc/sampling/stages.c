/* The stages that a batch can order and leave out, in the default order. */
#include "sampling/stages.h"

#include <stddef.h>

static const int32_t DEFAULT_STAGES[] = {
    DECODING_STAGE_REPETITION_PENALTY,
    DECODING_STAGE_FREQUENCY_PRESENCE,
    DECODING_STAGE_DRY,
    DECODING_STAGE_CONTEXT_FREQUENCY_PENALTY,
    DECODING_STAGE_LOGIT_BIAS,
    DECODING_STAGE_HARD_MASKS,
    DECODING_STAGE_TEMPERATURE,
    DECODING_STAGE_TOP_H,
    DECODING_STAGE_P_LESS,
    DECODING_STAGE_MIN_K,
    DECODING_STAGE_TFS,
    DECODING_STAGE_TOP_K,
    DECODING_STAGE_TOP_P,
    DECODING_STAGE_MIN_P,
    DECODING_STAGE_TYPICAL_P,
    DECODING_STAGE_TOP_N_SIGMA,
    DECODING_STAGE_EPSILON_CUTOFF,
    DECODING_STAGE_ETA_CUTOFF,
    DECODING_STAGE_TOP_A,
    DECODING_STAGE_XTC,
    DECODING_STAGE_MIROSTAT,
    DECODING_STAGE_ADAPTIVE_P,
    DECODING_STAGE_SKEW,
};
#define NUM_DEFAULT_STAGES ((int32_t)(sizeof DEFAULT_STAGES / sizeof DEFAULT_STAGES[0]))

static bool contains(const int32_t *stages, int32_t num_stages, int32_t stage) {
  for (int32_t i = 0; i < num_stages; i++)
    if (stages[i] == stage)
      return true;
  return false;
}

decoding_batch dk_with_stages(const decoding_batch *batch) {
  decoding_batch filled = *batch;
  if (filled.stages == NULL) {
    filled.stages = DEFAULT_STAGES;
    filled.num_stages = NUM_DEFAULT_STAGES;
  }
  return filled;
}

bool dk_is_listable_stage(int32_t stage) { return contains(DEFAULT_STAGES, NUM_DEFAULT_STAGES, stage); }

bool dk_has_stage(const decoding_batch *batch, int32_t stage) {
  return contains(batch->stages, batch->num_stages, stage);
}
