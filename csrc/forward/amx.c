/* Intel AMX: permission from Linux, and a test product before it is used. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* syscall */
#endif
#include "forward/amx.h"

#include <stdatomic.h>

#include "decoding.h"
#include "forward/quantised.h"

#if defined(DK_HAVE_AMX) && defined(__linux__)
#include <cpuid.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "simd/dispatch.h"

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

#define TEST_ROWS 16
#define TEST_INPUTS 256
#define MAX_PANEL_BYTES (TEST_INPUTS / DK_GROUP * (64 + 512))

static bool cpu_has_amx(void) {
  const unsigned int amx_tile = 1u << 24, amx_int8 = 1u << 25;
  unsigned int eax, ebx, ecx, edx;
  return decoding_isa_available("avx512") && dk_has_byte_products() && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) &&
         (edx & amx_tile) != 0 && (edx & amx_int8) != 0;
}

static bool linux_grants_tiles(void) { return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0; }

/* Return true if a product of this type has the bits of the other sets. */
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

static bool find_tiles(void) { return cpu_has_amx() && linux_grants_tiles() && tiles_work(); }
#else
static bool find_tiles(void) { return false; }
#endif

static atomic_bool enabled;

int32_t decoding_enable_amx(void) {
  if (!dk_amx_is_enabled())
    atomic_store_explicit(&enabled, find_tiles(), memory_order_release);
  return dk_amx_is_enabled();
}

bool dk_amx_is_enabled(void) { return atomic_load_explicit(&enabled, memory_order_acquire); }
