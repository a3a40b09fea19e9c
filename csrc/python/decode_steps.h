/* Private to the Python module: decoding steps in a row, as one call. */
#ifndef DK_PYTHON_DECODE_STEPS_H
#define DK_PYTHON_DECODE_STEPS_H

#include "decoding.h"
#include "python/thread_pool.h"

/* Steps of the same sequences: a forward pass of each one's newest token, a draw from its row of logits, and so on with
 * the drawn tokens. What is not const is updated from step to step. */
typedef struct dk_decode_steps {
  const decoding_plan *plan;
  const decoding_forward_batch *forward; /* one new token and one row of logits per sequence */
  const decoding_batch *sampling;        /* of these rows; room for the results and reports of num_steps * num_rows */
  dk_thread_pool *pool;                  /* the threads of the draws */
  int32_t num_parts;                     /* tasks of a draw, as of dk_sample_in_parts; 1: without the pool */
  int32_t num_steps;                     /* >= 1 */
  int32_t num_done;                      /* steps that are done: their results are written, their tokens recorded */
  int32_t *token_ids;                    /* [num_rows], that of `forward` */
  int32_t *start;                        /* [num_rows], that of `forward` */
  const float **rotary;                  /* [num_ropes, num_rows], that of `forward` */
  decoding_row *const *rows;             /* [num_rows], that of `sampling` */
  decoding_history *const *histories;    /* [num_rows], entries may be null; with room for num_steps tokens */
  const int32_t *ending_ids;             /* [num_ending] a step that draws one of them is the last */
  int32_t num_ending;
  int32_t reserved;
  const volatile int32_t *interrupted; /* another thread sets it to 1: no further step */
} dk_decode_steps;

/* Runs steps until num_steps are done, one draws an ending id or has a row that fails, or `interrupted` is set; at
 * least one. Returns what decoding_forward or decoding_sample returns that is not DECODING_OK; after
 * DECODING_SMALL_WORKSPACE the call may be repeated with a larger workspace for `sampling`. */
int32_t dk_decode(dk_decode_steps *steps);

#endif
