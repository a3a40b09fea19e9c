/* Internal: the random words of a row. Each is a function of (seed, stream; position, choice, draw id, attempt). */
#ifndef DK_RANDOM_WORDS_H
#define DK_RANDOM_WORDS_H

#include "decoding.h"
#include "sampling/philox.h"

/* The uses of randomness at one position. */
enum { DK_DRAW_SAMPLING = 0, DK_DRAW_XTC = 1 };

static inline void dk_random_words(const decoding_row *row, uint64_t draw_id, uint64_t attempt, uint64_t words[4]) {
  const uint64_t counter[4] = {row->position, row->choice, draw_id, attempt}, key[2] = {row->seed, row->stream};
  dk_philox4x64(counter, key, words);
}

#endif
