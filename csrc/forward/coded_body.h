/* Matmul with bfloat16 weights in 12 bits each (simd/coded_bfloat16.h), in the chains of matmul_body.h.
 *
 * One token decodes groups of inputs in registers, as they come from memory. For more tokens a chain is decoded once,
 * to float32. A group with an exception goes through memory, where its weights get their upper bytes. */
#ifndef DK_CODED_BODY_H
#define DK_CODED_BODY_H

#include "forward/coded.h"
#include "forward/matmul_body.h"

/* Panels that are read front to back. */
typedef struct coded_panels {
  const char *first;
  size_t panel_bytes;
  size_t header_bytes;
  const char *exceptions[DK_MAX_WIDE]; /* the next one of each panel */
} coded_panels;

DK_INLINE coded_panels coded_panels_of(const dk_product *product, int32_t first_panel, int panels) {
  coded_panels c = {.panel_bytes = dk_coded_panel_bytes(product->num_inputs),
                    .header_bytes = dk_coded_header_bytes(product->num_inputs)};
  c.first = (const char *)product->panels + (size_t)first_panel * c.panel_bytes;
  for (int p = 0; p < panels; p++)
    c.exceptions[p] = c.first + (size_t)p * c.panel_bytes + DK_CODED_TABLE;
  return c;
}

DK_INLINE uint32_t next_exception(const coded_panels *c, int panel) {
  uint32_t exception;
  memcpy(&exception, c->exceptions[panel], sizeof exception); /* panels may begin anywhere */
  return exception;
}

DK_INLINE const char *group_of(const coded_panels *c, int panel, int32_t input) {
  return c->first + (size_t)panel * c->panel_bytes + c->header_bytes +
         (size_t)(input / DK_CODED_GROUP) * DK_CODED_GROUP_BYTES;
}

/* Inputs from `input` to `end` - 1 of a panel, exceptions included, to out [end - input][16]. */
DK_INLINE void decode_groups(coded_panels *c, int panel, int32_t input, int32_t end, float *out) {
  const char *table = c->first + (size_t)panel * c->panel_bytes;
  const uint32_t first_index = (uint32_t)input * DK_PANEL, end_index = (uint32_t)end * DK_PANEL;
  for (int32_t i = 0; i < end - input; i += DK_CODED_GROUP) {
    const char *group = group_of(c, panel, input + i);
    for (int pair = 0; pair < 2; pair++) {
      dk_f weights[2];
      f_load_coded(group, table, pair, weights);
      f_store(out + (i + 2 * pair) * DK_PANEL, weights[0]);
      f_store(out + (i + 2 * pair + 1) * DK_PANEL, weights[1]);
    }
  }
  for (uint32_t exception; (exception = next_exception(c, panel)) >> 8 < end_index;
       c->exceptions[panel] += sizeof exception) {
    float *weight = out + ((exception >> 8) - first_index);
    uint32_t bits;
    memcpy(&bits, weight, sizeof bits);
    bits = (bits & 0x00FFFFFFu) | exception << 24;
    memcpy(weight, &bits, sizeof bits);
  }
}

/* ---- one token ---- */

/* First input of the group that has the next exception of any panel. */
DK_INLINE int32_t next_exceptional_group(const coded_panels *c, int panels) {
  uint32_t next = DK_NO_EXCEPTION;
  DK_UNROLL
  for (int p = 0; p < panels; p++) {
    uint32_t exception = next_exception(c, p);
    next = exception < next ? exception : next;
  }
  return (int32_t)((next >> 8) / (DK_PANEL * DK_CODED_GROUP)) * DK_CODED_GROUP;
}

/* Inputs from `input` to `end` - 1, none of them in a group with exceptions. */
DK_INLINE void multiply_groups(const coded_panels *c, int panels, int32_t input, int32_t end, const float *x,
                               dk_f acc[DK_MAX_WIDE]) {
  for (; input < end; input += DK_CODED_GROUP) {
    DK_UNROLL
    for (int i = 0; i < DK_CODED_GROUP; i += 2) {
      const dk_f number = f_set(x[input + i]), next_number = f_set(x[input + i + 1]);
      DK_UNROLL
      for (int p = 0; p < panels; p++) {
        dk_f weights[2];
        f_load_coded(group_of(c, p, input), c->first + (size_t)p * c->panel_bytes, i / 2, weights);
        acc[p] = f_fma(next_number, weights[1], f_fma(number, weights[0], acc[p]));
      }
    }
    DK_UNROLL
    for (int p = 0; p < panels; p++) {
      __builtin_prefetch(group_of(c, p, input) + DK_PREFETCH_AHEAD);
      if (input % (2 * DK_CODED_GROUP) != 0) /* two groups have three lines of the cache */
        __builtin_prefetch(group_of(c, p, input) + DK_PREFETCH_AHEAD + DK_LINE);
    }
  }
}

