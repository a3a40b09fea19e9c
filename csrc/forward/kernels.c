/* The kernels of the forward pass in this build, by instruction set. */
#include "forward/kernels.h"

#include "simd/dispatch.h"

static const dk_forward_kernel *const KERNELS[DK_NUM_ISAS] = {
#if defined(DK_HAVE_X86)
    [DK_AVX512] = &dk_forward_kernel_avx512,
    [DK_AVX2] = &dk_forward_kernel_avx2,
#endif
#if defined(DK_HAVE_NEON)
    [DK_NEON] = &dk_forward_kernel_neon,
#endif
    [DK_PORTABLE] = &dk_forward_kernel_portable,
};

const dk_forward_kernel *dk_active_forward_kernel(void) { return KERNELS[dk_active_isa()]; }
