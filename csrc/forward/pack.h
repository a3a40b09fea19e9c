/* The layout of packed weights: [panel of 16 outputs][input][16 outputs], padded with zeros to whole panels. */
#ifndef DK_PACK_H
#define DK_PACK_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of one number; 0 for an unknown type. */
size_t dk_element_size(int32_t type);

/* Panels that so many outputs take. */
int32_t dk_num_panels(int32_t num_outputs);

#endif
