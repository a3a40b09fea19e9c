/* Quantised matrix multiplication of sixteen rows at a time by the tiles of Intel AMX. Included by quantised_body.h.
 *
 * A unit is the inputs that share a scale: 32, or 16 for Q6_K. One tile product gives the integer sums of a unit for 16
 * rows and 16 outputs; the float operations per unit are those of quantised_body.h, in the same order. */
#include "simd/tiles.h"

#define TILE_ROWS 16
#define MAX_UNITS (DK_SUPERGROUP / 16)
#define BATCH 4 /* units whose tiles are computed together */

/* Weights of up to 256 inputs as bytes, and their scales. */
typedef struct unpacked {
  int num_units;
  const uint8_t *weights[MAX_UNITS]; /* each [inputs / 4][16 outputs][4] */
  dk_f scale[MAX_UNITS];
  dk_f minimum[MAX_UNITS];
  uint8_t bytes[DK_SUPERGROUP * DK_PANEL]; /* of the types that do not store bytes */
} unpacked;

/* The sums of a batch of units, row by row. */
typedef int32_t unit_sums[BATCH][TILE_ROWS][DK_PANEL];

DK_INLINE int unit_inputs(int32_t type) { return type == DECODING_Q6_K ? 16 : DK_GROUP; }

DK_INLINE void store_bytes(uint8_t *out, dk_q weights) { u_store((uint32_t *)(void *)out, weights); }

/* ---- unpacking ---- */

DK_INLINE void unpack_4(const uint8_t *vectors, uint8_t *out) {
  DK_UNROLL
  for (int s = 0; s < 4; s++) {
    dk_q pairs = q_load(vectors + 64 * s);
    store_bytes(out + 64 * s, q_low(pairs));
    store_bytes(out + 64 * (s + 4), q_high(pairs));
  }
}

DK_INLINE void unpack_5(const uint8_t *vectors, uint8_t *out) {
  dk_q fifth = q_load(vectors + 256);
  DK_UNROLL
  for (int s = 0; s < 4; s++) {
    dk_q pairs = q_load(vectors + 64 * s);
    store_bytes(out + 64 * s, q_merge(q_low(pairs), fifth, 4 - s, 16));
    store_bytes(out + 64 * (s + 4), q_merge(q_high(pairs), fifth, -s, 16));
  }
}

/* 16 inputs. */
DK_INLINE void unpack_6(const uint8_t *vectors, uint8_t *out) {
  dk_q upper = q_load(vectors + 128);
  DK_UNROLL
  for (int s = 0; s < 2; s++) {
    dk_q pairs = q_load(vectors + 64 * s);
    store_bytes(out + 64 * s, q_merge(q_low(pairs), upper, 4 - 2 * s, 48));
    store_bytes(out + 64 * (s + 2), q_merge(q_high(pairs), upper, -2 * s, 48));
  }
}

DK_INLINE void unpack_halves(const uint8_t *group, super_scales super, unpacked *out) {
  DK_UNROLL
  for (int half = 0; half < 2; half++) {
    const int unit = out->num_units++;
    uint8_t *bytes = out->bytes + 256 * unit;
    unpack_6(group + 32 + 192 * half, bytes);
    out->weights[unit] = bytes;
    out->scale[unit] = f_mul(super.d, f_load_s8(group + 16 * half));
  }
}

DK_INLINE void unpack_group(int32_t type, const uint8_t *group, super_scales super, unpacked *out) {
  const int unit = out->num_units++;
  const uint8_t *vectors = vectors_of(type, group);
  uint8_t *bytes = out->bytes + 512 * unit;
  load_scales(type, group, super, &out->scale[unit], &out->minimum[unit]);
  out->weights[unit] = type == DECODING_Q8_0 ? vectors : bytes;
  if (has_fifth_bit(type))
    unpack_5(vectors, bytes);
  else if (type != DECODING_Q8_0)
    unpack_4(vectors, bytes);
}

/* Up to eight groups. Returns the panel's next byte. */
DK_INLINE const uint8_t *unpack(int32_t type, const uint8_t *panel, int32_t num_groups, unpacked *out) {
  const dk_format format = DK_FORMATS[type];
  super_scales super = {f_set(0.0f), f_set(0.0f)};
  out->num_units = 0;
  if (is_k_quant(type)) {
    super = load_super_scales(type, panel);
    panel += format.super_bytes;
  }
  for (int32_t g = 0; g < num_groups; g++, panel += format.group_bytes) {
    if (type == DECODING_Q6_K)
      unpack_halves(panel, super, out);
    else
      unpack_group(type, panel, super, out);
  }
  return panel;
}

/* ---- sixteen rows ---- */

