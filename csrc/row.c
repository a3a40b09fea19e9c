/* A row in blocks: the finite check, the edits of stages 2 to 5, the masks of stage 7, and the fetch that lays them
 * over the caller's logits. */
#include "row.h"

#include <math.h>
#include <string.h>

static const dk_failure FINE = {DECODING_OK, 0, -1};

static char *carve(char **cursor, size_t size) {
  char *start = *cursor;
  *cursor = start + (size + 63) / 64 * 64;
  return start;
}

static size_t whole_blocks(size_t n) { return (n + DK_BLOCK - 1) / DK_BLOCK * DK_BLOCK; }

/* With memory = NULL this only measures. */
size_t dk_workspace_layout(int32_t vocab_size, int64_t max_edits, char *memory, dk_workspace *workspace) {
  size_t blocks = whole_blocks(((size_t)vocab_size + DK_BLOCK - 1) / DK_BLOCK);
  size_t capacity = whole_blocks((size_t)vocab_size / 2 + 4 * DK_BLOCK), room = capacity + DK_BLOCK;
  size_t skew = memory == NULL ? 0 : (64 - (uintptr_t)memory % 64) % 64;
  char *base = memory == NULL ? (char *)64 : memory + skew, *cursor = base;
  workspace->raw_max = (float *)(void *)carve(&cursor, blocks * sizeof(float));
  workspace->edited_max = (float *)(void *)carve(&cursor, blocks * sizeof(float));
  workspace->edit_head = (int32_t *)(void *)carve(&cursor, blocks * sizeof(int32_t));
  workspace->sums = (uint64_t *)(void *)carve(&cursor, blocks * sizeof(uint64_t));
  workspace->histogram = (uint64_t *)(void *)carve(&cursor, DK_BINS * sizeof(uint64_t));
  workspace->weights = (uint64_t *)(void *)carve(&cursor, DK_BLOCK * sizeof(uint64_t));
  workspace->keys = (uint32_t *)(void *)carve(&cursor, DK_BLOCK * sizeof(uint32_t));
  workspace->block = (float *)(void *)carve(&cursor, DK_BLOCK * sizeof(float));
  workspace->mask = (uint32_t *)(void *)carve(&cursor, blocks * DK_MASK_WORDS * sizeof(uint32_t));
  workspace->edits = (dk_edit *)(void *)carve(&cursor, (size_t)max_edits * sizeof(dk_edit));
  workspace->max_edits = max_edits;
  workspace->list.values = (float *)(void *)carve(&cursor, room * sizeof(float));
  workspace->list.ids = (int32_t *)(void *)carve(&cursor, room * sizeof(int32_t));
  workspace->list.weights = (uint64_t *)(void *)carve(&cursor, room * sizeof(uint64_t));
  workspace->list_max = (float *)(void *)carve(&cursor, whole_blocks(room / DK_BLOCK) * sizeof(float));
  workspace->maxima_max = (float *)(void *)carve(&cursor, DK_BLOCK * sizeof(float));
  workspace->list_capacity = (int32_t)capacity;
  return (size_t)(cursor - base) + 63; /* whatever the alignment of the caller's memory */
}

static int32_t block_length(const dk_view *view, int32_t block) {
  int32_t rest = view->vocab_size - block * DK_BLOCK;
  return rest < DK_BLOCK ? rest : DK_BLOCK;
}

static const char *block_address(const dk_view *view, int32_t block) {
  size_t element = view->dtype == DECODING_FLOAT32 ? 4 : 2;
  return view->logits + (size_t)block * DK_BLOCK * element;
}

/* Null where every token of the block is allowed. */
static const uint32_t *block_mask(const dk_view *view, int32_t block) {
  if (!view->is_edited || view->mask == NULL)
    return NULL;
  const uint32_t *words = view->mask + (size_t)block * DK_MASK_WORDS;
  uint32_t all = words[0];
  for (int w = 1; w < DK_MASK_WORDS; w++)
    all &= words[w];
  return all == UINT32_MAX ? NULL : words;
}

static int32_t first_edit(const dk_view *view, int32_t block) {
  return view->is_edited ? view->workspace->edit_head[block] : -1;
}

const float *dk_fetch(const dk_view *view, int32_t block) {
  const uint32_t *words = block_mask(view, block);
  int32_t edit = first_edit(view, block), length = block_length(view, block);
  const char *address = block_address(view, block);
  int32_t as_it_lies = view->dtype == DECODING_FLOAT32 && length == DK_BLOCK && !view->has_nan &&
                       (uintptr_t)address % sizeof(float) == 0;
  if (as_it_lies && words == NULL && edit < 0)
    return (const float *)(const void *)address;
  float *copy = view->workspace->block;
  view->kernel->widen(address, view->dtype, length, copy);
  for (; edit >= 0; edit = view->workspace->edits[edit].next)
    copy[view->workspace->edits[edit].token_id % DK_BLOCK] = view->workspace->edits[edit].value;
  if (words != NULL)
    view->kernel->mask(copy, words);
  return copy;
}

