/* The remaining tokens of a distribution as a list. */
#include "sampling/survivors.h"

#include <math.h>
#include <string.h>

void dk_use_survivors(dk_distribution *d, int32_t n) {
  dk_workspace *workspace = d->view.workspace;
  d->view = dk_view_list(&d->view, workspace->survivors, n, workspace->survivor_max);
  d->kept = dk_prefix_all();
  dk_rescale(d);
}

int32_t dk_gather_survivors(const dk_view *view, dk_prefix prefix) {
  dk_workspace *workspace = view->workspace;
  int32_t n = dk_gather(view, prefix, workspace->list);
  memcpy(workspace->survivors.values, workspace->list.values, (size_t)n * sizeof(float));
  memcpy(workspace->survivors.ids, workspace->list.ids, (size_t)n * sizeof(int32_t));
  return n;
}

int32_t dk_compact_survivors(const dk_entries *survivors, int32_t n) {
  int32_t left = 0;
  for (int32_t i = 0; i < n; i++) {
    survivors->values[left] = survivors->values[i];
    survivors->ids[left] = survivors->ids[i];
    left += survivors->values[i] > -INFINITY;
  }
  return left;
}

void dk_use_list(dk_distribution *d, int32_t n) {
  const dk_entries *list = &d->view.workspace->list, *survivors = &d->view.workspace->survivors;
  int32_t left = 0;
  for (int32_t i = 0; i < n; i++) {
    survivors->values[left] = list->values[i];
    survivors->ids[left] = list->ids[i];
    left += dk_prefix_contains(d->kept, list->values[i], list->ids[i]);
  }
  dk_use_survivors(d, left);
}

void dk_use_kept(dk_distribution *d) { dk_use_survivors(d, dk_gather_survivors(&d->view, d->kept)); }
