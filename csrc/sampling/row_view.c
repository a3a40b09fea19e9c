/* Views of a row: the finite check, and fetches that apply edits, masks and smoothing to copies of blocks. */
#include "sampling/row_view.h"

#include <math.h>
#include <string.h>

#include "simd/float16.h"

static size_t element_size(const dk_view *view) { return view->dtype == DECODING_FLOAT32 ? 4 : 2; }

static const char *address_of(const dk_view *view, int32_t index) {
  return view->logits + (size_t)index * element_size(view);
}

static int32_t block_length(const dk_view *view, int32_t block) {
  int32_t rest = view->num_elements - block * DK_BLOCK;
  return rest < DK_BLOCK ? rest : DK_BLOCK;
}

static int32_t first_edit(const dk_view *view, int32_t block) {
  return view->edits != NULL ? view->edits->first[block] : -1;
}

const uint32_t *dk_block_mask(const dk_view *view, int32_t block) {
  if (view->mask == NULL)
    return NULL;
  const uint32_t *words = view->mask + (size_t)block * DK_MASK_WORDS;
  uint32_t all = words[0];
  for (int w = 1; w < DK_MASK_WORDS; w++)
    all &= words[w];
  return all == UINT32_MAX ? NULL : words;
}

float *dk_fetch_copy(const dk_view *view, int32_t block) {
  const uint32_t *words = dk_block_mask(view, block);
  const char *address = address_of(view, block * DK_BLOCK);
  float *copy = view->workspace->block;
  if (block < view->num_elements / DK_BLOCK && view->dtype == DECODING_FLOAT32 && !view->has_nan)
    memcpy(copy, address, DK_BLOCK * sizeof(float));
  else
    view->kernel->widen(address, view->dtype, block_length(view, block), copy);
  for (int32_t i = first_edit(view, block); i >= 0; i = view->edits->items[i].next)
    copy[view->edits->items[i].token_id % DK_BLOCK] = view->edits->items[i].value;
  if (words != NULL)
    view->kernel->mask(copy, words);
  if (view->is_smoothed)
    view->kernel->smooth(copy, &view->smoothing);
  return copy;
}

/* Return true if a block differs from the caller's memory by more than edits. */
static bool needs_copy_without_edits(const dk_view *view, int32_t block) {
  return block_length(view, block) < DK_BLOCK || view->has_nan || view->is_smoothed ||
         dk_block_mask(view, block) != NULL;
}

static bool needs_copy(const dk_view *view, int32_t block) {
  return block >= view->num_plain && (first_edit(view, block) >= 0 || needs_copy_without_edits(view, block));
}

dk_block dk_fetch(const dk_view *view, int32_t block) {
  if (needs_copy(view, block))
    return (dk_block){dk_fetch_copy(view, block), DECODING_FLOAT32};
  return (dk_block){address_of(view, block * DK_BLOCK), view->dtype};
}

int32_t dk_count(const dk_view *view, int32_t block, float low) {
  if (needs_copy_without_edits(view, block))
    return view->kernel->count(dk_fetch(view, block), low);
  int32_t n = view->kernel->count((dk_block){address_of(view, block * DK_BLOCK), view->dtype}, low);
  for (int32_t i = first_edit(view, block); i >= 0; i = view->edits->items[i].next)
    n += (view->edits->items[i].value >= low) - (view->edits->items[i].raw >= low);
  return n;
}

const float *dk_fetch_floats(const dk_view *view, int32_t block) {
  dk_block fetched = dk_fetch(view, block);
  if (fetched.dtype == DECODING_FLOAT32 && (uintptr_t)fetched.data % sizeof(float) == 0)
    return fetched.data;
  return dk_fetch_copy(view, block);
}

