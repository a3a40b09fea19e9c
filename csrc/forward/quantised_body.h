/* Quantised matrix multiplication, once, in terms of lanes.h. Each quantised_<set>.c sets the instruction set and the
 * name of its table, and includes this file.
 *
 * An output is acc = 0; for each group of inputs, in order:
 *
 *     dot = sum of (weight - offset) * q         an exact integer
 *     acc = fma(dot, scale * input scale, acc)
 *     acc = fma(minimum, scale * sum of q, acc)  for types with a minimum
 *
 * so neither the set nor the tile of rows changes a bit. Integer sums have no order: each set does them as it likes. */
#include <math.h>
#include <stdbool.h>

#include "forward/quantised.h"
#include "simd/lanes.h"

/* Rows whose sums stay in registers. */
#if defined(DK_ISA_AVX512)
#define DK_TILE_ROWS 8
#elif defined(DK_ISA_PORTABLE)
#define DK_TILE_ROWS 1
#else
#define DK_TILE_ROWS 4
#endif
#if defined(DK_ISA_PORTABLE)
#define DK_UNROLL
#else
#define DK_UNROLL _Pragma("GCC unroll 16")
#endif
#define DK_PREFETCH 1024 /* bytes ahead: a panel is read once per tile, front to back */

/* ---- inputs ---- */

/* Adding it rounds to an integer, half to even, which is then in the low bits. */
#define ROUNDING 12582912.0f /* 1.5 * 2^23 */
/* A group without a larger magnitude counts as zero: the inverse of its scale might overflow. */
#define SMALLEST 0x1p-100f

static void quantise_group(const float *inputs, dk_input_group *group) {
  const dk_u magnitude = u_set(0x7FFFFFFFu);
  dk_f x[2] = {f_load(inputs), f_load(inputs + 16)};
  /* Compared as integers, infinity and NaN are above all finite numbers. */
  uint32_t top = u_fold_max(u_max(u_and(f_bits(x[0]), magnitude), u_and(f_bits(x[1]), magnitude)));
  float largest;
  memcpy(&largest, &top, sizeof largest);
  if (!(largest >= SMALLEST) || largest == INFINITY) {
    memset(group, 0, sizeof *group);
    if (!(largest < INFINITY))
      group->scale = group->sum = NAN;
    return;
  }
  dk_f inverse = f_set(127.0f / largest);
  int32_t sums[2];
  DK_UNROLL
  for (int half = 0; half < 2; half++) {
    dk_u bits = f_bits(f_add(f_mul(x[half], inverse), f_set(ROUNDING)));
    u_store_low_bytes(group->q + 16 * half, bits);
    sums[half] = (int32_t)u_fold_sum(u_sub(bits, f_bits(f_set(ROUNDING))));
  }
  group->q_sum = sums[0] + sums[1];
  group->q_sum_upper = sums[1];
  group->scale = largest / 127.0f;
  group->sum = group->scale * (float)group->q_sum;
}

static void quantise(const float *inputs, int32_t num_inputs, dk_input_group *groups) {
  for (int32_t g = 0; g < num_inputs / DK_GROUP; g++)
    quantise_group(inputs + DK_GROUP * g, groups + g);
}

/* ---- integer sums: vectors of weights times some rows, dots[row] = 16 int32 ---- */

/* The same group of several rows. */
typedef struct tile {
  const dk_input_group *first;
  size_t stride; /* groups from row to row */
  int count;     /* constant in each copy of a loop */
} tile;

DK_INLINE const dk_input_group *group_of(tile x, int row) { return x.first + (size_t)row * x.stride; }

DK_INLINE void add_step(dk_n *sums, dk_q weights, tile x, int step) {
  DK_UNROLL
  for (int r = 0; r < x.count; r++)
    sums[r] = n_step(sums[r], weights, a_load(group_of(x, r)->q + 4 * step));
}

DK_INLINE void clear_sums(dk_n *sums) {
  DK_UNROLL
  for (int r = 0; r < DK_TILE_ROWS; r++)
    sums[r] = n_zero();
}

DK_INLINE void clear_dots(dk_u *dots) {
  DK_UNROLL
  for (int r = 0; r < DK_TILE_ROWS; r++)
    dots[r] = u_set(0);
}