#define SUM_UNIT(i, inputs_tile, weights_tile)                                                                         \
  if (unit + (i) < weights->num_units) {                                                                               \
    TILE_ZERO(i);                                                                                                      \
    TILE_LOAD(inputs_tile, group_of(x, 0)[(unit + (i)) / per_group].q + 16 * ((unit + (i)) % per_group), row_bytes);   \
    TILE_LOAD(weights_tile, weights->weights[unit + (i)], 64);                                                         \
    TILE_DOT(i, inputs_tile, weights_tile);                                                                            \
    TILE_STORE(i, sums[i], 64);                                                                                        \
  }

/* The integer sums of units [unit, unit + BATCH). */
DK_INLINE void sum_units(int32_t type, const unpacked *weights, tile x, int unit, unit_sums sums) {
  const int per_group = DK_GROUP / unit_inputs(type);
  const size_t row_bytes = x.stride * sizeof(dk_input_group);
  SUM_UNIT(0, 4, 6)
  SUM_UNIT(1, 5, 7)
  SUM_UNIT(2, 4, 6)
  SUM_UNIT(3, 5, 7)
}

/* The sum of the inputs of one unit. */
DK_INLINE int32_t unit_q_sum(int32_t type, const dk_input_group *input, int unit) {
  if (type != DECODING_Q6_K)
    return input->q_sum;
  return unit % 2 == 1 ? input->q_sum_upper : input->q_sum - input->q_sum_upper;
}

DK_INLINE void add_unit(int32_t type, const unpacked *weights, tile x, int unit, int32_t sums[TILE_ROWS][DK_PANEL],
                        dk_f *acc) {
  const int log2 = type == DECODING_Q8_0 ? 0 : log2_offset(type); /* tiles multiply signed bytes */
  const dk_f scale = weights->scale[unit];
  DK_UNROLL
  for (int r = 0; r < TILE_ROWS; r++) {
    const dk_input_group *input = group_of(x, r) + unit * unit_inputs(type) / DK_GROUP;
    dk_u q_sum = u_set((uint32_t)unit_q_sum(type, input, unit));
    acc[r] = add_dot(log2, acc[r], u_load(sums[r]), q_sum, scale, input->scale);
    if (has_minimum(type))
      acc[r] = f_fma(weights->minimum[unit], f_set(input->sum), acc[r]);
  }
}

/* Adds up to 256 inputs to y, which holds the sums of those before. The tiles of a batch are started before the sums of
 * the previous one are used. */
DK_INLINE void multiply_unpacked(int32_t type, const unpacked *weights, tile x, bool is_first, float *y,
                                 int64_t y_stride) {
  _Alignas(64) unit_sums sums[2];
  dk_f acc[TILE_ROWS];
  DK_UNROLL
  for (int r = 0; r < TILE_ROWS; r++)
    acc[r] = is_first ? f_set(0.0f) : f_load(y + r * y_stride);
  sum_units(type, weights, x, 0, sums[0]);
  for (int unit = 0; unit < weights->num_units; unit += BATCH) {
    unit_sums *now = &sums[unit / BATCH % 2];
    sum_units(type, weights, x, unit + BATCH, sums[(unit / BATCH + 1) % 2]);
    for (int i = 0; i < BATCH && unit + i < weights->num_units; i++)
      add_unit(type, weights, x, unit + i, (*now)[i], acc);
  }
  DK_UNROLL
  for (int r = 0; r < TILE_ROWS; r++)
    f_store(y + r * y_stride, acc[r]);
}

/* ---- a panel ---- */

/* The sizes of tiles are this thread's own, and fewer rows than a tile has need none. */
DK_INLINE void begin_tiles(const dk_quantised_product *product) {
  if (product->num_rows >= TILE_ROWS)
    tiles_configure(unit_inputs(product->type));
}

DK_INLINE void end_tiles(const dk_quantised_product *product) {
  if (product->num_rows >= TILE_ROWS)
    TILES_RELEASE();
}

/* All whole tiles of rows. Returns the first row that is left. */
DK_INLINE int32_t multiply_by_tiles(int32_t type, const dk_quantised_product *product, int32_t panel) {
  const int32_t num_groups = product->num_inputs / DK_GROUP, num_rows = product->num_rows / TILE_ROWS * TILE_ROWS;
  const uint8_t *packed = product->panels + (size_t)panel * dk_quantised_panel_bytes(type, product->num_inputs);
  unpacked weights;
  for (int32_t g = 0; num_rows > 0 && g < num_groups; g += DK_SUPERGROUP / DK_GROUP) {
    int32_t count = num_groups - g < DK_SUPERGROUP / DK_GROUP ? num_groups - g : DK_SUPERGROUP / DK_GROUP;
    packed = unpack(type, packed, count, &weights);
    for (int32_t row = 0; row < num_rows; row += TILE_ROWS) {
      tile x = {product->inputs + (size_t)row * (size_t)num_groups + g, (size_t)num_groups, TILE_ROWS};
      float *y = product->y + row * product->y_stride + panel * DK_PANEL;
      multiply_unpacked(type, &weights, x, g == 0, y, product->y_stride);
    }
  }
  return num_rows;
}
