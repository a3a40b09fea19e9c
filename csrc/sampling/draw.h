/* Internal: the draw of one token from a distribution. */
#ifndef DK_DRAW_H
#define DK_DRAW_H

#include "sampling/distribution.h"

/* Return true if the row is drawn by rejection: nothing but stage temperature and then min_p changes its distribution.
 * The batch must list its stages. */
bool dk_draws_by_rejection(const decoding_batch *batch, const decoding_row *row);

/* Draw one token. A distribution that is not drawn by rejection must have its total. */
int32_t dk_draw(const dk_distribution *d);

#endif
