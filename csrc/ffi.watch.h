/* What the Python module has beside the library: waiting awake. A thread that sleeps takes longer to wake up than a
 * product of a matrix with a vector takes; one that watches a number is there within a microsecond.
 * decoding/kernel/watch.py says it in Python, decoding/models/crew.py uses it. */
#ifndef DECODING_FFI_WATCH_H
#define DECODING_FFI_WATCH_H

#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

static int64_t dk_nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Raises *raised by one (NULL: nothing), then watches *watched until it has come to `target`, for `patience`
 * nanoseconds at most, and goes on to wait for another `delay` nanoseconds once it has. Whether it has. */
static int dk_watch(int64_t *raised, const int64_t *watched, int64_t target, int64_t patience, int64_t delay) {
  if (raised)
    atomic_fetch_add_explicit((_Atomic int64_t *)raised, 1, memory_order_release);
  const _Atomic int64_t *number = (const _Atomic int64_t *)watched;
  int64_t start = dk_nanoseconds();
  while (atomic_load_explicit(number, memory_order_acquire) < target) {
    /* Asking for the time takes some 30 ns, in which the number's memory is left alone. */
    if (dk_nanoseconds() - start >= patience)
      return 0;
  }
  if (delay > 0) {
    start = dk_nanoseconds();
    while (dk_nanoseconds() - start < delay)
      continue;
  }
  return 1;
}

#endif
