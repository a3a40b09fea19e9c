/* A pool of threads for the forward pass: the Python module's parallel_for. The library itself starts no threads. */
#ifndef DECODING_THREAD_POOL_H
#define DECODING_THREAD_POOL_H

#include "decoding.h"

typedef struct dk_thread_pool dk_thread_pool;

/* A pool of num_threads threads, the calling one among them; the others start with the first work. Null without
 * memory. */
dk_thread_pool *dk_thread_pool_new(int32_t num_threads);

/* Ends the threads and frees the pool, which must not be at work. */
void dk_thread_pool_free(dk_thread_pool *pool);

/* Threads that run, the calling one among them: fewer than asked for where the system refuses more. */
int32_t dk_thread_pool_running(const dk_thread_pool *pool);

/* A decoding_parallel_for: `host` is the pool. One call at a time per pool. */
void dk_thread_pool_run(void *host, int32_t num_tasks, decoding_task task, void *argument);

#endif
