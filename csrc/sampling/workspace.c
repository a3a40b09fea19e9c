/* The caller's workspace, divided into arrays that begin at cache lines. */
#include "sampling/workspace.h"

#include "decoding.h"

#define CACHE_LINE 64

static char *carve(char **cursor, size_t size) {
  char *start = *cursor;
  *cursor = start + (size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
  return start;
}

#define CARVE(type, n) ((type *)(void *)carve(&cursor, (n) * sizeof(type)))

size_t dk_workspace_layout(int32_t vocab_size, int64_t max_edits, char *memory, dk_workspace *workspace) {
  int32_t whole = dk_whole_blocks(vocab_size);
  size_t blocks = (size_t)dk_whole_blocks(whole / DK_BLOCK);
  size_t edits = (size_t)max_edits, room = (size_t)whole + DK_BLOCK;
  size_t skew = memory == NULL ? 0 : (CACHE_LINE - (uintptr_t)memory % CACHE_LINE) % CACHE_LINE;
  char *base = memory == NULL ? (char *)CACHE_LINE : memory + skew, *cursor = base;
  *workspace = (dk_workspace){.raw_max = CARVE(float, blocks),
                              .edited_max = CARVE(float, blocks),
                              .smoothed_max = CARVE(float, blocks),
                              .survivor_max = CARVE(float, blocks),
                              .list_max = CARVE(float, blocks),
                              .maxima_max = CARVE(float, DK_BLOCK),
                              .sums = CARVE(uint64_t, blocks),
                              .rejection_sums = CARVE(uint64_t, blocks),
                              .histogram = CARVE(uint64_t, DK_HISTOGRAM_SIZE),
                              .weights = CARVE(uint64_t, DK_BLOCK),
                              .keys = CARVE(uint32_t, DK_BLOCK),
                              .block = CARVE(float, DK_BLOCK),
                              .mask = CARVE(uint32_t, blocks *DK_MASK_WORDS),
                              .edits = {.first = CARVE(int32_t, blocks), .items = CARVE(dk_edit, edits)},
                              .matches = CARVE(int32_t, edits),
                              .list_start = CARVE(int32_t, blocks + 1),
                              .list = {CARVE(float, 2 * room), CARVE(int32_t, room), CARVE(uint64_t, 2 * room)},
                              .survivors = {CARVE(float, room), CARVE(int32_t, room), NULL}};
  return (size_t)(cursor - base) + CACHE_LINE - 1; /* for any alignment of the caller's memory */
}

size_t decoding_workspace_size(int32_t vocab_size, int64_t max_edits) {
  dk_workspace layout;
  if (vocab_size < 1 || vocab_size > DECODING_MAX_VOCAB_SIZE || max_edits < 0 || max_edits > INT32_MAX)
    return 0;
  return dk_workspace_layout(vocab_size, max_edits, NULL, &layout);
}
