/* State shared by all parts of a forward pass. */
#ifndef DK_PASS_H
#define DK_PASS_H

#include "decoding.h"
#include "forward/kernels.h"
#include "forward/quantised.h"

#define DK_TOKEN_BLOCK 72     /* tokens per task, whole tiles of any set: their inputs should fit the L2 cache */
#define DK_QUANTISED_BLOCK 64 /* with quantised weights: whole tiles */
#define DK_QUANTISED_TILE 16  /* rows, a multiple of every set's */
#define DK_LOGITS_PANELS 4    /* panels of logits that a task computes at once in its scratch */
#define DK_LOGITS_SCRATCH ((size_t)DK_TOKEN_BLOCK * DK_LOGITS_PANELS * DK_PANEL)

/* A query tile: tokens of one sequence whose queries share a pass over its keys. */
typedef struct dk_query_tile {
  int32_t first_row;
  int32_t num_rows;
} dk_query_tile;

/* Buffers cut from the caller's workspace; rows are padded to whole vectors. M: tokens. */
typedef struct dk_buffers {
  float *hidden;         /* [M][hidden] */
  float *prepared;       /* [M][longest input]: input of a matmul, tile after tile */
  float *wide;           /* [M][wide]: queries, keys and values; later the MLP's inner activations */
  float *out;            /* [M][hidden]: output of attention or MLP */
  int32_t *sequences;    /* [M] of each token */
  int32_t *positions;    /* [M] of each token */
  int32_t *rows;         /* [M] the token that each row of queries belongs to */
  dk_query_tile *tiles;  /* [M] */
  char *workers;         /* [num_workers][worker_bytes] */
  size_t worker_bytes;   /* scratch of one worker: the largest that a task needs */
  int64_t hidden_stride; /* elements */
  int64_t wide_stride;   /* elements */
} dk_buffers;

typedef struct dk_pass {
  const decoding_plan *plan;
  const decoding_forward_batch *batch;
  const dk_forward_kernel *kernel;
  const dk_quantised_kernel *quantised;
  dk_buffers buffers;
  int32_t num_tokens;
  int32_t num_rows;   /* rows of queries: all tokens, or those that logits are wanted for */
  int32_t num_tiles;  /* query tiles of those rows */
  const float *input; /* prepared input of the next matmul */
} dk_pass;

/* With memory = NULL this only measures. Returns bytes, or 0 where they do not fit a size_t. */
size_t dk_buffers_layout(const decoding_plan *plan, int32_t num_tokens, int32_t num_workers, char *memory,
                         dk_buffers *buffers);

/* Runs task(argument, i, worker) for each i, by parallel_for if there is more than one, with rounding modes pinned. */
void dk_run_tasks(const dk_pass *pass, int32_t num_tasks, decoding_task task, void *argument);

/* The scratch of a worker. */
float *dk_worker_scratch(const dk_pass *pass, int32_t worker);

#endif