static float read_logit(const dk_view *view, int32_t token_id) {
  float lanes[DK_BLOCK];
  size_t element = view->dtype == DECODING_FLOAT32 ? 4 : 2;
  if (view->dtype == DECODING_FLOAT32 && !view->has_nan) {
    memcpy(lanes, view->logits + (size_t)token_id * element, sizeof lanes[0]);
    return lanes[0];
  }
  view->kernel->widen(view->logits + (size_t)token_id * element, view->dtype, 1, lanes);
  return lanes[0];
}

void dk_peek(const dk_view *view, int32_t n, float *values) {
  size_t element = view->dtype == DECODING_FLOAT32 ? 4 : 2;
  int32_t runs = n / DK_LANES, last = view->vocab_size - DK_LANES;
  float block[DK_BLOCK];
  for (int32_t run = 0; run < runs; run++) {
    int32_t start = last > 0 ? (int32_t)((int64_t)last * run / runs) : 0;
    int32_t length = last > 0 ? DK_LANES : view->vocab_size;
    view->kernel->widen(view->logits + (size_t)start * element, view->dtype, length, block);
    memcpy(values + run * DK_LANES, block, DK_LANES * sizeof(float));
  }
}

static dk_edit *find_edit(const dk_view *view, int32_t token_id) {
  dk_workspace *workspace = view->workspace;
  for (int32_t i = workspace->edit_head[token_id / DK_BLOCK]; i >= 0; i = workspace->edits[i].next)
    if (workspace->edits[i].token_id == token_id)
      return &workspace->edits[i];
  return NULL;
}

float dk_value(const dk_view *view, int32_t token_id) {
  if (view->is_edited) {
    if (view->mask != NULL && !(view->mask[token_id / 32] >> token_id % 32 & 1u))
      return -INFINITY;
    const dk_edit *edit = find_edit(view, token_id);
    if (edit != NULL)
      return edit->value;
  }
  return read_logit(view, token_id);
}

/* The maximum of n block maxima; -inf fills up their last block. */
static float largest(const dk_kernel *kernel, float *maxima, int32_t n) {
  float max = -INFINITY;
  for (int32_t i = n; i < (int32_t)whole_blocks((size_t)n); i++)
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
  view.num_blocks = num_blocks;
  view.has_nan = view.is_edited = 0;
  view.ids = NULL;
  view.mask = NULL;
  for (int32_t block = 0; block < num_blocks; block++)
    block_max[block] = view.kernel->maximum(values + (size_t)block * DK_BLOCK);
  view.block_max = block_max;
  view.max = largest(view.kernel, block_max, num_blocks);
  return view;
}

dk_view dk_view_maxima(const dk_view *view) {
  int32_t num_blocks = (view->num_blocks + DK_BLOCK - 1) / DK_BLOCK;
  return plain_view(view, view->block_max, num_blocks, view->workspace->maxima_max);
}

dk_view dk_view_list(const dk_view *view, int32_t n) {
  dk_workspace *workspace = view->workspace;
  int32_t padded = (int32_t)whole_blocks((size_t)n);
  for (int32_t i = n; i < padded; i++) {
    workspace->list.values[i] = -INFINITY;
    workspace->list.weights[i] = 0;
  }
  dk_view list = plain_view(view, workspace->list.values, padded / DK_BLOCK, workspace->list_max);
  list.ids = workspace->list.ids;
  return list;
}

/* The error path: the first token that is NaN (where that is an error) or +inf. */
static int32_t first_not_finite(const dk_view *view, int32_t nan_is_bad) {
  size_t element = view->dtype == DECODING_FLOAT32 ? 4 : 2;
  for (int32_t i = 0; i < view->vocab_size; i++) {
    float max;
    uint32_t seen = view->kernel->scan(view->logits + (size_t)i * element, view->dtype, 1, &max);
    if ((seen & DK_SAW_INFINITY) || (nan_is_bad && (seen & DK_SAW_NAN)))
      return i;
  }
  return -1;
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
  if ((seen & DK_SAW_INFINITY) || (view->has_nan && nan_is_bad))
    return (dk_failure){DECODING_NONFINITE, DECODING_STAGE_FINITE_CHECK, first_not_finite(view, nan_is_bad)};
  view->max = largest(view->kernel, workspace->raw_max, view->num_blocks);
  if (view->max == -INFINITY)
    return (dk_failure){DECODING_EMPTY, DECODING_STAGE_FINITE_CHECK, -1};
  return FINE;
}

