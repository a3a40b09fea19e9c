#include "decoding.h"
#include "python/rows.h"
#include "python/thread_pool.h"
