#include "decoding.h"
#include "python/bitmasks.h"
#include "python/thread_pool.h"
