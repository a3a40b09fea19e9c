/* Makes a batch, with the memory that it points to, from choices. */
#include "problem.h"

void *input_array(problem *p, size_t size) {
  REQUIRE(p->num_inputs < MAX_BUFFERS);
  char *start = calloc(1, size);
  p->inputs[p->num_inputs++] = (buffer){start, size};
  return start;
}

uint64_t digest_inputs(const problem *p) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (int b = 0; b < p->num_inputs; b++)
    for (size_t i = 0; i < p->inputs[b].size; i++)
      hash = (hash ^ (uint8_t)p->inputs[b].start[i]) * 0x100000001B3u;
  return hash;
}

static int32_t pick_vocab_size(choices *in) {
  static const int32_t sizes[] = {1, 2, 15, 16, 17, 31, 32, 33, 255, 256, 257, 511, 513, 1024, 4096, 4097};
  return one_in(in, 2) ? sizes[below(in, NUM_OF(sizes))] : 1 + (int32_t)below(in, MAX_VOCAB);
}

/* Sets the default order of stages, or any order of those before temperature and of those from temperature on. */
static void make_stages(choices *in, problem *p) {
  static const int32_t all[] = {20, 30, 35, 40, 50, 70, 80, 81, 82, 83,  84, 90,
                                91, 92, 93, 94, 95, 96, 97, 98, 99, 101, 102};
  if (!one_in(in, 3))
    return;
  int32_t *stages = input_array(p, sizeof all);
  memcpy(stages, all, sizeof all);
  for (uint32_t i = NUM_OF(all) - 3; i > 0; i--) { /* 101 and 102 stay at the end */
    uint32_t first = i < 6 ? 0 : 6, other = first + below(in, i - first + 1);
    int32_t stage = stages[i];
    stages[i] = stages[other];
    stages[other] = stage;
  }
  p->batch.stages = stages;
  p->batch.num_stages = (int32_t)NUM_OF(all);
}

void make_problem(choices *in, problem *p) {
  decoding_batch *batch = &p->batch;
  *p = (problem){.batch = {.struct_size = sizeof *batch}};
  batch->dtype = (int32_t)below(in, 3);
  batch->vocab_size = pick_vocab_size(in);
  batch->num_valid_tokens = batch->vocab_size - (one_in(in, 4) ? (int32_t)below(in, (uint32_t)batch->vocab_size) : 0);
  batch->num_rows = (int32_t)(1 + below(in, MAX_ROWS + 1)) % (MAX_ROWS + 1);
  batch->flags = one_in(in, 4) ? DECODING_MASK_NAN : 0;
  batch->rules = one_in(in, 2) ? below(in, 8) : 0;
  batch->top_stride = one_in(in, 2) ? below(in, MAX_TOP) : 3;
  batch->top_modes = 1 + below(in, DECODING_MAX_MODES);
  batch->chosen_stride = below(in, 4);
  make_stages(in, p);
  make_logits(in, p);
  const decoding_row **pointers = input_array(p, (size_t)batch->num_rows * sizeof *pointers);
  for (int32_t i = 0; i < batch->num_rows; i++)
    pointers[i] = p->rows[i] = make_row(in, p);
  batch->rows = pointers;
}

void free_problem(problem *p) {
  for (int b = 0; b < p->num_inputs; b++)
    free(p->inputs[b].start);
}
