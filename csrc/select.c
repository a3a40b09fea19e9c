/* Where a prefix of the total order ends: a descent over the bits of the ordered integer keys, never a sort.
 *
 * Three histograms (11, 11 and 10 bits of the key) hold the mass, or the number, of the tokens under each digit. The
 * digit in which the target is crossed is fixed, and the next histogram looks only at tokens that begin with it. The
 * last digit leaves one value; of the tokens equal to it, the lowest ids are taken. Masses are integers, so the
 * crossing is exact. Blocks whose maximum lies below the digits fixed so far are not touched. */
#include "select.h"

#include <float.h>
#include <string.h>

dk_prefix dk_prefix_all(void) { return (dk_prefix){-FLT_MAX, INT32_MAX}; }

static uint32_t key_of(float value) {
  uint32_t bits;
  value += 0.0f; /* -0 becomes +0 */
  memcpy(&bits, &value, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static float value_of(uint32_t key) {
  uint32_t bits = key & 0x80000000u ? key & 0x7FFFFFFFu : ~key;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* The least float that is not below the bound; bounds under the float range keep every finite value. */
dk_prefix dk_prefix_from(double bound) {
  if (!(bound > -(double)FLT_MAX))
    return dk_prefix_all();
  float value = (float)bound;
  if ((double)value < bound)
    value = value_of(key_of(value) + 1);
  return (dk_prefix){value, INT32_MAX};
}

dk_prefix dk_prefix_tighter(dk_prefix a, dk_prefix b) {
  if (a.value != b.value)
    return a.value > b.value ? a : b;
  return a.last_id < b.last_id ? a : b;
}

int32_t dk_prefix_has(dk_prefix prefix, float value, int32_t token_id) {
  return value > prefix.value || (value == prefix.value && token_id <= prefix.last_id);
}

dk_cutoff dk_prefix_in_block(dk_prefix prefix, int32_t block) {
  int64_t ties = (int64_t)prefix.last_id + 1 - (int64_t)block * DK_BLOCK;
  return (dk_cutoff){prefix.value, ties > DK_BLOCK ? DK_BLOCK : ties < 0 ? 0 : (int32_t)ties};
}

int64_t dk_prefix_count(const dk_view *view, dk_prefix prefix) {
  int64_t total = 0;
  for (int32_t block = 0; block < view->num_blocks; block++)
    if (view->block_max[block] >= prefix.value)
      total += view->kernel->count(dk_fetch(view, block), dk_prefix_in_block(prefix, block));
  return total;
}

uint64_t dk_prefix_mass(const dk_view *view, dk_prefix prefix, const dk_scale *scale, uint64_t *sums) {
  uint64_t total = 0;
  for (int32_t block = 0; block < view->num_blocks; block++) {
    uint64_t sum = 0;
    if (view->block_max[block] >= prefix.value)
      sum = view->kernel->mass(dk_fetch(view, block), dk_prefix_in_block(prefix, block), scale);
    if (sums != NULL)
      sums[block] = sum;
    total += sum;
  }
  return total;
}

/* What the descent has fixed so far: the leading digits of the key, and the mass of all tokens above them. */
typedef struct dk_descent {
  uint32_t digits;
  int32_t shift; /* bits of the key that are still open */
  uint64_t above;
} dk_descent;

/* One histogram over the next `bits` bits. Without a scale every token weighs 1. */
static void fill_histogram(const dk_view *view, dk_prefix within, const dk_scale *scale, dk_descent at, int32_t bits) {
  dk_workspace *workspace = view->workspace;
  int32_t shift = at.shift - bits;
  memset(workspace->histogram, 0, ((size_t)1 << bits) * sizeof(uint64_t));
  for (int32_t block = 0; block < view->num_blocks; block++) {
    float max = view->block_max[block];
    if (max < within.value || (at.shift < 32 && key_of(max) >> at.shift < at.digits))
      continue;
    const float *values = dk_fetch(view, block);
    dk_cutoff kept = dk_prefix_in_block(within, block);
    view->kernel->keys(values, workspace->keys);
    if (scale != NULL)
      view->kernel->weights(values, kept, scale, workspace->weights);
    uint32_t least = key_of(kept.value);
    for (int32_t i = 0; i < DK_BLOCK; i++) {
      uint32_t key = workspace->keys[i];
      if (key < least || (key == least && i >= kept.ties) || (at.shift < 32 && key >> at.shift != at.digits))
        continue;
      workspace->histogram[key >> shift & ((1u << bits) - 1u)] += scale != NULL ? workspace->weights[i] : 1u;
    }
  }
}

/* Fixes the digit in which the running total, from the top, reaches the target. */
static dk_descent descend(const uint64_t *histogram, dk_descent at, int32_t bits, uint64_t target) {
  int32_t digit = (1 << bits) - 1;
  while (digit > 0 && at.above + histogram[digit] < target)
    at.above += histogram[digit--];
  at.digits = at.digits << bits | (uint32_t)digit;
  at.shift -= bits;
  return at;
}

/* The id of the nth token (from 1, in order of id) that equals the value. */
static int32_t nth_equal(const dk_view *view, float value, int64_t n) {
  for (int32_t block = 0; block < view->num_blocks; block++) {
    if (view->block_max[block] < value)
      continue;
    const float *values = dk_fetch(view, block);
    for (int32_t i = 0; i < DK_BLOCK; i++)
      if (values[i] == value && --n == 0)
        return block * DK_BLOCK + i;
  }
  return INT32_MAX;
}

static uint64_t weight_of(const dk_view *view, float value, const dk_scale *scale) {
  uint64_t *weights = view->workspace->weights;
  float *block = view->workspace->block;
  for (int32_t i = 0; i < DK_BLOCK; i++)
    block[i] = value;
  view->kernel->weights(block, (dk_cutoff){value, DK_BLOCK}, scale, weights);
  return weights[0];
}

static dk_prefix select_prefix(const dk_view *view, dk_prefix within, const dk_scale *scale, uint64_t target) {
  static const int32_t digits[3] = {11, 11, 10};
  dk_descent at = {0, 32, 0};
  for (int32_t i = 0; i < 3; i++) {
    fill_histogram(view, within, scale, at, digits[i]);
    at = descend(view->workspace->histogram, at, digits[i], target);
  }
  float value = value_of(at.digits);
  uint64_t each = scale != NULL ? weight_of(view, value, scale) : 1u;
  uint64_t missing = target - at.above;
  return (dk_prefix){value, nth_equal(view, value, (int64_t)((missing + each - 1) / each))};
}

/* The k-th largest of n floats, in place: quickselect on the middle element. */
static float kth_largest(float *values, int32_t n, int32_t k) {
  int32_t low = 0, high = n - 1, target = k - 1;
  while (low < high) {
    float pivot = values[low + (high - low) / 2];
    int32_t i = low, j = high;
    while (i <= j) {
      while (values[i] > pivot)
        i++;
      while (values[j] < pivot)
        j--;
      if (i <= j) {
        float swap = values[i];
        values[i++] = values[j];
        values[j--] = swap;
      }
    }
    if (target <= j)
      high = j;
    else if (target >= i)
      low = i;
    else
      break;
  }
  return values[target];
}

/* At least k tokens lie at or above the k-th largest block maximum: a bound that spares most blocks. */
static dk_prefix bound_by_maxima(const dk_view *view, int64_t k) {
  float *copy = view->workspace->floats;
  if (k > view->num_blocks)
    return dk_prefix_all();
  memcpy(copy, view->block_max, (size_t)view->num_blocks * sizeof *copy);
  float bound = kth_largest(copy, view->num_blocks, (int32_t)k);
  return bound > -FLT_MAX ? (dk_prefix){bound, INT32_MAX} : dk_prefix_all();
}

dk_prefix dk_select_count(const dk_view *view, int64_t k) {
  dk_prefix bounded = bound_by_maxima(view, k);
  return dk_prefix_count(view, bounded) <= k ? bounded : select_prefix(view, bounded, NULL, (uint64_t)k);
}

dk_prefix dk_select_mass(const dk_view *view, dk_prefix within, const dk_scale *scale, uint64_t mass) {
  return select_prefix(view, within, scale, mass);
}
