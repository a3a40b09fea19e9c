/* Where a prefix of the total order ends, by number or by mass. Never a sort, and as little of the row as will do.
 *
 * By number (top_k, top-N): the k-th largest block maximum bounds the k-th largest token from below, so what lies
 * above it is taken out into a list, and the list is searched.
 * By mass (top_p): a sample of the row suggests a bracket for the threshold. One pass finds the total mass, the mass
 * above the bracket, and takes out what lies within; the list is searched. Where the sample misled, because the mass
 * sits in a few large tokens, ever longer lists of the largest are tried. Where nothing of this applies, a descent
 * over the digits of the keys with a histogram each finds the same threshold slowly: it is also the yardstick, see
 * DECODING_PLAIN_SEARCH. Counts and masses are integers, so every way finds the same prefix. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "ordered.h"
#include "select.h"

/* The id of the nth token (from 1, in order of id) that equals the value; where there are fewer, past every id. */
static int32_t nth_equal(const dk_view *view, float value, int64_t n) {
  for (int32_t block = 0; block < view->num_blocks; block++) {
    if (view->block_max[block] < value)
      continue;
    const float *values = dk_fetch(view, block);
    int32_t i = view->kernel->find(values, value);
    for (; i >= 0 && i < DK_BLOCK; i++)
      if (values[i] == value && --n == 0)
        return dk_id(view, block * DK_BLOCK + i);
  }
  return INT32_MAX;
}

/* ---- by number ---- */

static int64_t count_from(const dk_view *view, uint32_t key) {
  return dk_prefix_count(view, (dk_prefix){dk_value_of(key), INT32_MAX});
}

