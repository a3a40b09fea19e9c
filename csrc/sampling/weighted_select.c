/* A list of tokens with weights, and the search for the value at which their running mass, from the largest value down,
 * reaches a target: quickselect (Hoare 1961) by mass instead of count. Each step divides the remaining values into
 * those above, equal to and below a pivot, so ties, however many, cost one step. */
#include "sampling/weighted_select.h"

#include <float.h>
#include <math.h>

#include "sampling/float_keys.h"

dk_list dk_list_of(const dk_view *view, int32_t n, const dk_scale *scale) {
  dk_list list = {view, view->workspace->list, n};
  for (int32_t i = n; i < dk_whole_blocks(n); i++)
    list.entries.values[i] = -INFINITY;
  for (int32_t i = 0; i < n; i += DK_BLOCK)
    view->kernel->weights((dk_block){list.entries.values + i, DECODING_FLOAT32}, -FLT_MAX, scale,
                          list.entries.weights + i);
  return list;
}

/* The part of a list that a search has narrowed it to: n values and weights, padded to whole blocks with -inf and 0. */
typedef struct dk_rest {
  const dk_kernel *kernel;
  dk_weighted from;
  int32_t n;
} dk_rest;

static dk_rest all_of(const dk_list *list) {
  return (dk_rest){list->view->kernel, {list->entries.values, list->entries.weights}, list->n};
}

static dk_weighted at(dk_weighted from, int32_t i) { return (dk_weighted){from.values + i, from.weights + i}; }

static dk_tally tally(const dk_rest *rest, float value) {
  dk_tally total = {0, 0};
  for (int32_t i = 0; i < rest->n; i += DK_BLOCK) {
    dk_tally block = rest->kernel->tally(at(rest->from, i), value);
    total.above += block.above;
    total.equal += block.equal;
  }
  return total;
}

/* Copy the values within [low, high] to `to`. */
static dk_rest narrowed(dk_rest rest, float low, float high, dk_weighted to) {
  int32_t n = 0;
  for (int32_t i = 0; i < rest.n; i += DK_BLOCK)
    n += rest.kernel->narrow(at(rest.from, i), low, high, at(to, n));
  for (int32_t i = n; i < dk_whole_blocks(n); i++) {
    to.values[i] = -INFINITY;
    to.weights[i] = 0;
  }
  return (dk_rest){rest.kernel, to, n};
}

#define NUM_CANDIDATES 15

/* Return one of a few candidates: the one at which their running mass, from the largest value down, reaches about this
 * fraction of their total. */
static float pivot_of(const dk_rest *rest, double fraction) {
  float values[NUM_CANDIDATES];
  double masses[NUM_CANDIDATES], total = 0.0, above = 0.0;
  for (int32_t c = 0; c < NUM_CANDIDATES; c++) {
    int64_t index = (2 * (int64_t)c + 1) * rest->n / (2 * NUM_CANDIDATES);
    float value = rest->from.values[index];
    double mass = (double)(int64_t)rest->from.weights[index];
    int32_t i = c;
    for (; i > 0 && values[i - 1] < value; i--) {
      values[i] = values[i - 1];
      masses[i] = masses[i - 1];
    }
    values[i] = value;
    masses[i] = mass;
    total += mass;
  }
  int32_t chosen = 0;
  while (chosen < NUM_CANDIDATES - 1 && (above += masses[chosen]) < fraction * total)
    chosen++;
  return values[chosen];
}

static float middle_of(float low, float high) {
  return dk_value_of(dk_key_of(low) + (dk_key_of(high) - dk_key_of(low)) / 2);
}

/* Number of steps that choose a pivot from the values. Later steps halve the range of keys, which bounds their number
 * whatever the values are. */
#define NUM_PIVOT_STEPS 24

bool dk_search_list(const dk_list *list, uint64_t target, dk_threshold *threshold) {
  dk_rest rest = all_of(list);
  dk_weighted to = at(rest.from, dk_whole_blocks(list->n)); /* behind the list, which is not changed */
  float low = -FLT_MAX, high = FLT_MAX;
  double fraction = 0.5;
  for (int32_t step = 0; rest.n > 0; step++) {
    float pivot = step < NUM_PIVOT_STEPS ? pivot_of(&rest, fraction) : middle_of(low, high);
    dk_tally found = tally(&rest, pivot);
    if (found.above < target && found.above + found.equal >= target) {
      *threshold = (dk_threshold){pivot, target - found.above};
      return true;
    }
    if (found.above >= target) {
      low = dk_next_above(pivot);
      fraction = (double)target / (double)found.above;
    } else {
      high = dk_next_below(pivot);
      target -= found.above + found.equal;
      fraction = 0.5; /* the mass below is not known */
    }
    rest = narrowed(rest, low, high, to);
  }
  return false;
}

uint64_t dk_list_mass(const dk_list *list) {
  dk_rest rest = all_of(list);
  return tally(&rest, -INFINITY).above;
}

/* Add the weights of the entries >= low to the sums of their blocks. */
static void add_to_blocks(const dk_list *list, float low, uint64_t *sums) {
  const int32_t *starts = list->view->workspace->list_start;
  dk_weighted all = {list->entries.values, list->entries.weights};
  for (int32_t block = 0; block < list->view->num_blocks; block++)
    if (starts[block] < starts[block + 1])
      sums[block] += list->view->kernel->sum(at(all, starts[block]), starts[block + 1] - starts[block], low);
}

/* Return the index of the first entry with this value; there must be one. */
static int32_t first_equal(const dk_list *list, float value) {
  for (int32_t i = 0;; i += DK_BLOCK) {
    int32_t index = list->view->kernel->find((dk_block){list->entries.values + i, DECODING_FLOAT32}, value);
    if (index >= 0)
      return i + index;
  }
}

/* Adds up the tokens equal to the threshold until their mass is no longer missing: block by block, then one by one. */
dk_prefix dk_end_in_list(const dk_list *list, dk_threshold end, uint64_t *sums) {
  const int32_t *starts = list->view->workspace->list_start;
  dk_weighted all = {list->entries.values, list->entries.weights};
  int32_t i = first_equal(list, end.value), block = 0;
  float over = dk_next_above(end.value);
  add_to_blocks(list, over, sums);
  while (starts[block + 1] <= i)
    block++;
  for (;; block++) {
    int32_t n = starts[block + 1] - starts[block];
    uint64_t equal = list->view->kernel->sum(at(all, starts[block]), n, end.value) -
                     list->view->kernel->sum(at(all, starts[block]), n, over);
    if (equal >= end.missing)
      break;
    sums[block] += equal;
    end.missing -= equal;
  }
  for (i = starts[block];; i++) {
    if (all.values[i] != end.value)
      continue;
    sums[block] += all.weights[i];
    if (all.weights[i] >= end.missing)
      return (dk_prefix){end.value, list->entries.ids[i]};
    end.missing -= all.weights[i];
  }
}
