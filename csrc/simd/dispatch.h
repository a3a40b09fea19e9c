/* Internal: the instruction set in use. Each part of the library keeps a table of its functions per instruction set,
 * indexed by dk_isa. */
#ifndef DK_DISPATCH_H
#define DK_DISPATCH_H

#include <stdbool.h>

/* Every instruction set that any build of the library can have, widest first. */
typedef enum dk_isa { DK_AVX512, DK_AVX2, DK_NEON, DK_PORTABLE, DK_NUM_ISAS } dk_isa;

/* Return the set that decoding_force_isa chose, otherwise the widest one that this CPU runs. Never a set that this
 * build does not have. */
dk_isa dk_active_isa(void);

/* Return true if this CPU has the instructions for products of bytes that extend a set: VNNI of AVX-512 or AVX2, or
 * dotprod of 64-bit ARM. They change no bit, so they are no set of their own. */
bool dk_has_byte_products(dk_isa isa);

#endif
