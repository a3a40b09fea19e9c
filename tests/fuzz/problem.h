/* Declarations for all parts of the fuzzer: bytes as a sequence of choices, a batch with its memory, REQUIRE. */
#ifndef FUZZ_PROBLEM_H
#define FUZZ_PROBLEM_H

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decoding.h"

#define MAX_ROWS 3
#define MAX_VOCAB 5000
#define MAX_TOP 40
#define MAX_CONTEXT 48
#define MAX_BUFFERS 80
#define NUM_OF(array) ((uint32_t)(sizeof(array) / sizeof(array)[0]))

#define REQUIRE(condition)                                                                                             \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, #condition);                                  \
      abort();                                                                                                         \
    }                                                                                                                  \
  } while (0)

typedef struct choices {
  const uint8_t *bytes;
  size_t size;
} choices;

/* Returns the next bytes of the input, and zeros past its end. */
static inline uint32_t take(choices *in, int num_bytes) {
  uint32_t value = 0;
  for (int i = 0; i < num_bytes && in->size > 0; i++, in->size--)
    value = value << 8 | *in->bytes++;
  return value;
}

static inline uint32_t below(choices *in, uint32_t n) { return take(in, n <= 256 ? 1 : 2) % n; }

static inline int one_in(choices *in, uint32_t n) { return below(in, n) == n - 1; }

typedef struct buffer {
  char *start;
  size_t size;
} buffer;

typedef struct problem {
  decoding_batch batch;
  decoding_row *rows[MAX_ROWS]; /* batch.rows, for writing */
  int has_wild_id;              /* an id outside the vocabulary was planted */
  int64_t max_edits;            /* num_history + num_bias + num_context of the largest row */
  buffer inputs[MAX_BUFFERS];
  int num_inputs;
} problem;

void make_problem(choices *in, problem *p);
void free_problem(problem *p);

/* Allocates zeros of exactly this size, which free_problem frees. */
void *input_array(problem *p, size_t size);

/* Makes the logits of the batch and their memory layout. */
void make_logits(choices *in, problem *p);

/* Makes the parameters of a row, and the arrays that they point to. */
decoding_row *make_row(choices *in, problem *p);

float as_float(uint32_t bits);
float finite_float(choices *in);       /* any but NaN and infinities */
uint64_t next_random(uint64_t *state); /* splitmix64 */

static inline size_t element_size(const decoding_batch *batch) { return batch->dtype == DECODING_FLOAT32 ? 4 : 2; }

/* Returns an id below or above the vocabulary. */
int32_t wild_id(choices *in, int32_t vocab_size);

/* Returns FNV-1a over all memory that the library must not change. */
uint64_t digest_inputs(const problem *p);

/* Runs a problem in every way that must give the same bits, and checks the results against decoding.h. */
void check_promises(const problem *p);

/* Makes one part of a problem invalid: both functions must refuse it and write nothing. */
void check_refusal(choices *in, problem *p);

#endif