float dk_read_logit(const dk_view *view, int32_t token_id) {
  const char *address = address_of(view, token_id);
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

dk_edit *dk_edit_of(const dk_view *view, int32_t token_id) {
  dk_edit *edit = dk_find_edit(view->edits, token_id);
  return edit != NULL ? edit : dk_add_edit(view->edits, token_id, dk_read_logit(view, token_id));
}

static float edited_logit(const dk_view *view, int32_t index) {
  if (view->mask != NULL && !(view->mask[index / 32] >> index % 32 & 1u))
    return -INFINITY;
  const dk_edit *edit = view->edits != NULL ? dk_find_edit(view->edits, index) : NULL;
  return edit != NULL ? edit->value : dk_read_logit(view, index);
}

float dk_smooth_logit(const dk_view *view, float logit) {
  float block[DK_BLOCK];
  for (int32_t i = 0; i < DK_BLOCK; i++)
    block[i] = logit;
  view->kernel->smooth(block, &view->smoothing);
  return block[0];
}

float dk_value(const dk_view *view, int32_t index) {
  float logit = edited_logit(view, index);
  return view->is_smoothed ? dk_smooth_logit(view, logit) : logit;
}

int32_t dk_num_ids_up_to(const dk_view *view, int32_t token_id) {
  if (view->ids == NULL)
    return token_id + 1;
  int32_t low = 0, high = view->num_elements;
  while (low < high) {
    int32_t middle = low + (high - low) / 2;
    if (view->ids[middle] <= token_id)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

int32_t dk_index_of(const dk_view *view, int32_t token_id) {
  int32_t index = dk_num_ids_up_to(view, token_id) - 1;
  return index >= 0 && dk_id(view, index) == token_id ? index : -1;
}

void dk_sample_values(const dk_view *view, float *values) {
  char runs[DK_BLOCK * sizeof(float)];
  size_t size = element_size(view), bytes = DK_LANES * size;
  int64_t last = view->num_elements - DK_LANES;
  for (int32_t i = 0; i < DK_SAMPLE_SIZE; i += DK_BLOCK) {
    for (int32_t j = 0; j < DK_BLOCK; j += DK_LANES) {
      size_t start = (size_t)(last * (i + j) / DK_SAMPLE_SIZE);
      memcpy(runs + (size_t)j * size, view->logits + start * size, bytes);
    }
    view->kernel->widen(runs, view->dtype, DK_BLOCK, values + i);
    if (view->is_smoothed)
      view->kernel->smooth(values + i, &view->smoothing);
  }
}

float dk_maximum_of(const dk_kernel *kernel, float *maxima, int32_t n) {
  float max = -INFINITY;
  for (int32_t i = n; i < dk_whole_blocks(n); i++)
    maxima[i] = -INFINITY;
  for (int32_t i = 0; i < n; i += DK_BLOCK) {
    float block = kernel->maximum(maxima + i);
    max = block > max ? block : max;
  }
  return max;
}

/* View whole blocks of values in the workspace. */
static dk_view plain_view(const dk_view *parent, const float *values, int32_t num_blocks, float *block_max) {
  dk_view view = {.kernel = parent->kernel,
                  .logits = (const char *)values,
                  .dtype = DECODING_FLOAT32,
                  .num_elements = num_blocks * DK_BLOCK,
                  .num_blocks = num_blocks,
                  .num_plain = num_blocks,
                  .use_plain_search = parent->use_plain_search,
                  .block_max = block_max,
                  .workspace = parent->workspace};
  for (int32_t block = 0; block < num_blocks; block++)
    block_max[block] = view.kernel->maximum(values + (size_t)block * DK_BLOCK);
  view.max = dk_maximum_of(view.kernel, block_max, num_blocks);
  return view;
}

dk_view dk_view_maxima(const dk_view *view) {
  return plain_view(view, view->block_max, dk_whole_blocks(view->num_blocks) / DK_BLOCK, view->workspace->maxima_max);
}

dk_view dk_view_list(const dk_view *view, dk_entries entries, int32_t n, float *block_max) {
  for (int32_t i = n; i < dk_whole_blocks(n); i++) {
    entries.values[i] = -INFINITY;
    entries.ids[i] = INT32_MAX;
    if (entries.weights != NULL)
      entries.weights[i] = 0;
  }
  dk_view list = plain_view(view, entries.values, dk_whole_blocks(n) / DK_BLOCK, block_max);
  list.ids = entries.ids;
  return list;
}

dk_view dk_view_smoothed(const dk_view *view, dk_smoothing smoothing) {
  dk_view smoothed = *view;
  float *block_max = view->workspace->smoothed_max;
  smoothed.is_smoothed = true;
  smoothed.num_plain = 0;
  smoothed.smoothing = smoothing;
  memcpy(block_max, view->block_max, (size_t)dk_whole_blocks(view->num_blocks) * sizeof *block_max);
  for (int32_t i = 0; i < view->num_blocks; i += DK_BLOCK) /* monotone: maxima remain maxima */
    view->kernel->smooth(block_max + i, &smoothing);
  smoothed.block_max = block_max;
  smoothed.max = dk_maximum_of(view->kernel, block_max, view->num_blocks);
  return smoothed;
}

/* Return the first token that is +inf or, where that is an error, NaN. There must be one. */
static int32_t first_not_finite(const dk_view *view, bool nan_is_error) {
  for (int32_t i = 0;; i++) {
    float max;
    uint32_t seen = view->kernel->scan(address_of(view, i), view->dtype, 1, &max);
    if ((seen & DK_SAW_INFINITY) || (nan_is_error && (seen & DK_SAW_NAN)))
      return i;
  }
}

dk_failure dk_view_raw(dk_view *view, const decoding_batch *batch, const void *logits, dk_workspace *workspace) {
  bool nan_is_error = !(batch->flags & DECODING_MASK_NAN);
  *view = (dk_view){.kernel = dk_active_kernel(),
                    .logits = logits,
                    .dtype = batch->dtype,
                    .num_elements = batch->vocab_size,
                    .num_blocks = (batch->vocab_size + DK_BLOCK - 1) / DK_BLOCK,
                    .block_max = workspace->raw_max,
                    .use_plain_search = (batch->flags & DECODING_PLAIN_SEARCH) != 0,
                    .workspace = workspace};
  uint32_t seen = view->kernel->scan(logits, batch->dtype, batch->vocab_size, workspace->raw_max);
  view->has_nan = (seen & DK_SAW_NAN) != 0;
  view->num_plain = view->has_nan ? 0 : batch->vocab_size / DK_BLOCK;
  if ((seen & DK_SAW_INFINITY) || (view->has_nan && nan_is_error))
    return (dk_failure){DECODING_NONFINITE, DECODING_STAGE_FINITE_CHECK, first_not_finite(view, nan_is_error)};
  view->max = dk_maximum_of(view->kernel, workspace->raw_max, view->num_blocks);
  if (view->max == -INFINITY)
    return (dk_failure){DECODING_EMPTY, DECODING_STAGE_FINITE_CHECK, -1};
  return DK_NO_FAILURE;
}
