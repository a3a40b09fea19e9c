/* Tasks are handed out one by one, by a counter that all threads take from, so a thread that the system has put aside
 * holds up no more than its own task. A thread without work spins for SPIN_NANOSECONDS, then sleeps: between two
 * matmuls of a step it is there within a microsecond, between two steps usually, and an idle model costs nothing.
 * Whoever spins offers the CPU to other threads all the while.
 *
 * The counter holds the number of the job in its upper half and the tasks that are left in its lower one. A thread that
 * has taken a task may read the job: the job cannot end before the task has. */
#define _DEFAULT_SOURCE
#include "python/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define SPIN_NANOSECONDS 200000
#define LOOKS_PER_YIELD 64
#define APART 128 /* bytes; two lines of the cache, which processors fetch together */
#define TASKS_LEFT UINT64_C(0xFFFFFFFF)
#define ONE_JOB (UINT64_C(1) << 32)

typedef struct worker {
  dk_thread_pool *pool;
  pthread_t thread;
  int32_t index;
} worker;

struct dk_thread_pool {
  _Alignas(APART) _Atomic uint64_t counter;
  _Alignas(APART) _Atomic int32_t unfinished; /* tasks of the job that are not done */
  _Alignas(APART) _Atomic int32_t sleeping;   /* threads that wait for `wake` */
  _Atomic int32_t is_ending;
  /* The job. Written before the counter, read by threads that hold a task of it. */
  int32_t num_tasks;
  decoding_task task;
  void *argument;
  /* Used by the calling thread only. */
  uint64_t num_jobs;
  int32_t num_threads;
  int32_t num_running; /* threads besides the calling one */
  int32_t forks;       /* of `fork_count`, when the threads were started */
  int32_t has_started;
  pthread_mutex_t mutex;
  pthread_cond_t wake;
  worker workers[];
};

static _Atomic int32_t fork_count; /* in this process and those that it was forked from */
static pthread_once_t watches_forks = PTHREAD_ONCE_INIT;

static void count_fork(void) { atomic_fetch_add(&fork_count, 1); }
static void watch_forks(void) { (void)pthread_atfork(NULL, NULL, count_fork); }

static int64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* The other thread of the same core needs it more than a loop that waits. */
static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");
#endif
}

/* Runs one task if there is one left. */
static int run_one(dk_thread_pool *pool, int32_t worker) {
  uint64_t counter = atomic_load_explicit(&pool->counter, memory_order_acquire);
  do {
    if ((counter & TASKS_LEFT) == 0)
      return 0;
  } while (!atomic_compare_exchange_weak_explicit(&pool->counter, &counter, counter - 1, memory_order_acquire,
                                                  memory_order_acquire));
  pool->task(pool->argument, pool->num_tasks - (int32_t)(counter & TASKS_LEFT), worker);
  atomic_fetch_sub_explicit(&pool->unfinished, 1, memory_order_release);
  return 1;
}

/* True if there may be something to do. */
static int has_news(dk_thread_pool *pool) {
  return (atomic_load(&pool->counter) & TASKS_LEFT) != 0 || atomic_load(&pool->is_ending);
}

static void sleep_until_news(dk_thread_pool *pool) {
  pthread_mutex_lock(&pool->mutex);
  atomic_fetch_add(&pool->sleeping, 1);
  while (!has_news(pool))
    pthread_cond_wait(&pool->wake, &pool->mutex);
  atomic_fetch_sub(&pool->sleeping, 1);
  pthread_mutex_unlock(&pool->mutex);
}

static void wait_for_news(dk_thread_pool *pool) {
  const int64_t start = nanoseconds();
  for (int64_t look = 1; !has_news(pool); look++) {
    relax();
    if (look % LOOKS_PER_YIELD != 0)
      continue;
    if (nanoseconds() - start >= SPIN_NANOSECONDS) {
      sleep_until_news(pool);
      return;
    }
    sched_yield();
  }
}

static void *work(void *argument) {
  const worker *self = argument;
  dk_thread_pool *pool = self->pool;
  while (!atomic_load(&pool->is_ending)) {
    while (run_one(pool, self->index))
      continue;
    wait_for_news(pool);
  }
  return NULL;
}

static void wake_all(dk_thread_pool *pool) {
  if (atomic_load(&pool->sleeping) == 0)
    return;
  pthread_mutex_lock(&pool->mutex);
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->mutex);
}

/* Threads do not survive a fork, nor does what they held: the child begins anew. Signals are for other threads. */
static void start_threads(dk_thread_pool *pool) {
  sigset_t all, before;
  pool->forks = atomic_load(&fork_count);
  pool->has_started = 1;
  pool->num_running = 0;
  atomic_store(&pool->sleeping, 0);
  atomic_store(&pool->unfinished, 0);
  atomic_store(&pool->counter, pool->num_jobs * ONE_JOB);
  pthread_mutex_init(&pool->mutex, NULL);
  pthread_cond_init(&pool->wake, NULL);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  while (pool->num_running < pool->num_threads - 1) {
    worker *next = pool->workers + pool->num_running;
    *next = (worker){.pool = pool, .index = pool->num_running + 1};
    if (pthread_create(&next->thread, NULL, work, next) != 0)
      break;
    pool->num_running++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static int has_threads(const dk_thread_pool *pool) {
  return pool->has_started && pool->forks == atomic_load(&fork_count);
}

dk_thread_pool *dk_thread_pool_new(int32_t num_threads) {
  if (num_threads < 1 || pthread_once(&watches_forks, watch_forks) != 0)
    return NULL;
  size_t size = sizeof(dk_thread_pool) + (size_t)num_threads * sizeof(worker);
  dk_thread_pool *pool = aligned_alloc(APART, (size + APART - 1) / APART * APART);
  if (pool == NULL)
    return NULL;
  *pool = (dk_thread_pool){.num_threads = num_threads};
  return pool;
}

void dk_thread_pool_free(dk_thread_pool *pool) {
  if (pool == NULL)
    return;
  if (has_threads(pool)) {
    atomic_store(&pool->is_ending, 1);
    wake_all(pool);
    for (int32_t i = 0; i < pool->num_running; i++)
      pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
  }
  free(pool);
}

int32_t dk_thread_pool_running(const dk_thread_pool *pool) { return has_threads(pool) ? pool->num_running + 1 : 1; }

void dk_thread_pool_run(void *host, int32_t num_tasks, decoding_task task, void *argument) {
  dk_thread_pool *pool = host;
  if (!has_threads(pool))
    start_threads(pool);
  pool->task = task;
  pool->argument = argument;
  pool->num_tasks = num_tasks;
  pool->num_jobs = (pool->num_jobs + 1) & TASKS_LEFT;
  atomic_store_explicit(&pool->unfinished, num_tasks, memory_order_relaxed);
  atomic_store(&pool->counter, pool->num_jobs * ONE_JOB + (uint64_t)num_tasks);
  wake_all(pool);
  while (run_one(pool, 0))
    continue;
  for (int64_t look = 1; atomic_load_explicit(&pool->unfinished, memory_order_acquire) != 0; look++) {
    relax();
    if (look % LOOKS_PER_YIELD == 0)
      sched_yield();
  }
}
