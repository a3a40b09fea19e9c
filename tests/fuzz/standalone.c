/* The fuzzer without a fuzzing engine, for compilers and machines without one: random inputs, the same in every run.
 *     standalone [number of inputs, 1000 by default] [index of the first] */
#include "problem.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int main(int argc, char **argv) {
  unsigned long count = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000, first = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
  for (unsigned long n = first; n < first + count; n++) {
    uint64_t state = n * 0x2545F4914F6CDD1Du;
    uint8_t bytes[512];
    for (size_t i = 0; i < sizeof bytes; i++)
      bytes[i] = (uint8_t)next_random(&state);
    fprintf(stderr, "\rinput %lu", n);
    (void)LLVMFuzzerTestOneInput(bytes, sizeof bytes);
  }
  fprintf(stderr, "\n%lu inputs, nothing found\n", count);
  return 0;
}
