/* Attention cut into tasks: a tile of queries of one sequence, heads that share keys and values. */
#ifndef DK_FORWARD_ATTENTION_H
#define DK_FORWARD_ATTENTION_H

#include "forward/pass.h"

/* Groups the pass's rows of queries into tiles. */
void dk_find_query_tiles(dk_pass *pass);

/* Replaces the queries of the pass's rows in `wide` by the attention's result. */
void dk_attend(const dk_pass *pass, int32_t layer);

#endif
