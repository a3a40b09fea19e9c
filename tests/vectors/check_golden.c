/* Checks a build of decoding.h against the golden file, whose columns README.md describes.
 *     gzip -dc golden.txt.gz | ./check_golden [instruction set] */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decoding.h"

#define MOST 64              /* entries of a top-N */
#define FIRST_SEQUENCES 4096 /* rows of later sequences also have the fields from top_h on */

static uint32_t words[1 << 13], *room, logits[1 << 17];
static char workspace[1 << 23];

static void scan(const char *format, void *to) {
  if (scanf(format, to) != 1)
    exit((fprintf(stderr, "the file ends early\n"), 2));
}

/* Reads columns into the fields of a struct: d int32, f float, x a float's bits, u uint64, g double. A capital letter
 * is a pointer to a list of these, which the file has as its length and its items. An empty list is null. */
static void *take(const char *columns, void *fields) {
  static const char *const formats[128] = {['d'] = "%d", ['f'] = "%f", ['x'] = "%x", ['u'] = "%" SCNu64, ['g'] = "%lf"};
  char *field = fields;
  for (int n; *columns; columns++) {
    const char *format = formats[*columns | 32];
    if (*columns & 32) {
      scan(format, field);
      field += strchr("ug", *columns) ? 8 : 4;
      continue;
    }
    scan("%d", &n);
    const void *list = n > 0 ? room : NULL;
    memcpy(field, &list, sizeof list);
    for (field += sizeof list; n > 0; n--)
      scan(format, room++);
  }
  return field;
}

/* Makes the logits of a row. Returns the number of its sequence. */
static uint64_t make_logits(int32_t dtype, int32_t vocab_size) {
  struct {
    uint64_t key[2];
    uint32_t bits, shift, offset, peak, ban;
  } recipe;
  take("uuddddd", &recipe);
  uint32_t size = dtype == DECODING_FLOAT32 ? 4 : 2, minus_infinity[] = {0xFF800000u, 0xFC00u, 0xFF80u};
  for (uint64_t i = 0, block[4]; i < (uint64_t)vocab_size; i++) {
    decoding_philox4x64((uint64_t[4]){i / 4 + 1, 0, 0, 0}, recipe.key, block);
    uint64_t w = block[i % 4];
    uint32_t logit = recipe.offset + ((uint32_t)(w >> 1 >> (63 - recipe.bits)) << recipe.shift);
    logit = (w >> 8 & 255) == 0 ? logit + recipe.peak : logit | (uint32_t)(w & 1) << (8 * size - 1);
    logit = (w >> 16 & 255) < recipe.ban ? minus_infinity[dtype] : logit;
    memcpy((char *)logits + i * size, &logit, size); /* little endian */
  }
  return recipe.key[0];
}

/* Draws a row of the file. Returns 1 if any result differs from the file. */
static int differs(void) {
  int32_t top_ids[MOST], *expected_ids, different;
  float top_logprobs[DECODING_MAX_MODES * MOST], *expected_logprobs;
  decoding_result result = {0}, expected;
  decoding_row row = {.struct_size = sizeof row, .top_h = 1.0f, .min_k = INFINITY, .tfs = 1.0f};
  decoding_batch batch = {.struct_size = sizeof batch,
                          .logits = logits,
                          .rows = (const decoding_row *[]){&row},
                          .results = &result,
                          .top_token_ids = top_ids,
                          .top_logprobs = top_logprobs,
                          .top_stride = MOST,
                          .top_modes = DECODING_MAX_MODES,
                          .workspace = workspace,
                          .workspace_size = sizeof workspace};
  room = words;
  take("dddddddD", &batch.flags);
  uint64_t sequence = make_logits(batch.dtype, batch.vocab_size);
  take("duuuufffffdfffffffffdgffffffddddDDDDDFDddDDddDDddddDDXdddddd", &row.flags);
  if (sequence >= FIRST_SEQUENCES)
    take("ffffg", &row.top_h);
  row.flags |= DECODING_ALLOW_ZEROS; /* top_p 0 and the like are meant */
  take("ddddddxxxxxx", &expected);
  take("D", &expected_ids);
  take("X", &expected_logprobs);
  different = decoding_sample(&batch) > DECODING_ROW_FAILED || memcmp(&result, &expected, sizeof result) != 0;
  for (int32_t i = 0, n = expected.num_top; i < n && !different; i++) {
    different = top_ids[i] != expected_ids[i];
    for (int32_t m = 0; m < DECODING_MAX_MODES && row.logprobs_modes[m] != DECODING_LOGPROBS_NONE; m++)
      different |= memcmp(&top_logprobs[m * MOST + i], &expected_logprobs[m * n + i], sizeof(float)) != 0;
  }
  return different;
}

int main(int argc, char **argv) {
  int32_t version, num_rows, wrong = 0;
  if (decoding_force_isa(argc > 1 ? argv[1] : NULL) != DECODING_OK)
    exit((fprintf(stderr, "no such instruction set here\n"), 2));
  scan("%d", &version);
  scan("%d", &num_rows);
  for (int32_t i = 0; i < num_rows; i++)
    if (differs() && wrong++ < 10)
      printf("line %d differs\n", i + 2);
  printf("%s: %d of %d rows differ from stream version %d\n", decoding_active_isa(), wrong, num_rows, version);
  return wrong > 0;
}