/* The sums of each row so far move to dots. */
DK_INLINE void widen_sums(dk_n *sums, tile x, dk_u *dots) {
  DK_UNROLL
  for (int r = 0; r < x.count; r++) {
    dots[r] = u_add(dots[r], n_wide(sums[r]));
    sums[r] = n_zero();
  }
}

DK_INLINE void dots_8(const uint8_t *vectors, tile x, dk_u *dots) {
  DK_UNROLL
  for (int s = 0; s < 8; s++) {
    dk_s weights = s_weights(q_load(vectors + 64 * s));
    DK_UNROLL
    for (int r = 0; r < x.count; r++)
      dots[r] = s_step(dots[r], weights, a_load(group_of(x, r)->q + 4 * s));
  }
}

DK_INLINE void dots_4(const uint8_t *vectors, tile x, dk_u *dots) {
  dk_n sums[DK_TILE_ROWS];
  clear_sums(sums);
  DK_UNROLL
  for (int s = 0; s < 4; s++) {
    dk_q pairs = q_load(vectors + 64 * s);
    add_step(sums, q_low(pairs), x, s);
    add_step(sums, q_high(pairs), x, s + 4);
  }
  widen_sums(sums, x, dots);
}

/* The low nibbles are inputs 0 .. 15, the high ones inputs 16 .. 31: four steps each, which is what the sums hold. */
DK_INLINE void dots_5(const uint8_t *vectors, tile x, dk_u *dots) {
  dk_q fifth = q_load(vectors + 256);
  dk_n sums[DK_TILE_ROWS];
  clear_sums(sums);
  DK_UNROLL
  for (int half = 0; half < 2; half++) {
    DK_UNROLL
    for (int s = 4 * half; s < 4 * half + 4; s++) {
      dk_q pairs = q_load(vectors + 64 * (s - 4 * half));
      add_step(sums, q_merge(half ? q_high(pairs) : q_low(pairs), fifth, 4 - s, 16), x, s);
    }
    widen_sums(sums, x, dots);
  }
}

/* 16 inputs. */
DK_INLINE void dots_6(const uint8_t *vectors, tile x, int first_step, dk_u *dots) {
  dk_q upper = q_load(vectors + 128);
  dk_n sums[DK_TILE_ROWS];
  clear_sums(sums);
  DK_UNROLL
  for (int half = 0; half < 2; half++) {
    DK_UNROLL
    for (int s = 2 * half; s < 2 * half + 2; s++) {
      dk_q pairs = q_load(vectors + 64 * (s - 2 * half));
      add_step(sums, q_merge(half ? q_high(pairs) : q_low(pairs), upper, 4 - 2 * s, 48), x, first_step + s);
    }
    widen_sums(sums, x, dots);
  }
}

/* ---- one group ---- */

/* Stored weights are 2^n too large, or (0) as they are. */
DK_INLINE int log2_offset(int32_t type) {
  switch (type) {
  case DECODING_Q4_0:
    return 3;
  case DECODING_Q5_0:
    return 4;
  case DECODING_Q6_K:
    return 5;
  default: /* see s_step */
    return type == DECODING_Q8_0 && DK_SIGNED_OFFSET != 0 ? 7 : 0;
  }
}

DK_INLINE bool has_minimum(int32_t type) {
  return type == DECODING_Q4_1 || type == DECODING_Q5_1 || type == DECODING_Q4_K || type == DECODING_Q5_K;
}

DK_INLINE bool is_k_quant(int32_t type) {
  return type == DECODING_Q4_K || type == DECODING_Q5_K || type == DECODING_Q6_K;
}

DK_INLINE bool has_fifth_bit(int32_t type) {
  return type == DECODING_Q5_0 || type == DECODING_Q5_1 || type == DECODING_Q5_K;
}

/* acc + dot * scale * input_scale, for weights that are stored 2^log2 too large; 0: as they are. q_sum: of the inputs
 * that the dot is made of. */
DK_INLINE dk_f add_dot(int log2, dk_f acc, dk_u dot, dk_u q_sum, dk_f scale, float input_scale) {
  if (log2 != 0)
    dot = u_sub(dot, u_shift_left(q_sum, log2));
  return f_fma(u_to_float(dot), f_mul(scale, f_set(input_scale)), acc);
}

