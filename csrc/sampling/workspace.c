/* The caller's memory, cut into arrays that begin at cache lines. */
#include "sampling/workspace.h"

static char *carve(char **cursor, size_t size) {
  char *start = *cursor;
  *cursor = start + (size + 63) / 64 * 64;
  return start;
}

static size_t whole_blocks(size_t n) { return (n + DK_BLOCK - 1) / DK_BLOCK * DK_BLOCK; }

#define CARVE(type, n) ((type *)(void *)carve(&cursor, (n) * sizeof(type)))

size_t dk_workspace_layout(int32_t vocab_size, int64_t max_edits, char *memory, dk_workspace *workspace) {
  size_t whole = whole_blocks((size_t)vocab_size), blocks = whole_blocks(whole / DK_BLOCK);
  size_t edits = (size_t)max_edits, room = whole + DK_BLOCK;
  size_t skew = memory == NULL ? 0 : (64 - (uintptr_t)memory % 64) % 64;
  char *base = memory == NULL ? (char *)64 : memory + skew, *cursor = base;
  *workspace = (dk_workspace){.raw_max = CARVE(float, blocks),
                              .edited_max = CARVE(float, blocks),
                              .shaped_max = CARVE(float, blocks),
                              .survivor_max = CARVE(float, blocks),
                              .list_max = CARVE(float, blocks),
                              .maxima_max = CARVE(float, DK_BLOCK),
                              .edit_head = CARVE(int32_t, blocks),
                              .sums = CARVE(uint64_t, blocks),
                              .histogram = CARVE(uint64_t, DK_BINS),
                              .weights = CARVE(uint64_t, DK_BLOCK),
                              .keys = CARVE(uint32_t, DK_BLOCK),
                              .block = CARVE(float, DK_BLOCK),
                              .mask = CARVE(uint32_t, blocks *DK_MASK_WORDS),
                              .edits = CARVE(dk_edit, edits),
                              .matches = CARVE(int32_t, edits),
                              .list_start = CARVE(int32_t, blocks + 1),
                              .list = {CARVE(float, 2 * room), CARVE(int32_t, room), CARVE(uint64_t, 2 * room)},
                              .survivors = {CARVE(float, room), CARVE(int32_t, room), NULL}};
  return (size_t)(cursor - base) + 63; /* whatever the alignment of the caller's memory */
}
