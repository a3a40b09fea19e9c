#include "decoding.h"
#include "ffi.watch.h"