/* Scales of 256 inputs. */
typedef struct super_scales {
  dk_f d, minus_dmin;
} super_scales;

DK_INLINE super_scales load_super_scales(int32_t type, const uint8_t *panel) {
  super_scales super = {f_load_f16(panel), f_set(0.0f)};
  if (has_minimum(type))
    super.minus_dmin = f_mul(f_set(-1.0f), f_load_f16(panel + 32));
  return super;
}

/* Q6_K: a scale for each half of the group. */
DK_INLINE void add_group_6(const uint8_t *group, super_scales super, tile x, dk_f *acc) {
  DK_UNROLL
  for (int half = 0; half < 2; half++) {
    dk_u dots[DK_TILE_ROWS];
    clear_dots(dots);
    dots_6(group + 32 + 192 * half, x, 4 * half, dots);
    dk_f scale = f_mul(super.d, f_load_s8(group + 16 * half));
    DK_UNROLL
    for (int r = 0; r < x.count; r++) {
      const dk_input_group *input = group_of(x, r);
      dk_u q_sum = u_set((uint32_t)input->q_sum_upper);
      if (half == 0)
        q_sum = u_sub(u_set((uint32_t)input->q_sum), q_sum);
      acc[r] = add_dot(log2_offset(DECODING_Q6_K), acc[r], dots[r], q_sum, scale, input->scale);
    }
  }
}

/* Of any type but Q6_K. The products are exact: 11 by 6 bits. */
DK_INLINE void load_scales(int32_t type, const uint8_t *group, super_scales super, dk_f *scale, dk_f *minimum) {
  *minimum = f_set(0.0f);
  if (is_k_quant(type)) {
    *scale = f_mul(super.d, f_load_u8(group));
    *minimum = f_mul(super.minus_dmin, f_load_u8(group + 16));
  } else {
    *scale = f_load_f16(group);
    if (has_minimum(type))
      *minimum = f_load_f16(group + 32);
  }
}

/* The weights of a group follow its scales. */
DK_INLINE const uint8_t *vectors_of(int32_t type, const uint8_t *group) {
  return group + (has_minimum(type) && !is_k_quant(type) ? 64 : 32);
}

DK_INLINE void add_group(int32_t type, const uint8_t *group, super_scales super, tile x, dk_f *acc) {
  dk_u dots[DK_TILE_ROWS];
  dk_f scale, minimum;
  load_scales(type, group, super, &scale, &minimum);
  clear_dots(dots);
  const uint8_t *vectors = vectors_of(type, group);
  if (type == DECODING_Q8_0)
    dots_8(vectors, x, dots);
  else if (has_fifth_bit(type))
    dots_5(vectors, x, dots);
  else
    dots_4(vectors, x, dots);
  DK_UNROLL
  for (int r = 0; r < x.count; r++) {
    const dk_input_group *input = group_of(x, r);
    acc[r] = add_dot(log2_offset(type), acc[r], dots[r], u_set((uint32_t)input->q_sum), scale, input->scale);
    if (has_minimum(type))
      acc[r] = f_fma(minimum, f_set(input->sum), acc[r]);
  }
}

/* ---- a panel ---- */

/* The part of the next panel that a tile of several rows prefetches while it passes over this one: a line per group,
 * which is all of it from nine tiles on. For Q8_0 only, whose panels are the largest: other types gained nothing. */
typedef struct share {
  const uint8_t *next;
  size_t step; /* bytes */
} share;

DK_INLINE share share_of(size_t panel_bytes, const uint8_t *panel, tile x, int32_t num_rows, int32_t row) {
  const size_t bytes = panel_bytes / (size_t)((num_rows + x.count - 1) / x.count);
  return (share){panel + panel_bytes + bytes * (size_t)(row / x.count), bytes / x.stride};
}

DK_INLINE void fetch_group(const uint8_t *group, int32_t num_bytes) {
  DK_UNROLL
  for (int32_t i = 0; i < num_bytes; i += 64)
    __builtin_prefetch(group + i);
}

