/* The loops of the sampling kernel over one block, each between the marks that llvm-mca reads. Compiled to assembly, and
 * never run, by benchmarks/port_counts.py. */
#include "sampling/kernels_body.h"

/* The first mark makes the inputs unknown and the second one uses the result, so that the loop stays between them. */
#define COUNTED(name, result_type, constraint, call)                                                                   \
  result_type counted_##name(const char *row, dk_scale scale, float low, float middle, float high, dk_entries list) {  \
    __asm__ volatile("# LLVM-MCA-BEGIN " #name : "+r"(row), "+x"(low), "+x"(middle), "+x"(high)::"memory");            \
    scale.unit = 1.0f;                                                                                                 \
    result_type result = call;                                                                                         \
    __asm__ volatile("# LLVM-MCA-END" ::constraint(result) : "memory");                                                \
    return result;                                                                                                     \
  }

#define FLOATS ((dk_block){row, DECODING_FLOAT32})
#define HALVES ((dk_block){row, DECODING_FLOAT16})
#define BRAINS ((dk_block){row, DECODING_BFLOAT16})

DK_INLINE dk_f max_of(const char *row) {
  dk_f best[4] = {f_load(row), f_load(row + 64), f_load(row + 128), f_load(row + 192)};
  for (int v = 4; v < DK_VECTORS; v++)
    best[v % 4] = f_max(best[v % 4], f_load(row + v * 64));
  return f_max(f_max(best[0], best[1]), f_max(best[2], best[3]));
}

DK_INLINE dk_f exp_sum_of(const char *row, float low, dk_scale scale) {
  dk_f sum = f_set(0.0f);
  for (int v = 0; v < DK_VECTORS; v++) {
    dk_f x = f_load(row + v * 64);
    sum = f_add(sum, dk_weight(x, f_ge(x, f_set(low)), scale));
  }
  return sum;
}


/* A quarter of a block, without the final sums over lanes. More than four entries for the list would take a loop. */
DK_INLINE int64_t split_quarter(const char *row, float low, dk_scale scale, float middle, float high, dk_entries list) {
  uint32_t *out = (uint32_t *)(void *)list.weights;
  dk_split_sums sums = {sum_none(), sum_none(), 0};
  sums = split_four(sums, FLOATS, 0, low, scale, middle, high, 0, list);
  u_store(out + 0 * DK_LANES, sums.all.parts.high);
  u_store(out + 1 * DK_LANES, sums.all.parts.low);
  u_store(out + 2 * DK_LANES, sums.above.parts.high);
  u_store(out + 3 * DK_LANES, sums.above.parts.low);
  return sums.num_between + sums.above.count;
}

COUNTED(max, dk_f, "v", max_of(row))
COUNTED(exp_sum, dk_f, "v", exp_sum_of(row, low, scale))
COUNTED(scan_16_blocks, bool, "r", scan_group(row, DK_LANES, list.values))
COUNTED(count, int32_t, "r", count_of(FLOATS, low))
COUNTED(mass, uint64_t, "r", mass_of(FLOATS, scale, 1, low))
COUNTED(mass_4_blocks, uint64_t, "r", mass_of(FLOATS, scale, 4, low))
COUNTED(mass_float16, uint64_t, "r", mass_of(HALVES, scale, 1, low))
COUNTED(mass_bfloat16, uint64_t, "r", mass_of(BRAINS, scale, 1, low))
COUNTED(split_quarter, int64_t, "r", split_quarter(row, low, scale, middle, high, list))
COUNTED(weights, int32_t, "r", weights_of(FLOATS, scale, low, list.weights))
