/* Draw ten tokens from a buffer of logits. Compiles as C11 and as C++17. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decoding.h"

#define VOCAB_SIZE 1000

int main(void) {
  static float logits[VOCAB_SIZE];
  for (int i = 0; i < VOCAB_SIZE; i++)
    logits[i] = (float)((i * 7919) % 997) / 100.0f;

  decoding_row row;
  memset(&row, 0, sizeof row); /* no history, no bias, no masks */
  row.struct_size = sizeof row;
  row.seed = 42;
  row.temperature = 0.8f;
  row.top_p = 0.95f;
  row.top_k = 50;
  row.typical_p = 1.0f;
  row.top_n_sigma = INFINITY;
  row.repetition_penalty = 1.0f;
  row.top_h = row.tfs = 1.0f;
  row.min_k = INFINITY;
  row.logprobs_modes[0] = DECODING_LOGPROBS_RAW;

  size_t workspace_size = decoding_workspace_size(VOCAB_SIZE, 0);
  void *workspace = malloc(workspace_size);
  if (workspace == NULL)
    return 1;

  const decoding_row *rows[1] = {&row};
  decoding_result result;
  decoding_batch batch;
  memset(&batch, 0, sizeof batch);
  batch.struct_size = sizeof batch;
  batch.dtype = DECODING_FLOAT32;
  batch.vocab_size = VOCAB_SIZE;
  batch.num_valid_tokens = VOCAB_SIZE;
  batch.num_rows = 1;
  batch.logits = logits;
  batch.rows = rows;
  batch.results = &result;
  batch.workspace = workspace;
  batch.workspace_size = workspace_size;

  printf("instruction set: %s\n", decoding_active_isa());
  int32_t status = DECODING_OK;
  for (row.position = 0; row.position < 10 && status == DECODING_OK; row.position++) {
    status = decoding_sample(&batch);
    if (status == DECODING_OK)
      printf("%d (%.4f) ", (int)result.token_id, (double)result.logprobs[0]);
  }
  printf("\n%s\n", decoding_status_message(status));
  free(workspace);
  return status == DECODING_OK ? 0 : 1;
}
