/* Views of a row: the finite check, and the fetch that lays edits, masks and shape over the caller's logits. */
#include "sampling/row_view.h"

#include <math.h>
#include <string.h>

#include "simd/float16.h"

static size_t element_size(const dk_view *view) { return view->dtype == DECODING_FLOAT32 ? 4 : 2; }

static int32_t block_length(const dk_view *view, int32_t block) {
  int32_t rest = view->vocab_size - block * DK_BLOCK;
  return rest < DK_BLOCK ? rest : DK_BLOCK;
}

static int32_t first_edit(const dk_view *view, int32_t block) {
  return view->is_edited ? view->workspace->edit_head[block] : -1;
}

float *dk_fetch_copy(const dk_view *view, int32_t block) {
  const uint32_t *words = dk_block_mask(view, block);
  const char *address = view->logits + (size_t)block * DK_BLOCK * element_size(view);
  float *copy = view->workspace->block;
  if (block < view->vocab_size / DK_BLOCK && view->dtype == DECODING_FLOAT32 && !view->has_nan)
    memcpy(copy, address, DK_BLOCK * sizeof(float));
  else
    view->kernel->widen(address, view->dtype, block_length(view, block), copy);
  for (int32_t i = first_edit(view, block); i >= 0; i = view->workspace->edits[i].next)
    copy[view->workspace->edits[i].token_id % DK_BLOCK] = view->workspace->edits[i].value;
  if (words != NULL)
    view->kernel->mask(copy, words);
  if (view->is_shaped)
    view->kernel->smooth(copy, &view->shape);
  return copy;
}

dk_block dk_fetch(const dk_view *view, int32_t block) {
  if (block >= view->num_plain && (block_length(view, block) < DK_BLOCK || view->has_nan || view->is_shaped ||
                                   first_edit(view, block) >= 0 || dk_block_mask(view, block) != NULL))
    return (dk_block){dk_fetch_copy(view, block), DECODING_FLOAT32};
  return (dk_block){view->logits + (size_t)block * DK_BLOCK * element_size(view), view->dtype};
}

const float *dk_fetch_floats(const dk_view *view, int32_t block) {
  dk_block fetched = dk_fetch(view, block);
  if (fetched.dtype == DECODING_FLOAT32 && (uintptr_t)fetched.data % sizeof(float) == 0)
    return fetched.data;
  return dk_fetch_copy(view, block);
}

float dk_read_logit(const dk_view *view, int32_t token_id) {
  const char *address = view->logits + (size_t)token_id * element_size(view);
  float logit;
  uint16_t half;
  if (view->dtype == DECODING_FLOAT32) {
    memcpy(&logit, address, sizeof logit);
  } else {
    memcpy(&half, address, sizeof half);
    logit = view->dtype == DECODING_FLOAT16 ? dk_float_of_f16(half) : dk_float_of_bf16(half);
  }
  return isnan(logit) ? -INFINITY : logit;
}

static float edited_logit(const dk_view *view, int32_t place) {
  if (view->mask != NULL && !(view->mask[place / 32] >> place % 32 & 1u))
    return -INFINITY;
  for (int32_t i = first_edit(view, place / DK_BLOCK); i >= 0; i = view->workspace->edits[i].next)
    if (view->workspace->edits[i].token_id == place)
      return view->workspace->edits[i].value;
  return dk_read_logit(view, place);
}

float dk_shaped(const dk_view *view, float logit) {
  float block[DK_BLOCK];
  for (int32_t i = 0; i < DK_BLOCK; i++)
    block[i] = logit;
  view->kernel->smooth(block, &view->shape);
  return block[0];
}

float dk_value(const dk_view *view, int32_t place) {
  float logit = edited_logit(view, place);
  return view->is_shaped ? dk_shaped(view, logit) : logit;
}

