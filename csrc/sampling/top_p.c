/* The shortest prefix that has at least a given fraction of the mass (top_p).
 *
 * The head, the largest tokens, are those above a certain block maximum; their weights are computed exactly. A sample
 * of the rest estimates the value at which the running mass reaches its target. If that is within the head, one pass
 * for the total and a search of the head are enough. Otherwise a bracket of values is put around the estimate. One pass
 * finds the total and the mass above the bracket, and collects the tokens in the bracket, which are then searched. If
 * the sample was misleading, the bracket is widened to everything on the side that was missed.
 *
 * Masses are integers, so every method finds the same prefix. The plain method, a descent over the digits of the keys
 * with a histogram per digit, is what the tests compare with (DECODING_PLAIN_SEARCH). */
#include "sampling/top_p.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "sampling/float_keys.h"
#include "sampling/top_k.h"
#include "sampling/weighted_select.h"

#define NUM_BINS 512   /* of the sample, by value */
#define NUM_COUNTERS 4 /* per bin, so that consecutive increments do not wait for each other */
#define MARGIN 2.8     /* half-width of a bracket, in standard errors of the sample */

typedef struct dk_search {
  const dk_view *view;
  dk_prefix within;
  const dk_scale *scale;
  float top_p;
  bool exceeds;   /* the mass must be above p times the total, not at least that */
  uint64_t *sums; /* mass of each block within the result */
} dk_search;

/* Return the mass that the prefix must reach. */
static uint64_t target_mass(const dk_search *s, uint64_t total) {
  double part = (double)s->top_p * (double)total, target = s->exceeds ? floor(part) + 1.0 : ceil(part);
  uint64_t mass = target < 1.0 ? 1u : (uint64_t)target;
  return mass < total ? mass : total;
}

/* ---- the plain method ---- */

/* Sum weights by the next `bits` bits of the keys that begin with the digits found so far; `open` bits are not known.
 */
static void fill_histogram(const dk_search *s, uint32_t digits, int32_t open, int32_t bits) {
  dk_workspace *workspace = s->view->workspace;
  memset(workspace->histogram, 0, ((size_t)1 << bits) * sizeof(uint64_t));
  for (int32_t block = 0; block < s->view->num_blocks; block++) {
    if (s->view->block_max[block] < s->within.value)
      continue;
    dk_slice slice = dk_slice_of(s->view, s->within, block);
    s->view->kernel->keys(slice.block, workspace->keys);
    s->view->kernel->weights(slice.block, slice.low, s->scale, workspace->weights);
    for (int32_t i = 0; i < DK_BLOCK; i++) {
      uint32_t key = workspace->keys[i];
      if (open == 32 || key >> open == digits)
        workspace->histogram[key >> (open - bits) & ((1u << bits) - 1u)] += workspace->weights[i];
    }
  }
}

/* Find the threshold's key digit by digit, most significant first: the digit at which the running mass, from the
 * largest down, reaches the target. */
static dk_threshold by_histogram(const dk_search *s, uint64_t target) {
  static const int32_t bits[3] = {11, 11, 10};
  const uint64_t *histogram = s->view->workspace->histogram;
  uint32_t digits = 0;
  for (int32_t i = 0, open = 32; i < 3; open -= bits[i++]) {
    fill_histogram(s, digits, open, bits[i]);
    int32_t digit = (1 << bits[i]) - 1;
    while (digit > 0 && histogram[digit] < target)
      target -= histogram[digit--];
    digits = digits << bits[i] | (uint32_t)digit;
  }
  return (dk_threshold){dk_value_of(digits), target};
}

static dk_prefix by_plain_search(const dk_search *s) {
  uint64_t total = dk_prefix_mass(s->view, s->within, s->scale, NULL);
  dk_threshold threshold = by_histogram(s, target_mass(s, total));
  uint64_t each = s->view->kernel->weight(threshold.value, s->scale);
  int64_t num_equal = (int64_t)((threshold.missing + each - 1) / each);
  dk_prefix prefix = {threshold.value, dk_nth_equal(s->view, threshold.value, num_equal)};
  (void)dk_prefix_mass(s->view, prefix, s->scale, s->sums);
  return prefix;
}

