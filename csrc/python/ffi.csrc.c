#include "decoding.h"
#include "python/ffi.watch.h"
