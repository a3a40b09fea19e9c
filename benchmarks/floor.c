/* What no sampler can beat: one pass over each row. Compiled by benchmarks/floor.py with the kernel's own flags. */
#include <stdint.h>

#include "simd/exp16.h"

enum { CHAINS = 4 }; /* independent accumulators, so that the pass waits for memory and not for the last result */

static float max_of_row(const float *row, int64_t size) {
  dk_f best[CHAINS];
  for (int c = 0; c < CHAINS; c++)
    best[c] = f_set(row[0]);
  int64_t i = 0;
  for (; i + CHAINS * DK_LANES <= size; i += CHAINS * DK_LANES)
    for (int c = 0; c < CHAINS; c++)
      best[c] = f_max(best[c], f_load(row + i + c * DK_LANES));
  float result = f_fold_max(f_max(f_max(best[0], best[1]), f_max(best[2], best[3])));
  for (; i < size; i++)
    result = row[i] > result ? row[i] : result;
  return result;
}

/* The kernel's exp at temperature 1, float32 sums; the last few elements of the row are left out. */
static float exp_sum_of_row(const float *row, int64_t size, float max) {
  const dk_scale scale = {max, 0x1.715476p+0f, 1.0f};
  dk_f sum[CHAINS];
  for (int c = 0; c < CHAINS; c++)
    sum[c] = f_set(0.0f);
  for (int64_t i = 0; i + CHAINS * DK_LANES <= size; i += CHAINS * DK_LANES)
    for (int c = 0; c < CHAINS; c++) {
      dk_f x = f_load(row + i + c * DK_LANES);
      sum[c] = f_add(sum[c], dk_weight(x, f_ge(f_set(max), x), scale));
    }
  float lanes[DK_LANES], total = 0.0f;
  f_store(lanes, f_add(f_add(sum[0], sum[1]), f_add(sum[2], sum[3])));
  for (int i = 0; i < DK_LANES; i++)
    total += lanes[i];
  return total;
}

/* out[r] = maximum of row r; rows are `stride` elements apart, 0 reads one row again and again. */
void floor_max(const float *rows, int64_t num_rows, int64_t stride, int64_t size, float *out) {
  for (int64_t r = 0; r < num_rows; r++)
    out[r] = max_of_row(rows + r * stride, size);
}

/* out[r] = sum of exp over row r; on entry out[r] is the row's maximum. */
void floor_exp_sum(const float *rows, int64_t num_rows, int64_t stride, int64_t size, float *out) {
  for (int64_t r = 0; r < num_rows; r++)
    out[r] = exp_sum_of_row(rows + r * stride, size, out[r]);
}