/* ---- a list that contains the whole prefix ---- */

/* Returns false if the mass of the list is below the target. */
static bool in_list(const dk_search *s, const dk_list *list, uint64_t target, dk_prefix *prefix) {
  dk_threshold end;
  if (!dk_search_list(list, target, &end))
    return false;
  memset(s->sums, 0, (size_t)s->view->num_blocks * sizeof *s->sums);
  *prefix = dk_end_in_list(list, end, s->sums);
  return true;
}

static dk_list list_of(const dk_search *s, dk_prefix prefix) {
  int32_t n = dk_gather(s->view, prefix, s->view->workspace->list);
  return dk_list_of(s->view, n, s->scale);
}

/* ---- head, sample, bracket ---- */

/* Return the prefix of the tokens above a value that about a quarter of the blocks reach. */
static dk_prefix head_of(const dk_search *s) {
  dk_view maxima = dk_view_maxima(s->view);
  int32_t k = s->view->num_blocks / 4;
  uint32_t key = dk_key_of_kth(&maxima, dk_key_of(-FLT_MAX), dk_key_of(s->view->max), k, k + k / 8);
  return dk_prefix_shorter(s->within, dk_prefix_above(dk_value_of(key)));
}

typedef struct dk_bin {
  double mass;    /* sum of weights */
  double squares; /* sum of squared weights */
} dk_bin;

/* A sample of the row, by value: bin b has the values from top - b * width down to top - (b + 1) * width. */
typedef struct dk_sample {
  float top;
  float width;
  dk_bin all;
  dk_bin bins[NUM_BINS];
} dk_sample;

static void add(dk_bin *to, dk_bin more) {
  to->mass += more.mass;
  to->squares += more.squares;
}

/* Every token of a bin is given the weight of the bin's middle. */
static void weigh_bins(const dk_search *s, const int32_t *counts, dk_sample *sample) {
  uint64_t weights[NUM_BINS];
  float middles[NUM_BINS];
  for (int32_t bin = 0; bin < NUM_BINS; bin++)
    middles[bin] = sample->top - ((float)bin + 0.5f) * sample->width;
  for (int32_t bin = 0; bin < NUM_BINS; bin += DK_BLOCK)
    s->view->kernel->weights((dk_block){middles + bin, DECODING_FLOAT32}, -FLT_MAX, s->scale, weights + bin);
  sample->all = (dk_bin){0.0, 0.0};
  for (int32_t bin = 0; bin < NUM_BINS; bin++) {
    double weight = (double)(int64_t)weights[bin], mass = counts[bin] * weight;
    sample->bins[bin] = (dk_bin){mass, mass * weight};
    add(&sample->all, sample->bins[bin]);
  }
}

/* Sample the tokens of `within` below the head. Only speed depends on the sample, so it may ignore edits and masks.
 * Returns the sampled values, DK_SAMPLE_SIZE of them, of all tokens. */
static const float *take_sample(const dk_search *s, dk_prefix above, const dk_list *head, dk_sample *sample) {
  float *values = head->entries.values + dk_whole_blocks(head->n); /* behind the head */
  float minimum = above.value;
  uint32_t *bins = s->view->workspace->keys;
  int32_t counts[NUM_COUNTERS][NUM_BINS + 1] = {{0}}; /* the last one for values to be ignored */
  dk_sample_values(s->view, values);
  for (int32_t i = 0; i < DK_SAMPLE_SIZE; i += 7) /* an estimate: values below it go into the last bin */
    minimum = values[i] < minimum && values[i] >= s->within.value ? values[i] : minimum;
  sample->top = above.value;
  sample->width = above.value / (NUM_BINS - 1) - minimum / (NUM_BINS - 1); /* never overflows */
  float bins_per_value = sample->width > 0.0f ? 1.0f / sample->width : 0.0f;
  for (int32_t i = 0; i < DK_SAMPLE_SIZE; i += DK_BLOCK) {
    s->view->kernel->bins(values + i, above.value, s->within.value, bins_per_value, NUM_BINS - 1, bins);
    for (int32_t j = 0; j < DK_BLOCK; j++)
      counts[j % NUM_COUNTERS][bins[j]]++;
  }
  for (int32_t bin = 0; bin < NUM_BINS; bin++)
    for (int32_t c = 1; c < NUM_COUNTERS; c++)
      counts[0][bin] += counts[c][bin];
  weigh_bins(s, counts[0], sample);
  return values;
}