/* One edit of one logit, each operation rounded to float32 once. */
typedef struct dk_touch {
  float value;
  int32_t bad_stage; /* the stage after which the value is not finite, or -1 */
} dk_touch;

static void settle(dk_touch *touch, float value, int32_t stage) {
  touch->value = value;
  if (touch->bad_stage < 0 && !isfinite(value))
    touch->bad_stage = stage;
}

static dk_touch penalize(float logit, const decoding_row *row, int32_t i) {
  dk_touch touch = {logit, -1};
  if (row->repetition_penalty != 1.0f && row->history_scope_counts[i] > 0) {
    float r = row->repetition_penalty;
    settle(&touch, touch.value > 0.0f ? touch.value / r : touch.value * r, DECODING_STAGE_REPETITION_PENALTY);
  }
  int32_t count = row->history_output_counts[i];
  if (count > 0 && (row->frequency_penalty != 0.0f || row->presence_penalty != 0.0f)) {
    float penalty = (float)count * row->frequency_penalty;
    penalty = penalty + row->presence_penalty;
    settle(&touch, touch.value - penalty, DECODING_STAGE_FREQUENCY_PRESENCE);
  }
  if (row->context_frequency_penalty != 0.0f) {
    float penalty = (float)row->history_total_counts[i] * row->context_frequency_penalty;
    settle(&touch, touch.value - penalty, DECODING_STAGE_CONTEXT_FREQUENCY_PENALTY);
  }
  return touch;
}

static int32_t is_token(const dk_view *view, int32_t token_id) { return token_id >= 0 && token_id < view->vocab_size; }

static void add_edit(dk_workspace *workspace, int32_t *num_edits, int32_t token_id, float value) {
  int32_t *head = &workspace->edit_head[token_id / DK_BLOCK];
  workspace->edits[*num_edits] = (dk_edit){token_id, value, *head};
  *head = (*num_edits)++;
}

static int32_t has_penalties(const decoding_row *row) {
  return row->repetition_penalty != 1.0f || row->frequency_penalty != 0.0f || row->presence_penalty != 0.0f ||
         row->context_frequency_penalty != 0.0f;
}

/* Stages run over the whole row, one after another: of several failures the earliest stage is reported, and there the
 * lowest id. */
static dk_failure earlier(dk_failure a, dk_failure b) {
  if (a.status == DECODING_OK)
    return b;
  return b.stage < a.stage || (b.stage == a.stage && b.token_id < a.token_id) ? b : a;
}

/* Stages 2 to 4. A logit of -inf is a ban, and stays one. */
static dk_failure edit_history(dk_view *view, const decoding_row *row, int32_t *num_edits) {
  dk_failure failure = FINE;
  for (int32_t i = 0; i < row->num_history; i++) {
    int32_t token_id = row->history_token_ids[i];
    if (!is_token(view, token_id))
      return (dk_failure){DECODING_BAD_TOKEN_ID, DECODING_STAGE_REPETITION_PENALTY, token_id};
    float logit = read_logit(view, token_id);
    if (!has_penalties(row) || logit == -INFINITY)
      continue;
    dk_touch touch = penalize(logit, row, i);
    if (touch.bad_stage >= 0)
      failure = earlier(failure, (dk_failure){DECODING_NONFINITE, touch.bad_stage, token_id});
    add_edit(view->workspace, num_edits, token_id, touch.value);
  }
  return failure;
}

/* Stage 5. */
static dk_failure edit_bias(dk_view *view, const decoding_row *row, int32_t *num_edits) {
  for (int32_t i = 0; i < row->num_bias; i++) {
    int32_t token_id = row->bias_token_ids[i];
    if (!is_token(view, token_id))
      return (dk_failure){DECODING_BAD_TOKEN_ID, DECODING_STAGE_LOGIT_BIAS, token_id};
    dk_edit *edit = find_edit(view, token_id);
    float logit = edit != NULL ? edit->value : read_logit(view, token_id);
    float value = logit + row->bias_values[i];
    if (logit == -INFINITY)
      continue;
    if (!isfinite(value))
      return (dk_failure){DECODING_NONFINITE, DECODING_STAGE_LOGIT_BIAS, token_id};
    if (edit != NULL)
      edit->value = value;
    else
      add_edit(view->workspace, num_edits, token_id, value);
  }
  return FINE;
}

static int32_t first_bad_id(const dk_view *view, const int32_t *ids, int32_t n) {
  for (int32_t i = 0; i < n; i++)
    if (!is_token(view, ids[i]))
      return i;
  return n;
}

