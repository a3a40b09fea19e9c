/* The self-test: rows that go through the stages whose arithmetic a compiler can change, and all bits of a few doubles,
 * where contraction shows that a result of float32 mostly hides. tests/embed/test_wrong_builds.py builds it wrongly. */
#include <stddef.h>
#include <string.h>

#include "decoding.h"
#include "sampling/log_exp.h"
#include "sampling/philox.h"

#define VOCAB_SIZE 1000
#define NUM_ROWS 32
#define EXPECTED 0x30DB794ACF1B297Cu /* of DECODING_STREAM_VERSION 1 */

/* Exact in float32: multiples of 2^-16 from -16 to 16. */
static void make_logits(uint64_t seed, float logits[VOCAB_SIZE]) {
  const uint64_t key[2] = {seed, 0};
  for (uint64_t i = 0; i < VOCAB_SIZE; i += 4) {
    const uint64_t counter[4] = {i, 0, 0, 0};
    uint64_t words[4];
    dk_philox4x64(counter, key, words);
    for (uint64_t j = 0; j < 4; j++)
      logits[i + j] = (float)((int32_t)(words[j] >> 43) - (1 << 20)) * 0x1p-16f;
  }
}

/* Each bit of the index turns on one group of stages. */
static decoding_row make_row(uint32_t index) {
  decoding_row row;
  decoding_row_init(&row);
  row.seed = index;
  for (int32_t i = 0; i < DECODING_MAX_MODES; i++)
    row.logprobs_modes[i] = DECODING_LOGPROBS_RAW + i;
  row.temperature = index & 1u ? 2.7f : 0.9f;
  if (index & 2u) {
    row.top_p = 0.93f;
    row.min_p = 0.001f;
  }
  if (index & 4u) {
    row.typical_p = 0.9f;
    row.top_n_sigma = 3.1f;
    row.eta_cutoff = 0.0004f;
  }
  if (index & 8u) {
    row.dynatemp_range = 0.6f;
    row.dynatemp_exponent = 1.3f;
    row.smoothing_factor = 0.07f;
    row.smoothing_curve = 1.5f;
  }
  if (index & 16u) {
    row.flags |= DECODING_MIROSTAT;
    row.mirostat_mu = 4.3;
  }
  return row;
}

static uint64_t add_to_hash(uint64_t hash, const void *data, size_t size) { /* FNV-1a */
  const unsigned char *bytes = data;
  for (size_t i = 0; i < size; i++)
    hash = (hash ^ bytes[i]) * 0x100000001B3u;
  return hash;
}

static uint64_t hash_of_doubles(void) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (int i = 1; i <= 256; i++) {
    double numbers[2] = {dk_log(i * 0.37), dk_exp(i * -0.37)};
    hash = add_to_hash(hash, numbers, sizeof numbers);
  }
  return hash;
}

/* Return the hash of all results, or 0 if the library refuses the batch. */
static uint64_t hash_of_results(void *workspace, size_t workspace_size) {
  uint64_t hash = hash_of_doubles();
  float logits[VOCAB_SIZE];
  for (uint32_t i = 0; i < NUM_ROWS; i++) {
    decoding_row row = make_row(i);
    const decoding_row *rows[1] = {&row};
    decoding_result result;
    make_logits(i, logits);
    decoding_batch batch = {.struct_size = sizeof batch,
                            .dtype = DECODING_FLOAT32,
                            .vocab_size = VOCAB_SIZE,
                            .num_valid_tokens = VOCAB_SIZE,
                            .num_rows = 1,
                            .logits = logits,
                            .rows = rows,
                            .results = &result,
                            .workspace = workspace,
                            .workspace_size = workspace_size};
    if (decoding_sample(&batch) != DECODING_OK)
      return 0;
    hash = add_to_hash(hash, &result.token_id, sizeof result.token_id);
    hash = add_to_hash(hash, &result.raw_logprob, sizeof result.raw_logprob);
    hash = add_to_hash(hash, result.logprobs, sizeof result.logprobs);
    if (row.flags & DECODING_MIROSTAT)
      hash = add_to_hash(hash, &result.surprise, sizeof result.surprise);
  }
  return hash;
}

int32_t decoding_self_test(void *workspace, size_t workspace_size) {
  if (workspace == NULL || workspace_size < decoding_workspace_size(VOCAB_SIZE, 0))
    return DECODING_SMALL_WORKSPACE;
  return hash_of_results(workspace, workspace_size) == EXPECTED ? DECODING_OK : DECODING_WRONG_BUILD;
}
