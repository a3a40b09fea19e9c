/* Internal: edited logits, kept beside the row. Penalties and biases touch few tokens, and the caller's row is read
 * only. */
#ifndef DK_EDITS_H
#define DK_EDITS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct dk_edit {
  int32_t token_id;
  int32_t next;  /* index of the next edit in the same block, or -1 */
  float raw;     /* the caller's logit */
  float value;   /* the edited logit; -inf is a ban, which no edit lifts */
  int32_t match; /* length of the longest repetition that this token would continue, for DRY; otherwise 0 */
} dk_edit;

typedef struct dk_edits {
  int32_t *first; /* [blocks] index of the first edit in each block, or -1 */
  dk_edit *items; /* in the order in which they were added */
  int32_t count;
} dk_edits;

void dk_clear_edits(dk_edits *edits, int32_t num_blocks);

/* Return the edit of a token, or null. */
dk_edit *dk_find_edit(const dk_edits *edits, int32_t token_id);

/* Add an edit with value = raw. The token must not have one yet. */
dk_edit *dk_add_edit(dk_edits *edits, int32_t token_id, float raw);

/* Set the edited logit, unless the token is banned. Returns true if the value is not finite; it is then stored as NaN.
 */
bool dk_set_edit(dk_edit *edit, float value);

#endif
