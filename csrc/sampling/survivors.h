/* Internal: replacing a distribution's view by a list of its remaining tokens, the survivors. Needed where they are no
 * prefix, and faster where they are few: later stages read the list instead of the row. */
#ifndef DK_SURVIVORS_H
#define DK_SURVIVORS_H

#include "sampling/distribution.h"

/* Copy the tokens of a prefix to the survivors; the view may be the survivors themselves. Returns their number. */
int32_t dk_gather_survivors(const dk_view *view, dk_prefix prefix);

/* Remove the survivors whose value is -inf. Returns the number that remain. */
int32_t dk_compact_survivors(const dk_entries *survivors, int32_t n);

/* Make the first n survivors the view. All of them are kept. */
void dk_use_survivors(dk_distribution *d, int32_t n);

/* Make the first n entries of the workspace's list the view, those that the distribution keeps. */
void dk_use_list(dk_distribution *d, int32_t n);

/* Make all tokens that the distribution keeps the view. */
void dk_use_kept(dk_distribution *d);

#endif