/* The range [low, high) that probably contains the threshold. */
typedef struct dk_bracket {
  float low;
  float high; /* INFINITY: the threshold may lie above the whole sample */
} dk_bracket;

/* A value lies above the threshold if the mass above it is less than p times the total. Return the square of MARGIN
 * standard errors of that difference, from the squares of the sampled weights above and below the value. */
static double error_squared(const dk_sample *sample, double squares_above, double p) {
  double below = p * p * (sample->all.squares - squares_above);
  return MARGIN * MARGIN * ((1.0 - p) * (1.0 - p) * squares_above + (below > 0.0 ? below : 0.0));
}

static dk_bracket bracket_of(const dk_search *s, const dk_sample *sample, uint64_t head_mass) {
  double p = (double)s->top_p, head = (double)head_mass * DK_SAMPLE_SIZE / s->view->num_elements;
  double needed = p * (head + sample->all.mass) - head; /* mass of the sample */
  dk_bin above = {0.0, 0.0};
  dk_bracket bracket = {needed <= 0.0 && needed * needed >= error_squared(sample, 0.0, p) ? sample->top : -INFINITY,
                        INFINITY};
  for (int32_t bin = 0; bin < NUM_BINS && bracket.low == -INFINITY; bin++) {
    double short_of = needed - above.mass;
    if (short_of >= 0.0 && short_of * short_of >= error_squared(sample, above.squares, p))
      bracket.high = dk_value_of(dk_key_of(sample->top - ((float)bin - 0.25f) * sample->width) + 1);
    add(&above, sample->bins[bin]);
    double over = above.mass - needed;
    if (over >= 0.0 && over * over >= error_squared(sample, above.squares, p))
      bracket.low = sample->top - ((float)bin + 1.25f) * sample->width;
  }
  return bracket;
}

/* Result of one pass over the row. */
typedef struct dk_survey {
  uint64_t total;
  uint64_t above; /* mass of the tokens >= high */
  dk_list list;   /* the tokens in [low, high) */
} dk_survey;

static dk_survey survey(const dk_search *s, float low, float high) {
  const dk_entries *entries = &s->view->workspace->list;
  dk_survey found = {0};
  int32_t n = 0;
  int32_t *starts = s->view->workspace->list_start;
  for (int32_t block = 0; block < s->view->num_blocks; block++) {
    s->sums[block] = 0;
    starts[block] = n;
    if (s->view->block_max[block] < s->within.value)
      continue;
    dk_slice slice = dk_slice_of(s->view, s->within, block);
    dk_entries rest = {entries->values + n, entries->ids + n, NULL};
    float middle = low > slice.low ? low : slice.low;
    dk_split part = s->view->kernel->split(slice.block, slice.low, s->scale, middle, high, block * DK_BLOCK, rest);
    found.total += part.all;
    found.above += s->sums[block] = part.above;
    n += part.num_between;
  }
  starts[s->view->num_blocks] = n;
  for (int32_t i = 0; s->view->ids != NULL && i < n; i++)
    entries->ids[i] = dk_id(s->view, entries->ids[i]);
  found.list = dk_list_of(s->view, n, s->scale);
  return found;
}

static dk_prefix in_bracket(const dk_search *s, dk_bracket bracket) {
  dk_prefix prefix;
  dk_threshold end;
  dk_survey found = survey(s, bracket.low, bracket.high);
  uint64_t target = target_mass(s, found.total);
  if (found.above >= target) { /* the sample was misleading: the threshold lies higher */
    dk_list higher = list_of(s, dk_prefix_shorter(s->within, dk_prefix_from((double)bracket.high)));
    (void)in_list(s, &higher, target, &prefix);
    return prefix;
  }
  if (!dk_search_list(&found.list, target - found.above, &end)) { /* the threshold lies lower */
    found = survey(s, -INFINITY, bracket.low);
    (void)dk_search_list(&found.list, target - found.above, &end);
  }
  return dk_end_in_list(&found.list, end, s->sums);
}

