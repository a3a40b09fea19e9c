/* The kernels for quantised weights in this build, by instruction set. */
#include "forward/quantised.h"

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

const dk_quantised_kernel *dk_active_quantised_kernel(void) {
  dk_isa isa = dk_active_isa();
#if defined(DK_HAVE_AMX)
  if (isa == DK_AVX512 && dk_amx_is_enabled())
    return &dk_quantised_avx512_amx;
#endif
#if defined(DK_HAVE_X86)
  if (isa == DK_AVX512 && dk_has_byte_products())
    return &dk_quantised_avx512_vnni;
#endif
#if defined(DK_HAVE_NEON)
  if (isa == DK_NEON && dk_has_byte_products())
    return &dk_quantised_neon_dot;
#endif
  return KERNELS[isa];
}
