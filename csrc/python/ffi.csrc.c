#include "decoding.h"
#include "python/ffi.watch.h"
#include "python/thread_pool.h"