DK_INLINE void multiply_tile(int32_t type, const uint8_t *panel, int32_t num_groups, tile x, share part, dk_f *acc) {
  super_scales super = {f_set(0.0f), f_set(0.0f)};
  const dk_format format = DK_FORMATS[type];
  DK_UNROLL
  for (int r = 0; r < x.count; r++)
    acc[r] = f_set(0.0f);
  for (int32_t g = 0; g < num_groups; g++, x.first++, panel += format.group_bytes) {
    if (x.count == 1) {
      fetch_group(panel + DK_PREFETCH, format.group_bytes);
    } else if (type == DECODING_Q8_0) {
      __builtin_prefetch(part.next);
      part.next += part.step;
    }
    if (is_k_quant(type) && g % (DK_SUPERGROUP / DK_GROUP) == 0) {
      super = load_super_scales(type, panel);
      panel += format.super_bytes;
    }
    if (type == DECODING_Q6_K)
      add_group_6(panel, super, x, acc);
    else
      add_group(type, panel, super, x, acc);
  }
}

/* `count` rows from `row` on; it is constant in each copy. Returns the next row. */
DK_INLINE int32_t multiply_rows(int32_t type, int count, const dk_quantised_product *product, int32_t panel,
                                int32_t row) {
  const size_t num_groups = (size_t)(product->num_inputs / DK_GROUP);
  const size_t panel_bytes = dk_quantised_panel_bytes(type, product->num_inputs);
  const uint8_t *weights = product->panels + (size_t)panel * panel_bytes;
  float *y = product->y + row * product->y_stride + panel * DK_PANEL;
  dk_f acc[DK_TILE_ROWS];
  tile x = {product->inputs + (size_t)row * num_groups, num_groups, count};
  multiply_tile(type, weights, (int32_t)num_groups, x, share_of(panel_bytes, weights, x, product->num_rows, row), acc);
  for (int r = 0; r < count; r++)
    f_store(y + r * product->y_stride, acc[r]);
  return row + count;
}

#if defined(DK_AMX)
#include "forward/quantised_tiles.h"
#else
DK_INLINE void begin_tiles(const dk_quantised_product *product) { (void)product; }
DK_INLINE void end_tiles(const dk_quantised_product *product) { (void)product; }
DK_INLINE int32_t multiply_by_tiles(int32_t type, const dk_quantised_product *product, int32_t panel) {
  (void)type, (void)product, (void)panel;
  return 0;
}
#endif

DK_INLINE void multiply_panel(int32_t type, const dk_quantised_product *product, int32_t panel) {
  int32_t row = multiply_by_tiles(type, product, panel), num_rows = product->num_rows;
  while (num_rows - row >= DK_TILE_ROWS)
    row = multiply_rows(type, DK_TILE_ROWS, product, panel, row);
#if DK_TILE_ROWS > 4
  if (num_rows - row >= 4)
    row = multiply_rows(type, 4, product, panel, row);
#endif
#if DK_TILE_ROWS > 2
  if (num_rows - row >= 2)
    row = multiply_rows(type, 2, product, panel, row);
#endif
#if DK_TILE_ROWS > 1
  if (num_rows - row >= 1)
    multiply_rows(type, 1, product, panel, row);
#endif
}

#define DK_OF_TYPE(name)                                                                                               \
  case name:                                                                                                           \
    for (int32_t panel = 0; panel < product->num_panels; panel++)                                                      \
      multiply_panel(name, product, panel);                                                                            \
    break

static void multiply(const dk_quantised_product *product) {
  begin_tiles(product);
  switch (product->type) {
    DK_OF_TYPE(DECODING_Q8_0);
    DK_OF_TYPE(DECODING_Q4_0);
    DK_OF_TYPE(DECODING_Q4_1);
    DK_OF_TYPE(DECODING_Q5_0);
    DK_OF_TYPE(DECODING_Q5_1);
    DK_OF_TYPE(DECODING_Q4_K);
    DK_OF_TYPE(DECODING_Q5_K);
    DK_OF_TYPE(DECODING_Q6_K);
  default:
    break;
  }
  end_tiles(product);
}

const dk_quantised_kernel DK_TABLE = {.name = DK_NAME, .quantise = quantise, .multiply = multiply};
