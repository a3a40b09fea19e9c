/* Intel AMX: the processor and the permission of Linux. */
#ifndef DK_AMX_H
#define DK_AMX_H

#include <stdbool.h>

/* Ask Linux for the tiles for this process. Returns true if this CPU has them and Linux grants them. */
bool dk_request_tiles(void);

#endif