/* The threshold lies in the head or not far below it, so no mass above a bracket has to be computed. */
static dk_prefix from_top(const dk_search *s, const dk_list *head, uint64_t head_mass, float low) {
  dk_prefix prefix;
  uint64_t target = target_mass(s, dk_prefix_mass(s->view, s->within, s->scale, NULL));
  if (target <= head_mass) {
    (void)in_list(s, head, target, &prefix);
    return prefix;
  }
  dk_list list = list_of(s, dk_prefix_shorter(s->within, dk_prefix_from((double)low)));
  return in_list(s, &list, target, &prefix) ? prefix : in_bracket(s, (dk_bracket){-INFINITY, low});
}

/* ---- many tokens of one value ---- */

#define SAMPLE_STEP 8    /* every eighth value of the sample is looked at */
#define MIN_NUM_EQUALS 8 /* of those */

/* Return the only value that the sample has in the bracket; INFINITY if there are others, or too few of it. */
static float only_value(const float *sample, dk_bracket bracket) {
  float value = INFINITY;
  int32_t num_equal = 0;
  for (int32_t i = 0; i < DK_SAMPLE_SIZE; i += SAMPLE_STEP) {
    if (!(sample[i] >= bracket.low && sample[i] < bracket.high))
      continue;
    if (num_equal++ > 0 && sample[i] != value)
      return INFINITY;
    value = sample[i];
  }
  return num_equal >= MIN_NUM_EQUALS ? value : INFINITY;
}

static int64_t count_equal(const dk_search *s, float value, int32_t block) {
  dk_slice slice = dk_slice_of(s->view, s->within, block);
  return s->view->kernel->count(slice.block, value) - s->view->kernel->count(slice.block, dk_next_above(value));
}

/* Test whether the threshold is this value: the mass above it is below the target, and the tokens equal to it add what
 * is missing. They are counted instead of listed. Returns false if it is not. */
static bool among_equals(const dk_search *s, float value, dk_prefix *prefix) {
  dk_survey found = survey(s, INFINITY, dk_next_above(value));
  uint64_t target = target_mass(s, found.total), each = s->view->kernel->weight(value, s->scale);
  if (found.above >= target)
    return false;
  int64_t missing = (int64_t)((target - found.above + each - 1) / each), here = 0;
  int64_t num_equal = missing;
  for (int32_t block = 0; block < s->view->num_blocks && missing > 0; block++, missing -= here) {
    here = s->view->block_max[block] >= value ? count_equal(s, value, block) : 0;
    here = here < missing ? here : missing;
    s->sums[block] += (uint64_t)here * each;
  }
  *prefix = (dk_prefix){value, dk_nth_equal(s->view, value, num_equal)};
  return missing == 0;
}

static dk_prefix by_sample(const dk_search *s) {
  dk_prefix above = head_of(s), prefix;
  dk_list head = list_of(s, above);
  uint64_t head_mass = dk_list_mass(&head);
  dk_sample sample;
  const float *values = take_sample(s, above, &head, &sample);
  dk_bracket bracket = bracket_of(s, &sample, head_mass);
  if (bracket.high == INFINITY)
    return from_top(s, &head, head_mass, bracket.low);
  float value = only_value(values, bracket);
  return value < INFINITY && among_equals(s, value, &prefix) ? prefix : in_bracket(s, bracket);
}

dk_prefix dk_select_by_mass(const dk_view *view, dk_prefix within, const dk_scale *scale, float top_p, bool exceeds,
                            uint64_t *sums) {
  dk_search s = {view, within, scale, top_p, exceeds, sums};
  if (view->use_plain_search)
    return by_plain_search(&s);
  if (view->num_blocks < 16) { /* too few block maxima to choose a head by */
    dk_list list = list_of(&s, within);
    dk_prefix prefix = within;
    (void)in_list(&s, &list, target_mass(&s, dk_list_mass(&list)), &prefix);
    return prefix;
  }
  return by_sample(&s);
}
