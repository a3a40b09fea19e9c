/* The kernels for quantised weights in this build, by instruction set, and the use of Intel AMX. */
#include "forward/quantised.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "decoding.h"
#include "forward/amx.h"
#include "simd/dispatch.h"

static const dk_quantised_kernel *const KERNELS[DK_NUM_ISAS] = {
#if defined(DK_HAVE_X86)
    [DK_AVX512] = &dk_quantised_avx512,
    [DK_AVX2] = &dk_quantised_avx2,
#endif
#if defined(DK_HAVE_NEON)
    [DK_NEON] = &dk_quantised_neon,
#endif
    [DK_PORTABLE] = &dk_quantised_portable,
};

/* Those that need `dk_has_byte_products`. */
static const dk_quantised_kernel *const WITH_BYTE_PRODUCTS[DK_NUM_ISAS] = {
#if defined(DK_HAVE_X86)
    [DK_AVX512] = &dk_quantised_avx512_vnni,
#endif
#if defined(DK_HAVE_AVX_VNNI)
    [DK_AVX2] = &dk_quantised_avx2_vnni,
#endif
#if defined(DK_HAVE_NEON)
    [DK_NEON] = &dk_quantised_neon_dot,
#endif
};

/* ---- AMX ---- */

static atomic_bool uses_amx;

#if defined(DK_HAVE_AMX)
#define TEST_ROWS 16
#define TEST_INPUTS 256
#define MAX_PANEL_BYTES (TEST_INPUTS / DK_GROUP * (64 + 512))

/* Return true if a product of this type has the same bits by tiles as on the portable set. */
static bool test_product(int32_t type) {
  _Alignas(64) uint8_t panel[MAX_PANEL_BYTES];
  float inputs[TEST_INPUTS], expected[TEST_ROWS * DK_PANEL], actual[TEST_ROWS * DK_PANEL];
  dk_input_group groups[TEST_ROWS * TEST_INPUTS / DK_GROUP];
  for (int32_t i = 0; i < MAX_PANEL_BYTES; i++)
    panel[i] = (uint8_t)((i * 37 + i / 11) % 120); /* bytes below 0x7C: no scale is infinite or NaN */
  for (int32_t row = 0; row < TEST_ROWS; row++) {
    for (int32_t i = 0; i < TEST_INPUTS; i++)
      inputs[i] = (float)((i * 29 + row * 53) % 255 - 127);
    dk_quantised_portable.quantise(inputs, TEST_INPUTS, groups + row * (TEST_INPUTS / DK_GROUP));
  }
  dk_quantised_product product = {.type = type,
                                  .num_inputs = TEST_INPUTS,
                                  .num_rows = TEST_ROWS,
                                  .num_panels = 1,
                                  .inputs = groups,
                                  .panels = panel,
                                  .y = expected,
                                  .y_stride = DK_PANEL};
  dk_quantised_portable.multiply(&product);
  product.y = actual;
  dk_quantised_avx512_amx.multiply(&product);
  return memcmp(expected, actual, sizeof expected) == 0;
}

/* Q8_0 and Q4_1 have tiles of 32 inputs, Q6_K of 16. */
static bool tiles_work(void) {
  return test_product(DECODING_Q8_0) && test_product(DECODING_Q4_1) && test_product(DECODING_Q6_K);
}

static bool find_tiles(void) {
  return decoding_isa_available("avx512") && dk_has_byte_products(DK_AVX512) && dk_request_tiles() && tiles_work();
}
#else
static bool find_tiles(void) { return false; }
#endif

int32_t decoding_enable_amx(void) {
  if (!atomic_load_explicit(&uses_amx, memory_order_acquire))
    atomic_store_explicit(&uses_amx, find_tiles(), memory_order_release);
  return atomic_load_explicit(&uses_amx, memory_order_acquire);
}

/* ---- the kernel in use ---- */

const dk_quantised_kernel *dk_active_quantised_kernel(void) {
  dk_isa isa = dk_active_isa();
#if defined(DK_HAVE_AMX)
  if (isa == DK_AVX512 && atomic_load_explicit(&uses_amx, memory_order_acquire))
    return &dk_quantised_avx512_amx;
#endif
  return dk_has_byte_products(isa) && WITH_BYTE_PRODUCTS[isa] != NULL ? WITH_BYTE_PRODUCTS[isa] : KERNELS[isa];
}
