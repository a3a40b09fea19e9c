/* Stages 8 to 12: temperature, then one prefix of the total order that each stage can only shorten. */
#include "decoding.h"
#include "distribution.h"
#include "logarithm.h"

#define GREEDY_TEMPERATURE 0x1p-20f
#define CUT (-40.0 * DK_LN2)        /* weights below 2^-40 are zero by definition */
#define NEGLIGIBLE (-45.0 * DK_LN2) /* weights below 2^-45 round to zero in units of 2^-43 */

/* exp2(d * rate): see expf16.h. For a temperature beyond 2^60 both sides are scaled by 2^-64, exactly. */
static dk_scale make_scale(float max, float temperature) {
  float unit = temperature >= 0x1p60f ? 0x1p-64f : 1.0f;
  double rate = DK_LOG2E / ((double)temperature * (double)unit);
  float high = (float)rate;
  return (dk_scale){unit, -max * unit, high, (float)(rate - (double)high)};
}

static dk_prefix at_least(const dk_view *view, float temperature, double log_ratio) {
  return dk_prefix_from((double)view->max + (double)temperature * log_ratio);
}

static dk_distribution tempered(const dk_view *view, float temperature) {
  return (dk_distribution){view, dk_prefix_all(), temperature, make_scale(view->max, temperature), 0, -1};
}

dk_distribution dk_whole(const dk_view *view, float temperature) {
  dk_distribution d = tempered(view, temperature);
  d.total = dk_prefix_mass(view, at_least(view, temperature, NEGLIGIBLE), &d.scale, NULL);
  return d;
}

static int32_t first_of_order(const dk_view *view) {
  for (int32_t block = 0; block < view->num_blocks; block++)
    if (view->block_max[block] == view->max)
      return block * DK_BLOCK + view->kernel->find(dk_fetch(view, block), view->max);
  return -1;
}

dk_distribution dk_point(const dk_view *view) {
  int32_t first = first_of_order(view);
  return (dk_distribution){.view = view, .kept = {view->max, first}, .point = first};
}

int32_t dk_is_greedy(const decoding_row *row) { return row->temperature < GREEDY_TEMPERATURE; }

int32_t dk_by_rejection(const decoding_row *row) {
  return !dk_is_greedy(row) && row->top_k == DECODING_TOP_K_OFF && row->top_p == 1.0f;
}

void dk_find_total(dk_distribution *d, uint64_t *sums) {
  if (d->point < 0 && d->total == 0)
    d->total = dk_weigh(d->view, d->kept, &d->scale, sums);
}

static uint64_t sum_of(const uint64_t *sums, int32_t n) {
  uint64_t total = 0;
  for (int32_t i = 0; i < n; i++)
    total += sums[i];
  return total;
}

dk_distribution dk_truncated(const dk_view *view, const decoding_row *row, uint64_t *sums) {
  if (dk_is_greedy(row))
    return dk_point(view);
  dk_distribution d = tempered(view, row->temperature);
  int32_t has_top_k = row->top_k < view->vocab_size;
  if (has_top_k)
    d.kept = dk_select_count(view, row->top_k);
  d.kept = dk_prefix_tighter(d.kept, at_least(view, row->temperature, CUT));
  if (row->top_p < 1.0f) {
    d.kept = dk_select_mass(view, d.kept, has_top_k, &d.scale, row->top_p, sums);
    d.total = sum_of(sums, view->num_blocks);
  }
  if (row->min_p > 0.0f) {
    dk_prefix least = at_least(view, row->temperature, dk_log((double)row->min_p));
    d.total = least.value > d.kept.value ? 0 : d.total;
    d.kept = dk_prefix_tighter(d.kept, least);
  }
  if (!dk_by_rejection(row))
    dk_find_total(&d, sums);
  return d;
}
