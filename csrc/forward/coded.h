/* Panels of bfloat16 weights in 12 bits each: see simd/coded_bfloat16.h. */
#ifndef DK_CODED_H
#define DK_CODED_H

#include <stddef.h>
#include <stdint.h>

/* Bytes before the groups of a panel. */
size_t dk_coded_header_bytes(int32_t num_inputs);

/* Bytes of a panel; 0 if num_inputs is not a multiple of 4, or too large for the index of an exception. */
size_t dk_coded_panel_bytes(int32_t num_inputs);

#endif
