/* Matmul with panels of 16 outputs: y = W x in chains of DK_CHAIN inputs.
 *
 * A panel's chain (16 KiB of float32) stays in the L1 cache while all tiles of tokens pass over it, each of which
 * fetches an equal part of the next chain; with one tile it is read once, from memory, several panels at a time. */
#ifndef DK_MATMUL_BODY_H
#define DK_MATMUL_BODY_H

#include "forward/kernels.h"
#include "forward/tile.h"

#define DK_LINE 64 /* bytes of a line of the cache */

/* One chain of a tile: `n` steps of panels that lie panel_bytes apart, into y (added to it unless it is the first). */
typedef struct tile_arguments {
  const float *x;
  const char *w;
  size_t panel_bytes;
  const char *next; /* weights to prefetch: a line of each panel every `next_steps` steps */
  size_t next_panel_bytes;
  int32_t next_steps;
  int32_t n;
  int32_t is_first;
  float *y;
  int64_t y_stride;
} tile_arguments;

/* All of type, tokens and panels are constants where this is inlined. */
DK_INLINE void multiply_tile(int type, int tokens, int panels, const tile_arguments *a) {
  const float *x = a->x;
  const char *w = a->w;
  const char *next = a->next;
  const size_t panel_bytes = a->panel_bytes, next_panel_bytes = a->next_panel_bytes;
  const int vector = type == 0 ? 64 : 32;
  int32_t wait = a->next_steps;
  dk_f acc[DK_TILE][DK_MAX_WIDE], step[DK_MAX_WIDE];
  DK_UNROLL
  for (int t = 0; t < tokens; t++) {
    DK_UNROLL
    for (int p = 0; p < panels; p++)
      acc[t][p] = f_set(0.0f);
  }
  for (int32_t k = 0; k < a->n; k++) {
    DK_UNROLL
    for (int p = 0; p < panels; p++)
      step[p] = load_weights(w + (size_t)p * panel_bytes, type);
    tile_step(acc, tokens, panels, x, 1, step);
    w += vector;
    x += tokens;
    if (--wait == 0) {
      DK_UNROLL
      for (int p = 0; p < panels; p++)
        __builtin_prefetch(next + (size_t)p * next_panel_bytes);
      next += DK_LINE;
      wait = a->next_steps;
    }
  }
  DK_UNROLL
  for (int t = 0; t < tokens; t++) {
    DK_UNROLL
    for (int p = 0; p < panels; p++) {
      float *out = a->y + t * a->y_stride + p * DK_PANEL;
      f_store(out, a->is_first ? acc[t][p] : f_add(f_load(out), acc[t][p]));
    }
  }
}

/* `panels` is 1 or DK_WIDE(tokens). */
DK_INLINE void multiply_shape(int type, int tokens, int panels, const tile_arguments *a) {
  if (panels == 1)
    multiply_tile(type, tokens, 1, a);
  else
    multiply_tile(type, tokens, DK_WIDE(tokens), a);
}

DK_INLINE void multiply_any(int type, int32_t tokens, int panels, const tile_arguments *a) {
  switch (tokens) {
  case 1:
    multiply_shape(type, 1, panels, a);
    break;
  case 2:
    multiply_shape(type, 2, panels, a);
    break;
#if DK_TILE > 2
  case 3:
    multiply_shape(type, 3, panels, a);
    break;
  case 4:
    multiply_shape(type, 4, panels, a);
    break;
  case 5:
    multiply_shape(type, 5, panels, a);
    break;
  case 6:
    multiply_shape(type, 6, panels, a);
    break;
#endif
#if DK_TILE > 6
  case 7:
    multiply_shape(type, 7, panels, a);
    break;
  case 8:
    multiply_shape(type, 8, panels, a);
    break;
  case 9:
    multiply_shape(type, 9, panels, a);
    break;
#endif
  default:
    break;
  }
}

/* A chain of weights as float32: [panel][n][16]. */
DK_INLINE void widen_chain(int type, const tile_arguments *a, int panels, float *out) {
  const size_t vector = 32;
  for (int p = 0; p < panels; p++) {
    const char *w = a->w + (size_t)p * a->panel_bytes;
    for (int32_t k = 0; k < a->n; k++) {
      f_store(out + ((size_t)p * DK_CHAIN + (size_t)k) * DK_PANEL, load_weights(w + (size_t)k * vector, type));
      __builtin_prefetch(w + (size_t)k * vector + DK_PREFETCH_AHEAD);
    }
  }
}

