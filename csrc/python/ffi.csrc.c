#include "decoding.h"
#include "python/thread_pool.h"
