#include "forward/coded.h"

#include <stdbool.h>
#include <string.h>

#include "decoding.h"
#include "forward/kernels.h"
#include "simd/coded_bfloat16.h"

#define MAX_INPUTS ((1 << 20) - DK_CODED_GROUP) /* 16 times as many indices fit 24 bits, without DK_NO_EXCEPTION's */
#define ALIGNMENT 32
#define NUM_BYTES 256

/* Room for so few that reading them costs less than they save. Normally distributed weights need a small part of it. */
static int32_t max_exceptions(int32_t num_inputs) { return 8 + num_inputs / 128; }

size_t dk_coded_header_bytes(int32_t num_inputs) {
  size_t bytes = DK_CODED_TABLE + ((size_t)max_exceptions(num_inputs) + 1) * sizeof(uint32_t);
  return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

size_t dk_coded_panel_bytes(int32_t num_inputs) {
  if (num_inputs < DK_CODED_GROUP || num_inputs > MAX_INPUTS || num_inputs % DK_CODED_GROUP != 0)
    return 0;
  return dk_coded_header_bytes(num_inputs) + (size_t)(num_inputs / DK_CODED_GROUP) * DK_CODED_GROUP_BYTES;
}

/* Weight i of a panel [input][16 outputs], which may begin anywhere. */
static uint16_t weight_at(const char *weights, size_t i) {
  uint16_t weight;
  memcpy(&weight, weights + i * sizeof weight, sizeof weight);
  return weight;
}

/* Fill the table with the most frequent upper bytes and `numbers` with the index of each byte in it, -1 for none. */
static void choose_table(const char *weights, size_t num_weights, uint8_t *table, int16_t *numbers) {
  size_t counts[NUM_BYTES] = {0};
  for (size_t i = 0; i < num_weights; i++)
    counts[weight_at(weights, i) >> 8]++;
  for (int32_t byte = 0; byte < NUM_BYTES; byte++)
    numbers[byte] = -1;
  for (int16_t number = 0; number < DK_CODED_TABLE; number++) {
    int32_t best = -1;
    for (int32_t byte = 0; byte < NUM_BYTES; byte++)
      if (numbers[byte] < 0 && (best < 0 || counts[byte] > counts[best]))
        best = byte;
    table[number] = (uint8_t)best;
    numbers[best] = number;
  }
}

static void put_weight(uint8_t *group, int32_t input, int32_t output, uint16_t weight, int16_t number) {
  const int32_t position = dk_coded_position(output, input % 2);
  group[32 * (input / 2) + position] = (uint8_t)weight;
  group[DK_CODED_NUMBERS + position] |= (uint8_t)(number << 4 * (input / 2));
}

/* Returns false if there are too many exceptions. */
static bool code_panel(int32_t num_inputs, const char *weights, uint8_t *panel) {
  const size_t header = dk_coded_header_bytes(num_inputs), num_weights = (size_t)num_inputs * DK_PANEL;
  int16_t numbers[NUM_BYTES];
  int32_t num_exceptions = 0;
  memset(panel, 0, dk_coded_panel_bytes(num_inputs));
  memset(panel + DK_CODED_TABLE, 0xFF, header - DK_CODED_TABLE); /* DK_NO_EXCEPTION */
  choose_table(weights, num_weights, panel, numbers);
  for (size_t i = 0; i < num_weights; i++) {
    const int32_t input = (int32_t)(i / DK_PANEL), output = (int32_t)(i % DK_PANEL);
    const uint16_t weight = weight_at(weights, i);
    int16_t number = numbers[weight >> 8];
    if (number < 0) {
      const uint32_t exception = (uint32_t)i << 8 | weight >> 8;
      if (num_exceptions == max_exceptions(num_inputs))
        return false;
      memcpy(panel + DK_CODED_TABLE + (size_t)num_exceptions++ * sizeof exception, &exception, sizeof exception);
      number = 0;
    }
    put_weight(panel + header + (size_t)(input / DK_CODED_GROUP) * DK_CODED_GROUP_BYTES, input % DK_CODED_GROUP, output,
               weight, number);
  }
  return true;
}

int32_t decoding_code_bfloat16(int32_t num_inputs, int32_t num_panels, const void *panels, void *coded) {
  const size_t coded_bytes = dk_coded_panel_bytes(num_inputs);
  const size_t panel_bytes = (size_t)num_inputs * DK_PANEL * sizeof(uint16_t);
  if (coded_bytes == 0 || num_panels < 1 || panels == NULL || coded == NULL)
    return DECODING_BAD_ARGUMENT;
  for (int32_t i = 0; i < num_panels; i++)
    if (!code_panel(num_inputs, (const char *)panels + (size_t)i * panel_bytes,
                    (uint8_t *)coded + (size_t)i * coded_bytes))
      return DECODING_NOT_CODED;
  return DECODING_OK;
}