/* All tiles of tokens with one chain of `panels` panels. Each fetches its share of the next chain. */
DK_INLINE void multiply_chain(int type, const dk_product *product, int32_t k, int panels, const tile_arguments *a) {
  tile_arguments tile = *a;
  for (int32_t row = 0; row < product->num_tokens; row += DK_TILE) {
    int32_t tokens = product->num_tokens - row < DK_TILE ? product->num_tokens - row : DK_TILE;
    tile.x = product->x + (size_t)row * (size_t)product->num_inputs + (size_t)k * (size_t)tokens;
    tile.y = a->y + row * a->y_stride;
    multiply_any(type, tokens, panels, &tile);
    tile.next += (size_t)(a->n / a->next_steps) * DK_LINE;
  }
}

/* All chains of `panels` panels. Where several tiles share a chain, it is widened once, and while they pass over it the
 * next one is fetched. */
DK_INLINE void multiply_panels(int type, const dk_product *product, int32_t first_panel, int panels) {
  const size_t vector = DK_PANEL * (type == 0 ? 4 : 2);
  const size_t panel_bytes = (size_t)product->num_inputs * vector;
  const char *w = (const char *)product->panels + (size_t)first_panel * panel_bytes;
  const int32_t tiles = (product->num_tokens + DK_TILE - 1) / DK_TILE;
  const int32_t is_shared = tiles > 1;
  float wide[DK_MAX_WIDE * DK_CHAIN * DK_PANEL];
  tile_arguments a = {.y = product->y + first_panel * DK_PANEL,
                      .y_stride = product->y_stride,
                      .next_panel_bytes = panel_bytes,
                      .next_steps = tiles * (int32_t)(DK_LINE / vector)};
  for (int32_t k = 0; k < product->num_inputs; k += DK_CHAIN) {
    a.n = product->num_inputs - k < DK_CHAIN ? product->num_inputs - k : DK_CHAIN;
    a.is_first = k == 0;
    a.w = w + (size_t)k * vector;
    a.panel_bytes = panel_bytes;
    a.next = a.w + (is_shared ? DK_CHAIN * vector : DK_PREFETCH_AHEAD);
    if (is_shared && type != 0) {
      widen_chain(type, &a, panels, wide);
      a.w = (const char *)wide;
      a.panel_bytes = DK_CHAIN * DK_PANEL * sizeof(float);
      multiply_chain(0, product, k, panels, &a);
    } else {
      multiply_chain(type, product, k, panels, &a);
    }
  }
}

/* Panels in groups of DK_WIDE, what is left one by one. Where there are several tiles, all heights of tiles have the
 * same DK_WIDE or the full tile has 1. */
DK_INLINE void multiply(int type, const dk_product *product) {
  const int wide = DK_WIDE(product->num_tokens < DK_TILE ? product->num_tokens : DK_TILE);
  int32_t panel = 0;
  for (; wide > 1 && panel + wide <= product->num_panels; panel += wide)
    multiply_panels(type, product, panel, wide);
  for (; panel < product->num_panels; panel++)
    multiply_panels(type, product, panel, 1);
}

static void multiply_f32(const dk_product *product) { multiply(0, product); }
static void multiply_f16(const dk_product *product) { multiply(1, product); }
static void multiply_bf16(const dk_product *product) { multiply(2, product); }

/* [count][stride] -> [num_inputs][count] */
static void prepare(const float *rows, int64_t stride, int32_t count, int32_t num_inputs, float *x) {
  for (int32_t k = 0; k < num_inputs; k++)
    for (int32_t t = 0; t < count; t++)
      x[(size_t)k * (size_t)count + (size_t)t] = rows[t * stride + k];
}

static void add_bias(float *y, int64_t stride, int32_t num_tokens, const float *bias, int32_t n) {
  for (int32_t i = 0; i < n; i += DK_PANEL) {
    dk_f b = f_load_part(bias + i, n - i);
    for (int32_t t = 0; t < num_tokens; t++)
      f_store(y + t * stride + i, f_add(f_load(y + t * stride + i), b));
  }
}

#endif
