/* Private header of the Python module: waiting by spinning. A thread that sleeps takes longer to wake up than a
 * matrix-vector product takes; a spinning thread reacts within a microsecond. Used by decoding/kernel/watch.py. */
#ifndef DECODING_FFI_WATCH_H
#define DECODING_FFI_WATCH_H

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

/* Increment *raised (if it is not null), then spin until *watched has reached `target`, for `patience` nanoseconds at
 * most. Then spin for another `delay` nanoseconds and return 1; return 0 if the target was not reached. */
static int dk_watch(int64_t *raised, const int64_t *watched, int64_t target, int64_t patience, int64_t delay);

static int64_t dk_nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Leave the core to its other thread for a moment. */
static void dk_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");
#endif
}

/* Spin until *number has reached `target`, for `nanoseconds` at most. Returns 1 if it has. Yields to other threads now
 * and then. */
static int dk_reached(const _Atomic int64_t *number, int64_t target, int64_t nanoseconds) {
  int64_t start = dk_nanoseconds();
  for (int64_t look = 1; atomic_load_explicit(number, memory_order_acquire) < target; ++look) {
    dk_relax();
    if (look % 64)
      continue;
    if (dk_nanoseconds() - start >= nanoseconds)
      return 0;
    sched_yield();
  }
  return 1;
}

static int dk_watch(int64_t *raised, const int64_t *watched, int64_t target, int64_t patience, int64_t delay) {
  if (raised) {
    atomic_fetch_add_explicit((_Atomic int64_t *)raised, 1, memory_order_release);
  }
  if (!dk_reached((const _Atomic int64_t *)watched, target, patience))
    return 0;
  for (int64_t start = dk_nanoseconds(); dk_nanoseconds() - start < delay;)
    dk_relax();
  return 1;
}

#endif
