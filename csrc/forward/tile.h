/* The one inner loop of matmul and attention: a tile of tokens times panels, in registers.
 *
 * Each number of the tile is a chain of fused multiply-adds in the order of k, so the shape of the tile cannot change a
 * bit. Shapes follow the registers of the set: tokens * panels accumulators of sixteen lanes, the vectors of one step,
 * and one number of a token in all lanes. A fused multiply-add has a latency of 4 and a throughput of 2 per cycle on
 * all x86 processors of interest, so 8 registers of accumulators or more keep both units busy. */
#ifndef DK_TILE_H
#define DK_TILE_H

#include "forward/partial_lanes.h"

#if defined(DK_ISA_AVX512) /* 32 registers, 16 lanes each */
#define DK_TILE 9
#define DK_WIDE(tokens) 3
#elif defined(DK_ISA_AVX2) /* 16 registers, 8 lanes each */
#define DK_TILE 6
#define DK_WIDE(tokens) ((tokens) == 1 ? 4 : (tokens) <= 3 ? 2 : 1)
#elif defined(DK_ISA_NEON) /* 32 registers, 4 lanes each */
#define DK_TILE 6
#define DK_WIDE(tokens) ((tokens) <= 3 ? 2 : 1)
#else /* plain C: small code */
#define DK_TILE 2
#define DK_WIDE(tokens) 1
#endif

#define DK_MAX_WIDE 4
#if defined(DK_ISA_PORTABLE)
#define DK_UNROLL
#else
#define DK_UNROLL _Pragma("GCC unroll 16") /* completely, so that the tile is in registers */
#endif
#define DK_PREFETCH_AHEAD 384 /* bytes; for panels that come from memory: see docs/adr/0010-forward-order.md */

/* One step: acc[t][p] += x[t] * w[p] for all t and p. */
DK_INLINE void tile_step(dk_f acc[][DK_MAX_WIDE], int tokens, int panels, const float *x, int64_t x_stride,
                         const dk_f w[DK_MAX_WIDE]) {
  DK_UNROLL
  for (int t = 0; t < tokens; t++) {
    dk_f number = f_set(x[t * x_stride]);
    DK_UNROLL
    for (int p = 0; p < panels; p++)
      acc[t][p] = f_fma(number, w[p], acc[t][p]);
  }
}

DK_INLINE dk_f load_weights(const char *p, int type) {
  return type == 1 ? f_load_f16(p) : type == 2 ? f_load_bf16(p) : f_load(p);
}

#endif