DK_INLINE void multiply_exceptional_group(coded_panels *c, int panels, int32_t input, const float *x,
                                          dk_f acc[DK_MAX_WIDE]) {
  float weights[DK_CODED_GROUP * DK_PANEL];
  DK_UNROLL
  for (int p = 0; p < panels; p++) {
    decode_groups(c, p, input, input + DK_CODED_GROUP, weights);
    for (int i = 0; i < DK_CODED_GROUP; i++)
      acc[p] = f_fma(f_set(x[input + i]), f_load(weights + i * DK_PANEL), acc[p]);
  }
}

DK_INLINE void multiply_coded_row(const dk_product *product, int32_t first_panel, int panels) {
  coded_panels c = coded_panels_of(product, first_panel, panels);
  float *y = product->y + first_panel * DK_PANEL;
  for (int32_t begin = 0; begin < product->num_inputs; begin += DK_CHAIN) {
    const int32_t end = product->num_inputs - begin < DK_CHAIN ? product->num_inputs : begin + DK_CHAIN;
    dk_f acc[DK_MAX_WIDE];
    DK_UNROLL
    for (int p = 0; p < panels; p++)
      acc[p] = f_set(0.0f);
    for (int32_t input = begin; input < end; input += DK_CODED_GROUP) {
      const int32_t exceptional = next_exceptional_group(&c, panels), stop = exceptional < end ? exceptional : end;
      multiply_groups(&c, panels, input, stop, product->x, acc);
      input = stop;
      if (input < end)
        multiply_exceptional_group(&c, panels, input, product->x, acc);
    }
    DK_UNROLL
    for (int p = 0; p < panels; p++)
      f_store(y + p * DK_PANEL, begin == 0 ? acc[p] : f_add(f_load(y + p * DK_PANEL), acc[p]));
  }
}

/* ---- several tokens ---- */

DK_INLINE void multiply_coded_panels(const dk_product *product, int32_t first_panel, int panels) {
  const int32_t tiles = (product->num_tokens + DK_TILE - 1) / DK_TILE;
  const size_t line_inputs = 3; /* 2.7 per line of the cache; the processor fetches the few lines between */
  coded_panels c = coded_panels_of(product, first_panel, panels);
  float wide[DK_MAX_WIDE * DK_CHAIN * DK_PANEL];
  tile_arguments a = {.w = (const char *)wide,
                      .panel_bytes = DK_CHAIN * DK_PANEL * sizeof(float),
                      .y = product->y + first_panel * DK_PANEL,
                      .y_stride = product->y_stride,
                      .next_panel_bytes = c.panel_bytes,
                      .next_steps = tiles * (int32_t)line_inputs};
  for (int32_t begin = 0; begin < product->num_inputs; begin += DK_CHAIN) {
    a.n = product->num_inputs - begin < DK_CHAIN ? product->num_inputs - begin : DK_CHAIN;
    a.is_first = begin == 0;
    a.next = group_of(&c, 0, begin + DK_CHAIN);
    for (int p = 0; p < panels; p++)
      decode_groups(&c, p, begin, begin + a.n, wide + (size_t)p * DK_CHAIN * DK_PANEL);
    multiply_chain(0, product, begin, panels, &a);
  }
}

static void multiply_coded(const dk_product *product) {
  const int wide = DK_WIDE(product->num_tokens < DK_TILE ? product->num_tokens : DK_TILE);
  int32_t panel = 0;
  if (product->num_tokens == 1) {
    for (; panel + DK_WIDE(1) <= product->num_panels; panel += DK_WIDE(1))
      multiply_coded_row(product, panel, DK_WIDE(1));
    for (; panel < product->num_panels; panel++)
      multiply_coded_row(product, panel, 1);
    return;
  }
  for (; panel + wide <= product->num_panels; panel += wide)
    multiply_coded_panels(product, panel, wide);
  for (; panel < product->num_panels; panel++)
    multiply_coded_panels(product, panel, 1);
}

#endif
