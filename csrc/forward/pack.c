#include "forward/pack.h"

#include <string.h>

#include "decoding.h"
#include "forward/coded.h"
#include "forward/kernels.h"
#include "forward/quantised.h"

#define LONGEST (INT32_MAX / 2)

size_t dk_element_size(int32_t type) {
  switch (type) {
  case DECODING_FLOAT32:
    return 4;
  case DECODING_FLOAT16:
  case DECODING_BFLOAT16:
    return 2;
  default:
    return 0;
  }
}

size_t dk_packed_panel_bytes(int32_t type, int32_t num_inputs) {
  const dk_format *format = dk_format_of(type);
  if (type == DECODING_BFLOAT16_CODED)
    return dk_coded_panel_bytes(num_inputs);
  if (format == NULL)
    return (size_t)num_inputs * DK_PANEL * dk_element_size(type);
  return num_inputs % format->block_size == 0 ? dk_quantised_panel_bytes(type, num_inputs) : 0;
}

int32_t dk_num_panels(int32_t num_outputs) { return (int32_t)(((int64_t)num_outputs + DK_PANEL - 1) / DK_PANEL); }

size_t decoding_packed_size(int32_t type, int32_t num_outputs, int32_t num_inputs) {
  if (num_outputs < 1 || num_outputs > LONGEST || num_inputs < 1 || num_inputs > LONGEST)
    return 0;
  uint64_t bytes = (uint64_t)dk_num_panels(num_outputs) * dk_packed_panel_bytes(type, num_inputs);
  return bytes > PTRDIFF_MAX ? 0 : (size_t)bytes;
}

/* Numbers of one row to their lane of a panel, `size` bytes each. */
static void pack_row(char *lane, const char *row, int32_t num_inputs, size_t size) {
  for (int32_t k = 0; k < num_inputs; k++)
    memcpy(lane + (size_t)k * DK_PANEL * size, row + (size_t)k * size, size);
}

/* Rows that fill a panel, input by input, so that each line of the cache is written once. */
static void pack_panel(char *panel, const char *const rows[DK_PANEL], int32_t num_inputs, size_t size) {
  for (int32_t k = 0; k < num_inputs; k++)
    for (int32_t lane = 0; lane < DK_PANEL; lane++)
      memcpy(panel + ((size_t)k * DK_PANEL + (size_t)lane) * size, rows[lane] + (size_t)k * size, size);
}

static void clear_padding(char *panels, int32_t num_outputs, int32_t num_inputs, size_t size) {
  int32_t used = num_outputs % DK_PANEL;
  char *last = panels + (size_t)(num_outputs / DK_PANEL) * (size_t)num_inputs * DK_PANEL * size;
  for (int32_t k = 0; k < num_inputs && used != 0; k++)
    memset(last + ((size_t)k * DK_PANEL + (size_t)used) * size, 0, (size_t)(DK_PANEL - used) * size);
}

static void pack_quantised(int32_t type, int32_t num_outputs, int32_t num_inputs, char *panels, int32_t first_output,
                           int32_t num_rows, const char *rows, int64_t row_stride, const int32_t *order) {
  const size_t panel_bytes = dk_packed_panel_bytes(type, num_inputs);
  for (int32_t i = 0; i < num_rows; i++) {
    const char *row = rows + (order == NULL ? i : order[i]) * row_stride;
    const int32_t output = first_output + i;
    dk_quantised_pack_row(type, (const uint8_t *)row, num_inputs,
                          (uint8_t *)panels + (size_t)(output / DK_PANEL) * panel_bytes, output % DK_PANEL);
  }
  if (first_output + num_rows == num_outputs)
    for (int32_t output = num_outputs; output % DK_PANEL != 0; output++)
      dk_quantised_pack_row(type, NULL, num_inputs, (uint8_t *)panels + (size_t)(output / DK_PANEL) * panel_bytes,
                            output % DK_PANEL);
}

static int32_t is_order(const int32_t *order, int32_t num_rows) {
  for (int32_t i = 0; order != NULL && i < num_rows; i++)
    if (order[i] < 0 || order[i] >= num_rows)
      return 0;
  return 1;
}

int32_t decoding_pack(int32_t type, int32_t num_outputs, int32_t num_inputs, void *panels, int32_t first_output,
                      int32_t num_rows, const void *rows, int64_t row_stride, const int32_t *order) {
  if (decoding_packed_size(type, num_outputs, num_inputs) == 0 || type == DECODING_BFLOAT16_CODED || panels == NULL ||
      rows == NULL || num_rows < 1 || first_output < 0 || first_output > num_outputs - num_rows ||
      !is_order(order, num_rows))
    return DECODING_BAD_ARGUMENT;
  if (dk_format_of(type) != NULL) {
    pack_quantised(type, num_outputs, num_inputs, panels, first_output, num_rows, rows, row_stride, order);
    return DECODING_OK;
  }
  const size_t size = dk_element_size(type), panel_bytes = (size_t)num_inputs * DK_PANEL * size;
  for (int32_t i = 0; i < num_rows;) {
    const char *source[DK_PANEL];
    int32_t output = first_output + i, lane = output % DK_PANEL, count = DK_PANEL - lane;
    char *panel = (char *)panels + (size_t)(output / DK_PANEL) * panel_bytes;
    count = count < num_rows - i ? count : num_rows - i;
    for (int32_t j = 0; j < count; j++)
      source[j] = (const char *)rows + (order == NULL ? i + j : order[i + j]) * row_stride;
    if (count == DK_PANEL)
      pack_panel(panel, source, num_inputs, size);
    else
      for (int32_t j = 0; j < count; j++)
        pack_row(panel + (size_t)(lane + j) * size, source[j], num_inputs, size);
    i += count;
  }
  if (first_output + num_rows == num_outputs)
    clear_padding(panels, num_outputs, num_inputs, size);
  return DECODING_OK;
}
