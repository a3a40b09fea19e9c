/* Internal: keys, unsigned integers in the order of the floats, so that values can be searched by bisection. */
#ifndef DK_FLOAT_KEYS_H
#define DK_FLOAT_KEYS_H

#include <stdint.h>
#include <string.h>

static inline uint32_t dk_key_of(float value) {
  uint32_t bits;
  value += 0.0f; /* -0 becomes +0 */
  memcpy(&bits, &value, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static inline float dk_value_of(uint32_t key) {
  uint32_t bits = key & 0x80000000u ? key & 0x7FFFFFFFu : ~key;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* Return the smallest value above this one. */
static inline float dk_next_above(float value) { return dk_value_of(dk_key_of(value) + 1); }

/* Return the largest value below this one. The key below that of zero is -0, which is equal to it. */
static inline float dk_next_below(float value) {
  uint32_t key = dk_key_of(value);
  return dk_value_of(key - (key == 0x80000000u ? 2 : 1));
}

#endif
