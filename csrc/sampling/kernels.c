/* The sampling kernels of this build, by instruction set. */
#include "sampling/kernels.h"

#include "simd/dispatch.h"

static const dk_kernel *const KERNELS[DK_NUM_ISAS] = {
#if defined(DK_HAVE_X86)
    [DK_AVX512] = &dk_kernel_avx512,
    [DK_AVX2] = &dk_kernel_avx2,
#endif
#if defined(DK_HAVE_NEON)
    [DK_NEON] = &dk_kernel_neon,
#endif
    [DK_PORTABLE] = &dk_kernel_portable,
};

const dk_kernel *dk_active_kernel(void) { return KERNELS[dk_active_isa()]; }