/* The largest key in [low, high] with at least k tokens from it upwards; low where there is none. */
static uint32_t key_of_kth(const dk_view *view, uint32_t low, uint32_t high, int64_t k) {
  while (low < high) {
    uint32_t middle = high - (high - low) / 2;
    if (count_from(view, middle) >= k)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

/* The first k tokens of a view, all of whose tokens lie at or above `floor`. */
static dk_prefix first_k(const dk_view *view, float floor, int64_t k) {
  float value = dk_value_of(key_of_kth(view, dk_key_of(floor), dk_key_of(view->max), k));
  int64_t above = dk_prefix_count(view, (dk_prefix){value, -1});
  return (dk_prefix){value, nth_equal(view, value, k - above)};
}

dk_prefix dk_select_count(const dk_view *view, int64_t k) {
  if (k > view->num_blocks || view->plain_search)
    return first_k(view, -FLT_MAX, k);
  dk_view maxima = dk_view_maxima(view);
  float bound = dk_value_of(key_of_kth(&maxima, dk_key_of(-FLT_MAX), dk_key_of(view->max), k));
  int32_t above = dk_gather(view, (dk_prefix){bound, -1}); /* ties at the bound would fill the list for nothing */
  if (above < 0)
    return first_k(view, bound, k);
  if (above < k)
    return (dk_prefix){bound, nth_equal(view, bound, k - above)};
  dk_view list = dk_view_list(view, above);
  return first_k(&list, bound, k);
}

/* ---- by mass ---- */

/* Blocks up to which a list is bisected as it is; a longer one is narrowed at every step. */
#define SHORT_LIST 4

/* Where a threshold must lie: between the keys low and high, both included, with `above` the mass over high. */
typedef struct dk_bracket {
  uint32_t low;
  uint32_t high;
  uint64_t above;
  uint64_t target;
} dk_bracket;

static uint64_t crossing(float top_p, uint64_t total) {
  double target = ceil((double)top_p * (double)total);
  uint64_t mass = target < 1.0 ? 1u : (uint64_t)target;
  return mass < total ? mass : total;
}

static uint64_t weight_of(const dk_view *view, float value, const dk_scale *scale) {
  uint64_t *weights = view->workspace->weights;
  float *block = view->workspace->block;
  for (int32_t i = 0; i < DK_BLOCK; i++)
    block[i] = value;
  view->kernel->weights(block, (dk_cutoff){value, DK_BLOCK}, scale, weights);
  return weights[0];
}

/* The prefix that ends among the tokens of one value: as many of them, by id, as the target still needs. */
static dk_prefix end_among_equals(const dk_view *view, float value, uint64_t missing, const dk_scale *scale) {
  uint64_t each = weight_of(view, value, scale);
  return (dk_prefix){value, nth_equal(view, value, (int64_t)((missing + each - 1) / each))};
}

/* One histogram over the next `bits` bits of the keys that begin with the digits found so far. */
static void fill_histogram(const dk_view *view, dk_prefix within, const dk_scale *scale, uint32_t digits, int32_t open,
                           int32_t bits) {
  dk_workspace *workspace = view->workspace;
  memset(workspace->histogram, 0, ((size_t)1 << bits) * sizeof(uint64_t));
  for (int32_t block = 0; block < view->num_blocks; block++) {
    if (view->block_max[block] < within.value)
      continue;
    const float *values = dk_fetch(view, block);
    view->kernel->keys(values, workspace->keys);
    view->kernel->weights(values, dk_prefix_in_block(within, block), scale, workspace->weights);
    for (int32_t i = 0; i < DK_BLOCK; i++) {
      uint32_t key = workspace->keys[i];
      if (open == 32 || key >> open == digits)
        workspace->histogram[key >> (open - bits) & ((1u << bits) - 1u)] += workspace->weights[i];
    }
  }
}

/* The plain search: the digits of the threshold's key, most significant first, each where the running mass from the
 * top reaches the target. */
static dk_prefix by_histogram(const dk_view *view, dk_prefix within, const dk_scale *scale, uint64_t target) {
  static const int32_t bits[3] = {11, 11, 10};
  const uint64_t *histogram = view->workspace->histogram;
  uint32_t digits = 0;
  uint64_t above = 0;
  for (int32_t i = 0, open = 32; i < 3; open -= bits[i++]) {
    fill_histogram(view, within, scale, digits, open, bits[i]);
    int32_t digit = (1 << bits[i]) - 1;
    while (digit > 0 && above + histogram[digit] < target)
      above += histogram[digit--];
    digits = digits << bits[i] | (uint32_t)digit;
  }
  return end_among_equals(view, dk_value_of(digits), target - above, scale);
}

static uint64_t list_mass(const dk_view *list, float low) {
  uint64_t total = 0;
  for (int32_t block = 0; block < list->num_blocks; block++)
    if (list->block_max[block] >= low)
      total += list->kernel->sum_from((const float *)(const void *)list->logits + block * DK_BLOCK,
                                      list->workspace->list.weights + block * DK_BLOCK, low);
  return total;
}

/* Drops the entries outside the bracket. */
static dk_view narrowed(const dk_view *list, const dk_bracket *bracket) {
  const dk_entries *all = &list->workspace->list;
  float low = dk_value_of(bracket->low), high = dk_value_of(bracket->high);
  int32_t n = 0;
  for (int32_t block = 0; block < list->num_blocks; block++) {
    dk_entries from = {all->values + block * DK_BLOCK, all->ids + block * DK_BLOCK, all->weights + block * DK_BLOCK};
    dk_entries to = {all->values + n, all->ids + n, all->weights + n};
    n += list->kernel->narrow(from, low, high, to);
  }
  return dk_view_list(list, n);
}

/* Adds the entries at or above a value to the masses of their blocks. */
static void spread(const dk_view *list, float low, uint64_t *sums) {
  const dk_entries *all = &list->workspace->list;
  for (int32_t i = 0; i < list->vocab_size; i++)
    if (all->values[i] >= low)
      sums[all->ids[i] / DK_BLOCK] += all->weights[i];
}

/* Bisects the bracket over a list that holds every token within it, until no more than `width` keys are left. */
static void bisect(dk_view *list, dk_bracket *bracket, uint32_t width, uint64_t *sums) {
  while (bracket->high - bracket->low > width) {
    uint32_t middle = bracket->high - (bracket->high - bracket->low) / 2;
    uint64_t upper = list_mass(list, dk_value_of(middle));
    int32_t reached = bracket->above + upper >= bracket->target;
    if (reached)
      bracket->low = middle;
    else
      bracket->high = middle - 1;
    if (list->num_blocks <= SHORT_LIST)
      continue;
    if (!reached) { /* what is dropped from the top counts as above from now on */
      bracket->above += upper;
      spread(list, dk_value_of(middle), sums);
    }
    *list = narrowed(list, bracket);
  }
}

/* The end of the prefix, from a list that holds every token of the bracket; sums[] is completed. */
static dk_prefix search_list(dk_view list, dk_bracket bracket, const dk_scale *scale, uint64_t *sums) {
  bisect(&list, &bracket, 0, sums);
  uint64_t above = bracket.above + list_mass(&list, dk_value_of(bracket.low + 1));
  dk_prefix prefix = end_among_equals(&list, dk_value_of(bracket.low), bracket.target - above, scale);
  const dk_entries *all = &list.workspace->list;
  for (int32_t i = 0; i < list.vocab_size; i++)
    if (dk_prefix_has(prefix, all->values[i], all->ids[i]))
      sums[all->ids[i] / DK_BLOCK] += all->weights[i];
  return prefix;
}

static dk_view weighed_list(const dk_view *view, int32_t n, const dk_scale *scale) {
  dk_view list = dk_view_list(view, n);
  const dk_entries *all = &view->workspace->list;
  for (int32_t i = 0; i < list.vocab_size; i += DK_BLOCK)
    view->kernel->weights(all->values + i, (dk_cutoff){-FLT_MAX, DK_BLOCK}, scale, all->weights + i);
  return list;
}

/* The value of the list at which its running mass, from the top, reaches this share of its total; roughly. */
static float value_at_share(dk_view *list, double share) {
  const float *values = list->workspace->list.values;
  dk_bracket bracket = {dk_key_of(-FLT_MAX), dk_key_of(list->max), 0, 0};
  bracket.target = (uint64_t)(share * (double)list_mass(list, -FLT_MAX));
  bisect(list, &bracket, 1u << 14, NULL);
  float least = dk_value_of(bracket.low), nearest = list->max;
  for (int32_t i = 0; i < list->vocab_size; i++) /* a value that is there: thresholds often lie among ties */
    nearest = values[i] >= least && values[i] < nearest ? values[i] : nearest;
  return nearest;
}

/* The value above which this share of the row's tokens lie; roughly. */
static float value_at_count(const dk_view *sample, double share) {
  int64_t k = (int64_t)(share * sample->vocab_size);
  return dk_value_of(key_of_kth(sample, dk_key_of(-FLT_MAX), dk_key_of(sample->max), k));
}

/* Some of the row's tokens with their weights. Nothing but speed depends on them, so they are the caller's logits,
 * whatever edits there are. */
static dk_view sample_of(const dk_view *view, dk_prefix within, const dk_scale *scale) {
  const dk_entries *list = &view->workspace->list;
  int32_t n = SHORT_LIST * DK_BLOCK;
  dk_peek(view, n, list->values);
  for (int32_t i = 0; i < n; i++) {
    float value = list->values[i];
    list->ids[i] = i;
    list->values[i] = value < within.value ? -INFINITY : value > view->max ? view->max : value;
  }
  return weighed_list(view, n, scale);
}

/* How far a share of the sample's mass may be off: three standard errors, from the number of equal weights that would
 * vary as much (Kish's effective sample size). Returns a negative number where the sample is no guide, because too few
 * of its tokens carry the mass. */
static double slack_of(const dk_view *sample, double top_p) {
  const uint64_t *weights = sample->workspace->list.weights;
  double sum = 0.0, squares = 0.0;
  for (int32_t i = 0; i < sample->vocab_size; i++) {
    double weight = (double)weights[i] * 0x1p-43;
    sum += weight;
    squares += weight * weight;
  }
  double size = squares > 0.0 ? sum * sum / squares : 0.0;
  double errors = 3.0 / sqrt(size > 1.0 ? size : 1.0);
  return size < 12.0 ? -1.0 : (errors < 0.2 ? 0.2 : errors) * top_p * (1.0 - top_p);
}

/* What one pass tells of a bracket of values. */
typedef struct dk_survey {
  uint64_t total;
  uint64_t above;   /* mass at or above `high` */
  int32_t num_list; /* tokens in [low, high), now in the list; -1: too many for it */
} dk_survey;

static dk_survey survey(const dk_view *view, dk_prefix within, const dk_scale *scale, float low, float high,
                        uint64_t *sums) {
  const dk_entries *list = &view->workspace->list;
  dk_survey found = {0, 0, 0};
  int32_t n = 0;
  for (int32_t block = 0; block < view->num_blocks; block++) {
    sums[block] = 0;
    if (view->block_max[block] < within.value)
      continue;
    dk_entries rest = {list->values + n, list->ids + n, NULL};
    dk_split part = view->kernel->split(dk_fetch(view, block), dk_prefix_in_block(within, block), scale,
                                        found.num_list < 0 ? high : low, high, block * DK_BLOCK, rest);
    found.total += part.all;
    found.above += sums[block] = part.above;
    n += part.between;
    if (n > view->workspace->list_capacity)
      found.num_list = n = -1;
    if (found.num_list < 0)
      n = 0;
  }
  found.num_list = found.num_list < 0 ? -1 : n;
  return found;
}

/* Searches the list's n tokens, which are all those from the key `low` upwards; 0 where their mass misses the target.
 */
static int32_t in_largest(const dk_view *view, int32_t n, uint32_t low, const dk_scale *scale, uint64_t target,
                          dk_prefix *prefix, uint64_t *sums) {
  dk_view list = weighed_list(view, n, scale);
  if (list_mass(&list, -FLT_MAX) < target)
    return 0;
  memset(sums, 0, (size_t)view->num_blocks * sizeof *sums);
  *prefix = search_list(list, (dk_bracket){low, dk_key_of(view->max), 0, target}, scale, sums);
  return 1;
}

/* The tokens strictly above a bound, if the list can take them and they have the mass. */
static int32_t above_bound(const dk_view *view, dk_prefix within, float bound, const dk_scale *scale, uint64_t target,
                           dk_prefix *prefix, uint64_t *sums) {
  dk_prefix largest = dk_prefix_tighter(within, (dk_prefix){bound, -1});
  int32_t n = dk_gather(view, largest);
  return n > 0 && in_largest(view, n, dk_key_of(largest.value), scale, target, prefix, sums);
}

/* The threshold lies among the largest tokens: lists of those above the 16th and the 128th block maximum, then of about
 * a twentieth and nearly half of the row. */
static int32_t among_largest(const dk_view *view, dk_prefix within, const dk_scale *scale, uint64_t target,
                             dk_prefix *prefix, uint64_t *sums) {
  dk_view maxima = dk_view_maxima(view), sample = sample_of(view, within, scale);
  const float parts[2] = {value_at_count(&sample, 0.05), value_at_count(&sample, 0.45)};
  for (int32_t m = 16; m <= 128 && m <= view->num_blocks; m *= 8) {
    uint32_t bound = key_of_kth(&maxima, dk_key_of(-FLT_MAX), dk_key_of(view->max), m);
    if (above_bound(view, within, dk_value_of(bound), scale, target, prefix, sums))
      return 1;
  }
  return above_bound(view, within, parts[0], scale, target, prefix, sums) ||
         above_bound(view, within, parts[1], scale, target, prefix, sums);
}

/* The search within a bracket of values that has been surveyed; 0 where the threshold lies elsewhere, or the list is
 * too short for the bracket. */
static int32_t in_bracket(const dk_view *view, const dk_survey *found, const dk_scale *scale, uint64_t target,
                          float low, float high, dk_prefix *prefix, uint64_t *sums) {
  if (found->num_list <= 0 || found->above >= target)
    return 0;
  dk_view list = weighed_list(view, found->num_list, scale);
  if (found->above + list_mass(&list, -FLT_MAX) < target)
    return 0;
  *prefix = search_list(list, (dk_bracket){dk_key_of(low), dk_key_of(high) - 1, found->above, target}, scale, sums);
  return 1;
}

/* The threshold is this value, if what lies above it misses the target and what equals it makes up for that. */
static int32_t among_equals(const dk_view *view, dk_prefix within, float value, const dk_scale *scale, uint64_t target,
                            dk_prefix *prefix, uint64_t *sums) {
  uint64_t above = dk_prefix_mass(view, dk_prefix_tighter(within, (dk_prefix){value, -1}), scale, NULL);
  uint64_t mass = dk_prefix_mass(view, dk_prefix_tighter(within, (dk_prefix){value, INT32_MAX}), scale, NULL);
  if (above >= target || mass < target)
    return 0;
  *prefix = end_among_equals(view, value, target - above, scale);
  dk_prefix_mass(view, *prefix, scale, sums);
  return 1;
}

/* A bracket from a sample, one pass over the row, and a search of the list that the pass has made. Where the sample is
 * no guide, or misled: the largest tokens, then a wider bracket, then plainly. */
static dk_prefix by_sample(const dk_view *view, dk_prefix within, const dk_scale *scale, float top_p, uint64_t *sums) {
  dk_prefix prefix;
  dk_view sample = sample_of(view, within, scale);
  double slack = slack_of(&sample, (double)top_p);
  uint64_t target;
  if (slack < 0.0) {
    target = crossing(top_p, dk_prefix_mass(view, within, scale, NULL));
  } else {
    float high = value_at_share(&sample, top_p - slack), low = value_at_share(&sample, top_p + slack);
    float lower = value_at_share(&sample, 1.0 - 0.4 * (1.0 - top_p - slack));
    float higher = value_at_share(&sample, 0.4 * (top_p - slack) + 0.6 * (top_p - slack) * top_p);
    dk_survey found = survey(view, within, scale, low, high, sums);
    target = crossing(top_p, found.total);
    if (in_bracket(view, &found, scale, target, low, high, &prefix, sums))
      return prefix;
    if (low == high && among_equals(view, within, low, scale, target, &prefix, sums))
      return prefix;
    /* the row's tail is heavier than the sample's, or its head */
    float second_low = found.above < target ? lower : high, second_high = found.above < target ? high : higher;
    found = survey(view, within, scale, second_low, second_high, sums);
    if (in_bracket(view, &found, scale, target, second_low, second_high, &prefix, sums))
      return prefix;
  }
  if (among_largest(view, within, scale, target, &prefix, sums))
    return prefix;
  prefix = by_histogram(view, within, scale, target);
  dk_prefix_mass(view, prefix, scale, sums);
  return prefix;
}

static dk_prefix plainly(const dk_view *view, dk_prefix within, const dk_scale *scale, float top_p, uint64_t *sums) {
  uint64_t total = dk_prefix_mass(view, within, scale, NULL);
  dk_prefix prefix = by_histogram(view, within, scale, crossing(top_p, total));
  dk_prefix_mass(view, prefix, scale, sums);
  return prefix;
}

/* A prefix that is short already, say after top_k. */
static int32_t in_list(const dk_view *view, dk_prefix within, const dk_scale *scale, float top_p, dk_prefix *prefix,
                       uint64_t *sums) {
  int32_t n = dk_gather(view, within);
  if (n < 0)
    return 0;
  dk_view list = weighed_list(view, n, scale);
  uint64_t target = crossing(top_p, list_mass(&list, -FLT_MAX));
  memset(sums, 0, (size_t)view->num_blocks * sizeof *sums);
  dk_bracket bracket = {dk_key_of(within.value), dk_key_of(view->max), 0, target};
  *prefix = search_list(list, bracket, scale, sums);
  return 1;
}

dk_prefix dk_select_mass(const dk_view *view, dk_prefix within, int32_t is_short, const dk_scale *scale, float top_p,
                         uint64_t *sums) {
  dk_prefix prefix;
  if (view->plain_search)
    return plainly(view, within, scale, top_p, sums);
  if (is_short && in_list(view, within, scale, top_p, &prefix, sums))
    return prefix;
  return by_sample(view, within, scale, top_p, sums);
}

uint64_t dk_weigh(const dk_view *view, dk_prefix prefix, const dk_scale *scale, uint64_t *sums) {
  int32_t n = view->plain_search ? -1 : dk_gather(view, prefix);
  if (n < 0)
    return dk_prefix_mass(view, prefix, scale, sums);
  dk_view list = weighed_list(view, n, scale);
  memset(sums, 0, (size_t)view->num_blocks * sizeof *sums);
  spread(&list, -FLT_MAX, sums);
  return list_mass(&list, -FLT_MAX);
}
