#include "forward/pass.h"

#include "simd/float_env.h"

#define ALIGNMENT 64

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }
static size_t padded(size_t n) { return (n + DK_PANEL - 1) / DK_PANEL * DK_PANEL; }

/* Takes count elements of `size` bytes from the memory behind *used. Saturates. */
static void *take(char *memory, size_t *used, size_t count, size_t size) {
  size_t begin = *used, bytes = 0;
  if (begin == SIZE_MAX || __builtin_mul_overflow(count, size, &bytes) ||
      __builtin_add_overflow(begin, bytes + (ALIGNMENT - bytes % ALIGNMENT) % ALIGNMENT, used)) {
    *used = SIZE_MAX;
    return NULL;
  }
  return memory == NULL ? NULL : memory + begin;
}

/* Floats of scratch of the task that needs most: a tile of normalised rows, attention, or logits on their way. */
static size_t scratch_floats(const decoding_plan *plan, size_t longest) {
  return larger(larger(DK_MAX_TILE * padded(longest), dk_attention_scratch(plan->head_dim)), DK_LOGITS_SCRATCH);
}

size_t dk_buffers_layout(const decoding_plan *plan, int32_t num_tokens, int32_t num_workers, char *memory,
                         dk_buffers *buffers) {
  const size_t tokens = (size_t)num_tokens, hidden = (size_t)plan->hidden_size, dim = (size_t)plan->head_dim;
  const size_t heads = (size_t)plan->num_heads * dim, inner = (size_t)plan->intermediate_size;
  const size_t longest = larger(larger(hidden, heads), inner);
  const size_t qkv = heads + 2 * (size_t)plan->num_kv_heads * dim, up = plan->gated ? 2 * inner : inner;
  size_t used = 0;
  if (memory != NULL) /* the caller's memory may begin anywhere */
    used = (ALIGNMENT - (size_t)((uintptr_t)memory % ALIGNMENT)) % ALIGNMENT;
  buffers->hidden_stride = (int64_t)padded(hidden);
  /* A vector more: with multiples of 4 KiB, the rows of a tile would share a few sets of the caches. */
  buffers->wide_stride = (int64_t)padded(larger(qkv, up)) + DK_PANEL;
  buffers->worker_bytes = (scratch_floats(plan, longest) * sizeof(float) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  buffers->hidden = take(memory, &used, tokens, padded(hidden) * sizeof(float));
  buffers->prepared = take(memory, &used, tokens, longest * sizeof(float));
  buffers->wide = take(memory, &used, tokens, (size_t)buffers->wide_stride * sizeof(float));
  buffers->out = take(memory, &used, tokens, padded(hidden) * sizeof(float));
  buffers->sequences = take(memory, &used, tokens, sizeof(int32_t));
  buffers->positions = take(memory, &used, tokens, sizeof(int32_t));
  buffers->rows = take(memory, &used, tokens, sizeof(int32_t));
  buffers->tiles = take(memory, &used, tokens, sizeof(dk_query_tile));
  buffers->workers = take(memory, &used, (size_t)num_workers, buffers->worker_bytes);
  if (used > (size_t)PTRDIFF_MAX - ALIGNMENT)
    return 0;
  return memory == NULL ? used + ALIGNMENT : used;
}

typedef struct pinned_task {
  decoding_task task;
  void *argument;
} pinned_task;

static void run_pinned(void *argument, int32_t index, int32_t worker) {
  const pinned_task *pinned = argument;
  uint64_t host = dk_float_env_pin();
  pinned->task(pinned->argument, index, worker);
  dk_float_env_restore(host);
}

void dk_run_tasks(const dk_pass *pass, int32_t num_tasks, decoding_task task, void *argument) {
  if (num_tasks > 1 && pass->batch->parallel_for != NULL) {
    pinned_task pinned = {task, argument};
    pass->batch->parallel_for(pass->batch->host, num_tasks, run_pinned, &pinned);
    return;
  }
  for (int32_t i = 0; i < num_tasks; i++)
    task(argument, i, 0);
}

float *dk_worker_scratch(const dk_pass *pass, int32_t worker) {
  return (float *)(void *)(pass->buffers.workers + (size_t)worker * pass->buffers.worker_bytes);
}
