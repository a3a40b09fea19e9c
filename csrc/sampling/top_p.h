/* Internal: the search for the prefix that has a given fraction of the mass. */
#ifndef DK_TOP_P_H
#define DK_TOP_P_H

#include "sampling/prefix.h"

/* Return the shortest prefix of `within` whose mass is at least (if `exceeds`, above) top_p times the mass of `within`,
 * and at least one token. sums[block] is set to the mass of each block in the result. */
dk_prefix dk_select_by_mass(const dk_view *view, dk_prefix within, const dk_scale *scale, float top_p, bool exceeds,
                            uint64_t *sums);

#endif