int32_t dk_places_up_to(const dk_view *view, int32_t token_id) {
  if (view->ids == NULL)
    return token_id + 1;
  int32_t low = 0, high = view->vocab_size;
  while (low < high) {
    int32_t middle = low + (high - low) / 2;
    if (view->ids[middle] <= token_id)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

int32_t dk_place(const dk_view *view, int32_t token_id) {
  int32_t place = dk_places_up_to(view, token_id) - 1;
  return place >= 0 && dk_id(view, place) == token_id ? place : -1;
}

void dk_peek(const dk_view *view, float *values) {
  char runs[DK_BLOCK * sizeof(float)];
  size_t size = element_size(view), bytes = DK_LANES * size;
  int64_t last = view->vocab_size - DK_LANES;
  for (int32_t i = 0; i < DK_SAMPLE_SIZE; i += DK_BLOCK) {
    for (int32_t j = 0; j < DK_BLOCK; j += DK_LANES) {
      size_t start = (size_t)(last * (i + j) / DK_SAMPLE_SIZE);
      memcpy(runs + (size_t)j * size, view->logits + start * size, bytes);
    }
    view->kernel->widen(runs, view->dtype, DK_BLOCK, values + i);
    if (view->is_shaped)
      view->kernel->smooth(values + i, &view->shape);
  }
}

static int32_t padded(int32_t n) { return (n + DK_BLOCK - 1) / DK_BLOCK * DK_BLOCK; }

float dk_largest(const dk_kernel *kernel, float *maxima, int32_t n) {
  float max = -INFINITY;
  for (int32_t i = n; i < padded(n); i++)
    maxima[i] = -INFINITY;
  for (int32_t i = 0; i < n; i += DK_BLOCK) {
    float block = kernel->maximum(maxima + i);
    max = block > max ? block : max;
  }
  return max;
}

/* A row of whole blocks in the workspace. */
static dk_view plain_view(const dk_view *parent, const float *values, int32_t num_blocks, float *block_max) {
  dk_view view = *parent;
  view.logits = (const char *)values;
  view.dtype = DECODING_FLOAT32;
  view.vocab_size = num_blocks * DK_BLOCK;
  view.num_blocks = view.num_plain = num_blocks;
  view.has_nan = view.is_edited = view.is_shaped = 0;
  view.ids = NULL;
  view.mask = NULL;
  for (int32_t block = 0; block < num_blocks; block++)
    block_max[block] = view.kernel->maximum(values + (size_t)block * DK_BLOCK);
  view.block_max = block_max;
  view.max = dk_largest(view.kernel, block_max, num_blocks);
  return view;
}

dk_view dk_view_maxima(const dk_view *view) {
  return plain_view(view, view->block_max, padded(view->num_blocks) / DK_BLOCK, view->workspace->maxima_max);
}

dk_view dk_view_list(const dk_view *view, dk_entries entries, int32_t n, float *block_max) {
  for (int32_t i = n; i < padded(n); i++) {
    entries.values[i] = -INFINITY;
    entries.ids[i] = INT32_MAX;
    if (entries.weights != NULL)
      entries.weights[i] = 0;
  }
  dk_view list = plain_view(view, entries.values, padded(n) / DK_BLOCK, block_max);
  list.ids = entries.ids;
  return list;
}

dk_view dk_view_shaped(const dk_view *view, dk_smoothing shape) {
  dk_view shaped = *view;
  float *block_max = view->workspace->shaped_max;
  shaped.is_shaped = 1;
  shaped.num_plain = 0;
  shaped.shape = shape;
  memcpy(block_max, view->block_max, (size_t)padded(view->num_blocks) * sizeof *block_max);
  for (int32_t i = 0; i < view->num_blocks; i += DK_BLOCK) /* monotone: maxima stay maxima */
    view->kernel->smooth(block_max + i, &shape);
  shaped.block_max = block_max;
  shaped.max = dk_largest(view->kernel, block_max, view->num_blocks);
  return shaped;
}

/* The error path: the first token that is NaN (where that is an error) or +inf. There is one. */
static int32_t first_not_finite(const dk_view *view, int32_t nan_is_bad) {
  for (int32_t i = 0;; i++) {
    float max;
    uint32_t seen = view->kernel->scan(view->logits + (size_t)i * element_size(view), view->dtype, 1, &max);
    if ((seen & DK_SAW_INFINITY) || (nan_is_bad && (seen & DK_SAW_NAN)))
      return i;
  }
}

dk_failure dk_view_raw(dk_view *view, const decoding_batch *batch, const void *logits, dk_workspace *workspace) {
  int32_t nan_is_bad = !(batch->flags & DECODING_MASK_NAN);
  *view = (dk_view){.kernel = dk_active_kernel(),
                    .logits = logits,
                    .dtype = batch->dtype,
                    .vocab_size = batch->vocab_size,
                    .num_blocks = (batch->vocab_size + DK_BLOCK - 1) / DK_BLOCK,
                    .block_max = workspace->raw_max,
                    .plain_search = (batch->flags & DECODING_PLAIN_SEARCH) != 0,
                    .workspace = workspace};
  uint32_t seen = view->kernel->scan(logits, batch->dtype, batch->vocab_size, workspace->raw_max);
  view->has_nan = (seen & DK_SAW_NAN) != 0;
  view->num_plain = view->has_nan ? 0 : batch->vocab_size / DK_BLOCK;
  if ((seen & DK_SAW_INFINITY) || (view->has_nan && nan_is_bad))
    return (dk_failure){DECODING_NONFINITE, DECODING_STAGE_FINITE_CHECK, first_not_finite(view, nan_is_bad)};
  view->max = dk_largest(view->kernel, workspace->raw_max, view->num_blocks);
  if (view->max == -INFINITY)
    return (dk_failure){DECODING_EMPTY, DECODING_STAGE_FINITE_CHECK, -1};
  return DK_FINE;
}
