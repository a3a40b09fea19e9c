/* What the Python module has beside the library: waiting awake (spinning). A thread that sleeps takes longer to wake up
 * than a product of a matrix with a vector takes; one that watches a number is there within a microsecond.
 * decoding/kernel/watch.py says it in Python, decoding/models/crew.py uses it. */
#ifndef DECODING_FFI_WATCH_H
#define DECODING_FFI_WATCH_H

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

static int64_t dk_nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* What a loop that waits should do in between: the other thread of the same core needs it more. */
static void dk_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");
#endif
}

/* Waits until *number has come to `target`, for `nanoseconds` at most. Whether it has. Now and then the CPU is offered
 * to threads that have something to do. */
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

/* Raises *raised by one (NULL: nothing), then watches *watched until it has come to `target`, for `patience`
 * nanoseconds at most, and goes on to wait for another `delay` nanoseconds once it has. Whether it has. */
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
