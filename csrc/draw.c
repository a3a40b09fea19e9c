/* Stage 13: one token from a distribution, with the random words of (seed, stream; position, choice, 0, attempt).
 *
 * Where truncation has weighed what is kept, by inverse CDF in order of token id. Where only temperature and min_p
 * shape the row, its total is not known and not needed: propose a block in proportion to its largest weight, and a
 * place in it; accept with the ratio of that place's weight to the largest. A place is then drawn in proportion to M /
 * sum(M) * 1 / 256 * W / M, that is to W, and all three steps are comparisons of integers, so the distribution is
 * exactly the same. At least one proposal in 256 is accepted, whatever the row. docs/adr/0004-draw.md. */
#include "distribution.h"
#include "philox.h"

static void random_words(const decoding_row *row, uint64_t attempt, uint64_t words[4]) {
  const uint64_t counter[4] = {row->position, row->choice, 0, attempt}, key[2] = {row->seed, row->stream};
  dk_philox4x64(counter, key, words);
}

/* A uniform integer below n. */
static uint64_t below(uint64_t n, uint64_t word) { return dk_multiply(word, n).high; }

static const uint64_t *block_weights(const dk_distribution *d, int32_t block) {
  uint64_t *weights = d->view->workspace->weights;
  d->view->kernel->weights(dk_fetch(d->view, block), dk_prefix_in_block(d->kept, block), &d->scale, weights);
  return weights;
}

static int32_t draw_by_inversion(const dk_distribution *d, const decoding_row *row, const uint64_t *sums) {
  uint64_t words[4];
  int32_t block = 0, i = 0;
  random_words(row, 0, words);
  uint64_t rest = below(d->total, words[0]);
  while (rest >= sums[block])
    rest -= sums[block++];
  const uint64_t *weights = block_weights(d, block);
  while (rest >= weights[i])
    rest -= weights[i++];
  return block * DK_BLOCK + i;
}

/* ends[block]: the sum of the largest weights of the blocks up to this one. */
static uint64_t sum_largest(const dk_distribution *d, dk_workspace *workspace) {
  const dk_view *view = d->view;
  uint64_t total = 0;
  for (int32_t block = 0; block < view->num_blocks; block += DK_BLOCK) {
    uint64_t *ends = workspace->sums + block;
    view->kernel->weights(view->block_max + block, (dk_cutoff){d->kept.value, DK_BLOCK}, &d->scale, ends);
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

/* The weight of one element, as the kernel has it for the whole block. */
static uint64_t weight_at(const dk_distribution *d, int32_t token_id) {
  return d->view->kernel->weight(dk_value(d->view, token_id), d->kept.value, &d->scale);
}

static int32_t draw_by_rejection(const dk_distribution *d, const decoding_row *row, dk_workspace *workspace) {
  const uint64_t *ends = workspace->sums;
  uint64_t total = sum_largest(d, workspace);
  for (uint64_t attempt = 0;; attempt++) {
    uint64_t words[4];
    random_words(row, attempt, words);
    int32_t block = first_over(ends, d->view->num_blocks, below(total, words[0]));
    uint64_t largest = ends[block] - (block > 0 ? ends[block - 1] : 0);
    int32_t token_id = block * DK_BLOCK + (int32_t)below(DK_BLOCK, words[1]);
    if (token_id < d->view->vocab_size && below(largest, words[2]) < weight_at(d, token_id))
      return token_id;
  }
}

int32_t dk_draw(const dk_distribution *d, const decoding_row *row, dk_workspace *workspace) {
  if (d->point >= 0)
    return d->point;
  return dk_by_rejection(row) ? draw_by_rejection(d, row, workspace) : draw_by_inversion(d, row, workspace->sums);
}
