/* The layout of packed weights: [panel of 16 outputs][input][16 outputs], padded with zeros to whole panels. For that
 * of quantised types see quantised.h. */
#ifndef DK_PACK_H
#define DK_PACK_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of one number; 0 for an unknown or a quantised type. */
size_t dk_element_size(int32_t type);

/* Bytes of one panel; 0 where the type is unknown or does not have rows of so many numbers. */
size_t dk_packed_panel_bytes(int32_t type, int32_t num_inputs);

/* Panels that so many outputs take. */
int32_t dk_num_panels(int32_t num_outputs);

#endif
