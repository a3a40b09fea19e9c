/* Tokens taken out of their row with their weights, and the search for the value at which their running mass, from the
 * top, reaches a target: quickselect (Hoare 1961), by mass instead of number. Every step splits what is left by one of
 * its values in three, so ties, however many, cost one step. */
#include <float.h>
#include <math.h>

#include "sampling/float_keys.h"
#include "sampling/top_k.h"

static int32_t whole_blocks(int32_t n) { return (n + DK_BLOCK - 1) / DK_BLOCK * DK_BLOCK; }

dk_list dk_list_of(const dk_view *view, int32_t n, const dk_scale *scale) {
  dk_list list = {view, view->workspace->list, n};
  for (int32_t i = n; i < whole_blocks(n); i++)
    list.entries.values[i] = -INFINITY;
  for (int32_t i = 0; i < n; i += DK_BLOCK)
    view->kernel->weights((dk_block){list.entries.values + i, DECODING_FLOAT32}, -FLT_MAX, scale,
                          list.entries.weights + i);
  return list;
}

/* What a search has narrowed a list to: n values and weights, with -inf and 0 up to whole blocks. */
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

/* The values within [low, high], at `to`. */
static dk_rest narrowed(dk_rest rest, float low, float high, dk_weighted to) {
  int32_t n = 0;
  for (int32_t i = 0; i < rest.n; i += DK_BLOCK)
    n += rest.kernel->narrow(at(rest.from, i), low, high, at(to, n));
  for (int32_t i = n; i < whole_blocks(n); i++) {
    to.values[i] = -INFINITY;
    to.weights[i] = 0;
  }
  return (dk_rest){rest.kernel, to, n};
}

#define NUM_CANDIDATES 15

/* One of a few values: the one at which their running mass, from the top, reaches about this share of their own. */
static float pivot_of(const dk_rest *rest, double share) {
  float values[NUM_CANDIDATES];
  double masses[NUM_CANDIDATES], total = 0.0, above = 0.0;
  for (int32_t c = 0; c < NUM_CANDIDATES; c++) {
    int64_t place = (2 * (int64_t)c + 1) * rest->n / (2 * NUM_CANDIDATES);
    float value = rest->from.values[place];
    double mass = (double)(int64_t)rest->from.weights[place];
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
  while (chosen < NUM_CANDIDATES - 1 && (above += masses[chosen]) < share * total)
    chosen++;
  return values[chosen];
}

static float middle_of(float low, float high) {
  return dk_value_of(dk_key_of(low) + (dk_key_of(high) - dk_key_of(low)) / 2);
}

/* Steps that look for a good pivot; whatever the values are, the later ones halve the keys that are left. */
#define GOOD_STEPS 24

int32_t dk_search_list(const dk_list *list, uint64_t target, dk_threshold *threshold) {
  dk_rest rest = all_of(list);
  dk_weighted to = at(rest.from, whole_blocks(list->n)); /* behind the list, which stays as it is */
  float low = -FLT_MAX, high = FLT_MAX;
  double share = 0.5;
  for (int32_t step = 0; rest.n > 0; step++) {
    float pivot = step < GOOD_STEPS ? pivot_of(&rest, share) : middle_of(low, high);
    dk_tally found = tally(&rest, pivot);
    if (found.above < target && found.above + found.equal >= target) {
      *threshold = (dk_threshold){pivot, target - found.above};
      return 1;
    }
    if (found.above >= target) {
      low = dk_next_above(pivot);
      share = (double)target / (double)found.above;
    } else {
      high = dk_next_below(pivot);
      target -= found.above + found.equal;
      share = 0.5; /* the mass below is not known */
    }
    rest = narrowed(rest, low, high, to);
  }
  return 0;
}

uint64_t dk_list_mass(const dk_list *list) {
  dk_rest rest = all_of(list);
  return tally(&rest, -INFINITY).above;
}

void dk_spread_list(const dk_list *list, float low, uint64_t *sums) {
  const int32_t *starts = list->view->workspace->list_start;
  dk_weighted all = {list->entries.values, list->entries.weights};
  for (int32_t block = 0; block < list->view->num_blocks; block++)
    if (starts[block] < starts[block + 1])
      sums[block] += list->view->kernel->sum(at(all, starts[block]), starts[block + 1] - starts[block], low);
}

/* The place of a value that is in the list. */
static int32_t first_equal(const dk_list *list, float value) {
  for (int32_t i = 0;; i += DK_BLOCK) {
    int32_t place = list->view->kernel->find((dk_block){list->entries.values + i, DECODING_FLOAT32}, value);
    if (place >= 0)
      return i + place;
  }
}

/* The first of the equals that make up for what is missing, block by block, then one by one. */
dk_prefix dk_end_in_list(const dk_list *list, dk_threshold end, uint64_t *sums) {
  const int32_t *starts = list->view->workspace->list_start;
  dk_weighted all = {list->entries.values, list->entries.weights};
  int32_t i = first_equal(list, end.value), block = 0;
  float over = dk_next_above(end.value);
  dk_spread_list(list, over, sums);
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
