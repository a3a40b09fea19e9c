/* Stage draw: one token from a distribution, with the random words of (seed, stream; position, choice, draw id,
 * attempt).
 *
 * If a truncation has computed the weights of the remaining tokens, the draw is by inverse CDF in order of token id. If
 * only temperature and min_p act on the row, its total is neither known nor needed, and the draw is by rejection. Let M
 * be the largest weight of a block. Propose a block with probability M / sum(M) and an index in it with 1 / 256, and
 * accept it with probability W / M, W being the weight at that index. The result has a probability proportional to W.
 * All three decisions compare integers, so this distribution is exactly that of the inverse CDF. At least one proposal
 * in 256 is accepted, whatever the row is. docs/adr/0004-draw.md. */
#include "sampling/draw.h"

#include <math.h>

#include "sampling/random_words.h"

/* Return a uniform integer below n. */
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

/* Set sums[block] to the sum of the largest weights of the blocks up to this one. Returns the sum over all blocks. */
static uint64_t sum_largest(const dk_distribution *d, uint64_t *sums) {
  uint64_t total = 0;
  for (int32_t block = 0; block < d->view.num_blocks; block += DK_BLOCK) {
    uint64_t *part = sums + block;
    dk_block maxima = {d->view.block_max + block, DECODING_FLOAT32};
    d->view.kernel->weights(maxima, d->kept.value, &d->scale, part);
    for (int32_t i = 0; i < DK_BLOCK; i++)
      part[i] = total += part[i];
  }
  return total;
}

/* Return the index of the first of n ascending sums that exceeds the target; the last index if none does. */
static int32_t first_above(const uint64_t *sums, int32_t n, uint64_t target) {
  int32_t low = 0;
  while (low < n - 1) {
    int32_t middle = low + (n - 1 - low) / 2;
    if (sums[middle] > target)
      n = middle + 1;
    else
      low = middle + 1;
  }
  return low;
}

/* Return the weight at one index, bit for bit as the kernel computes it for a whole block. */
static uint64_t weight_at(const dk_distribution *d, int32_t index) {
  float value = dk_value(&d->view, index);
  return value >= d->kept.value ? d->view.kernel->weight(value, &d->scale) : 0;
}

static int32_t draw_by_rejection(const dk_distribution *d) {
  uint64_t *sums = d->view.workspace->rejection_sums;
  uint64_t total = sum_largest(d, sums);
  for (uint64_t attempt = 0;; attempt++) {
    uint64_t words[4];
    dk_random_words(d->row, DK_DRAW_SAMPLING, attempt, words);
    int32_t block = first_above(sums, d->view.num_blocks, below(total, words[0]));
    uint64_t largest = sums[block] - (block > 0 ? sums[block - 1] : 0);
    int32_t index = block * DK_BLOCK + (int32_t)below(DK_BLOCK, words[1]);
    if (index < d->view.num_elements && below(largest, words[2]) < weight_at(d, index))
      return index;
  }
}

/* If min_p runs before temperature, the view may be a list, whose blocks are not blocks of the row. */
static bool tempers_first(const decoding_batch *batch) {
  for (int32_t i = 0; i < batch->num_stages; i++)
    if (batch->stages[i] == DECODING_STAGE_TEMPERATURE || batch->stages[i] == DECODING_STAGE_MIN_P)
      return batch->stages[i] == DECODING_STAGE_TEMPERATURE;
  return true;
}

#define WEIGHING_FLAGS (DECODING_MIROSTAT | DECODING_P_LESS | DECODING_P_LESS_NORM | DECODING_ADAPTIVE_P)

bool dk_draws_by_rejection(const decoding_batch *batch, const decoding_row *row) {
  return (row->min_p == 0.0f || tempers_first(batch)) && row->top_k == DECODING_TOP_K_OFF && row->top_p == 1.0f &&
         row->typical_p == 1.0f && isinf(row->top_n_sigma) && row->epsilon_cutoff == 0.0f && row->eta_cutoff == 0.0f &&
         row->top_a == 0.0f && row->xtc_probability == 0.0f && row->top_h == 1.0f && isinf(row->min_k) &&
         row->tfs == 1.0f && row->skew == 0.0f && !(row->flags & WEIGHING_FLAGS);
}

int32_t dk_draw(const dk_distribution *d) {
  if (d->point >= 0)
    return d->point;
  return d->by_rejection ? draw_by_rejection(d) : draw_by_inversion(d);
}
