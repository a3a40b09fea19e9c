#include "decoding.h"
#include "python/thread_pool.h"

#include "python/decode_steps.h"
#include "python/rows.h" /* uses the types above */
