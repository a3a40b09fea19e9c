/* Stage 13: one token from a distribution, with the random words of (seed, stream; position, choice, draw id, attempt).
 *
 * Where truncation has weighed what is kept, by inverse CDF in order of token id. Where only stage 8 and min_p shape
 * the row, its total is not known and not needed: propose a block in proportion to its largest weight, and a place in
 * it; accept with the ratio of that place's weight to the largest. A place is then drawn in proportion to M / sum(M) *
 * 1 / 256 * W / M, that is to W, and all three steps are comparisons of integers, so the distribution is exactly the
 * same. At least one proposal in 256 is accepted, whatever the row. docs/adr/0004-draw.md. */
#include <math.h>

#include "sampling/distribution.h"
#include "sampling/philox.h"

void dk_random_words(const decoding_row *row, uint64_t draw_id, uint64_t attempt, uint64_t words[4]) {
  const uint64_t counter[4] = {row->position, row->choice, draw_id, attempt}, key[2] = {row->seed, row->stream};
  dk_philox4x64(counter, key, words);
}

/* A uniform integer below n. */
static uint64_t below(uint64_t n, uint64_t word) { return dk_multiply(word, n).high; }

static int32_t draw_by_inversion(const dk_distribution *d) {
  uint64_t words[4], *weights = d->view.workspace->weights;
  int32_t block = 0, i = 0;
  dk_random_words(d->row, DK_DRAW_SAMPLING, 0, words);
  uint64_t rest = below(d->total, words[0]);
  while (rest >= d->sums[block])
    rest -= d->sums[block++];
  dk_slice slice = dk_slice_of(&d->view, d->kept, block);
  d->view.kernel->weights(slice.block, slice.low, &d->scale, weights);
  while (rest >= weights[i])
    rest -= weights[i++];
  return dk_id(&d->view, block * DK_BLOCK + i);
}

/* sums[block]: the sum of the largest weights of the blocks up to this one. */
static uint64_t sum_largest(const dk_distribution *d) {
  uint64_t total = 0;
  for (int32_t block = 0; block < d->view.num_blocks; block += DK_BLOCK) {
    uint64_t *ends = d->sums + block;
    dk_block maxima = {d->view.block_max + block, DECODING_FLOAT32};
    d->view.kernel->weights(maxima, d->kept.value, &d->scale, ends);
    for (int32_t i = 0; i < DK_BLOCK; i++)
      ends[i] = total += ends[i];
  }
  return total;
}

static int32_t first_over(const uint64_t *ends, int32_t n, uint64_t target) {
  int32_t low = 0;
  while (low < n - 1) {
    int32_t middle = low + (n - 1 - low) / 2;
    if (ends[middle] > target)
      n = middle + 1;
    else
      low = middle + 1;
  }
  return low;
}

/* The weight of one place, as the kernel has it for the whole block. */
static uint64_t weight_at(const dk_distribution *d, int32_t place) {
  float value = dk_value(&d->view, place);
  return value >= d->kept.value ? d->view.kernel->weight(value, &d->scale) : 0;
}

static int32_t draw_by_rejection(const dk_distribution *d) {
  const uint64_t *ends = d->sums;
  uint64_t total = sum_largest(d);
  for (uint64_t attempt = 0;; attempt++) {
    uint64_t words[4];
    dk_random_words(d->row, DK_DRAW_SAMPLING, attempt, words);
    int32_t block = first_over(ends, d->view.num_blocks, below(total, words[0]));
    uint64_t largest = ends[block] - (block > 0 ? ends[block - 1] : 0);
    int32_t place = block * DK_BLOCK + (int32_t)below(DK_BLOCK, words[1]);
    if (place < d->view.num_elements && below(largest, words[2]) < weight_at(d, place))
      return place;
  }
}

/* Where min_p comes before stage 8, what it leaves may be a list, which has no blocks of ids. */
static int32_t tempers_first(const decoding_batch *batch) {
  for (int32_t i = 0; i < batch->num_stages; i++)
    if (batch->stages[i] == DECODING_STAGE_TEMPERATURE || batch->stages[i] == DECODING_STAGE_MIN_P)
      return batch->stages[i] == DECODING_STAGE_TEMPERATURE;
  return 1;
}

int32_t dk_by_rejection(const decoding_batch *batch, const decoding_row *row) {
  return (row->min_p == 0.0f || tempers_first(batch)) && row->top_k == DECODING_TOP_K_OFF && row->top_p == 1.0f &&
         row->typical_p == 1.0f && isinf(row->top_n_sigma) && row->epsilon_cutoff == 0.0f && row->eta_cutoff == 0.0f &&
         row->top_a == 0.0f && row->xtc_probability == 0.0f && !(row->flags & DECODING_MIROSTAT);
}

int32_t dk_draw(const dk_distribution *d) {
  if (d->point >= 0)
    return d->point;
  return d->by_rejection ? draw_by_rejection(d) : draw_by_inversion(d);
}
