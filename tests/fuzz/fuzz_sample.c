/* libFuzzer target: turns bytes into a batch, and checks that decoding.h does what it documents. run.sh builds it. */
#include "problem.h"

static void check_small_calls(choices *in) {
  int32_t vocab_size = (int32_t)take(in, 4), index = (int32_t)take(in, 4);
  int64_t max_edits = (int64_t)((uint64_t)take(in, 4) << 32 | take(in, 4));
  char name[8] = {0};
  int is_valid = vocab_size >= 1 && vocab_size <= DECODING_MAX_VOCAB_SIZE && max_edits >= 0 && max_edits <= INT32_MAX;
  REQUIRE((decoding_workspace_size(vocab_size, max_edits) > 0) == is_valid);
  REQUIRE(decoding_status_message(index) != NULL);
  REQUIRE(decoding_isa_name(index) == NULL || decoding_isa_name(index)[0] != '\0');
  for (size_t i = 0; i + 1 < sizeof name; i++)
    name[i] = (char)take(in, 1);
  int32_t status = decoding_force_isa(name);
  REQUIRE(status == DECODING_OK ? decoding_isa_available(name)
                                : status == DECODING_UNKNOWN_ISA || status == DECODING_ABSENT_ISA);
  REQUIRE(decoding_sample(NULL) == DECODING_BAD_ARGUMENT &&
          decoding_probabilities(NULL, NULL) == DECODING_BAD_ARGUMENT);
  REQUIRE(decoding_isa_available(NULL) == 0 && decoding_force_isa(NULL) == DECODING_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  choices in = {bytes, size};
  problem p;
  uint32_t kind = below(&in, 16);
  if (kind == 15) {
    check_small_calls(&in);
    return 0;
  }
  make_problem(&in, &p);
  if (kind >= 12 && p.batch.num_rows > 0)
    check_refusal(&in, &p);
  else
    check_promises(&p);
  free_problem(&p);
  return 0;
}