static void start_mask(const dk_view *view, const decoding_row *row, uint32_t *mask) {
  size_t words = (size_t)view->num_blocks * DK_MASK_WORDS, used = ((size_t)view->vocab_size + 31) / 32;
  memset(mask, row->allowed_token_ids != NULL ? 0 : 0xFF, words * sizeof *mask);
  for (int32_t i = 0; row->allowed_token_ids != NULL && i < row->num_allowed; i++)
    mask[row->allowed_token_ids[i] / 32] |= 1u << row->allowed_token_ids[i] % 32;
  for (size_t w = 0; row->bitmask != NULL && w < used; w++)
    mask[w] &= row->bitmask[w];
}

static void ban_padding(const decoding_batch *batch, uint32_t *mask) {
  for (int32_t id = batch->num_valid_tokens; id < batch->vocab_size; id++)
    mask[id / 32] &= ~(1u << id % 32);
}

/* Stage 7: allowed ids, the grammar's bitmask, banned ids and padding meet in one bitmask. */
static dk_failure mask_tokens(dk_view *view, const decoding_batch *batch, const decoding_row *row) {
  int32_t bad = first_bad_id(view, row->banned_token_ids, row->num_banned);
  if (bad < row->num_banned)
    return (dk_failure){DECODING_BAD_TOKEN_ID, DECODING_STAGE_HARD_MASKS, row->banned_token_ids[bad]};
  bad = row->allowed_token_ids == NULL ? 0 : first_bad_id(view, row->allowed_token_ids, row->num_allowed);
  if (row->allowed_token_ids != NULL && bad < row->num_allowed)
    return (dk_failure){DECODING_BAD_TOKEN_ID, DECODING_STAGE_HARD_MASKS, row->allowed_token_ids[bad]};
  int32_t has_padding = batch->num_valid_tokens < batch->vocab_size;
  if (row->num_banned == 0 && row->allowed_token_ids == NULL && row->bitmask == NULL && !has_padding)
    return FINE;
  uint32_t *mask = view->workspace->mask;
  start_mask(view, row, mask);
  for (int32_t i = 0; i < row->num_banned; i++)
    mask[row->banned_token_ids[i] / 32] &= ~(1u << row->banned_token_ids[i] % 32);
  ban_padding(batch, mask);
  view->mask = mask;
  return FINE;
}

static int32_t masks_all(const uint32_t *words) {
  uint32_t any = words[0];
  for (int w = 1; w < DK_MASK_WORDS; w++)
    any |= words[w];
  return any == 0;
}

/* The maximum of an edited block. Edits cannot lower it, unless they lower the token that has it: only then, and under
 * a mask, is the block looked at. */
static float edited_maximum(const dk_view *view, int32_t block, float raw_max) {
  const uint32_t *words = block_mask(view, block);
  if (words != NULL)
    return masks_all(words) ? -INFINITY : view->kernel->maximum(dk_fetch(view, block));
  float max = raw_max;
  for (int32_t i = first_edit(view, block); i >= 0; i = view->workspace->edits[i].next) {
    const dk_edit *edit = &view->workspace->edits[i];
    if (edit->value < raw_max && read_logit(view, edit->token_id) == raw_max)
      return view->kernel->maximum(dk_fetch(view, block));
    max = edit->value > max ? edit->value : max;
  }
  return max;
}

/* Exact maxima again. */
static void refresh_maxima(dk_view *view, const dk_view *raw) {
  float *block_max = view->workspace->edited_max;
  for (int32_t block = 0; block < view->num_blocks; block++)
    block_max[block] = edited_maximum(view, block, raw->block_max[block]);
  view->block_max = block_max;
  view->max = largest(view->kernel, block_max, view->num_blocks);
}

dk_failure dk_view_edited(dk_view *view, const dk_view *raw, const decoding_batch *batch, const decoding_row *row) {
  int32_t num_edits = 0;
  *view = *raw;
  view->is_edited = 1;
  memset(view->workspace->edit_head, 0xFF, (size_t)view->num_blocks * sizeof(int32_t)); /* -1 */
  dk_failure failure = edit_history(view, row, &num_edits);
  if (failure.status == DECODING_OK)
    failure = edit_bias(view, row, &num_edits);
  if (failure.status == DECODING_OK)
    failure = mask_tokens(view, batch, row);
  if (failure.status != DECODING_OK)
    return failure;
  if (num_edits > 0 || view->mask != NULL)
    refresh_maxima(view, raw);
  if (view->max == -INFINITY)
    return (dk_failure){DECODING_EMPTY, DECODING_STAGE_HARD_MASKS, -1};
  return FINE;
}
