/* Which instruction sets this CPU has, the forced choice, one table pointer. */
#include <stdatomic.h>
#include <string.h>
#if defined(DK_HAVE_X86)
#include <cpuid.h>
#endif
#if defined(DK_HAVE_NEON) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "decoding.h"
#include "forward/kernels.h"
#include "forward/quantised.h"
#include "sampling/kernels.h"

static const dk_kernel *const TABLES[] = {
#if defined(DK_HAVE_X86)
    &dk_kernel_avx512,
    &dk_kernel_avx2,
#endif
#if defined(DK_HAVE_NEON)
    &dk_kernel_neon,
#endif
    &dk_kernel_portable,
};
/* In the same order. */
static const dk_forward_kernel *const FORWARD_TABLES[] = {
#if defined(DK_HAVE_X86)
    &dk_forward_kernel_avx512,
    &dk_forward_kernel_avx2,
#endif
#if defined(DK_HAVE_NEON)
    &dk_forward_kernel_neon,
#endif
    &dk_forward_kernel_portable,
};
static const dk_quantised_kernel *const QUANTISED_TABLES[] = {
#if defined(DK_HAVE_X86)
    &dk_quantised_avx512,
    &dk_quantised_avx2,
#endif
#if defined(DK_HAVE_NEON)
    &dk_quantised_neon,
#endif
    &dk_quantised_portable,
};
#define NUM_TABLES ((int32_t)(sizeof TABLES / sizeof TABLES[0]))

static _Atomic(const dk_kernel *) active;

#if defined(DK_HAVE_X86)
/* __builtin_cpu_supports does not know "f16c" on every compiler. */
static int32_t has_f16c(void) {
  unsigned int eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
}
#endif

#if defined(DK_HAVE_NEON)
static int32_t has_dot_product(void) {
#if defined(__ARM_FEATURE_DOTPROD)
  return 1;
#elif defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return 0;
#endif
}
#endif

static int32_t runs_here(const char *name) {
#if defined(DK_HAVE_X86)
  __builtin_cpu_init();
  if (strcmp(name, "avx512") == 0)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (strcmp(name, "avx2") == 0)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
#endif
#if defined(DK_HAVE_NEON)
  if (strcmp(name, "neon") == 0)
    return 1; /* part of every 64-bit ARM */
#endif
  return strcmp(name, "portable") == 0;
}

static const dk_kernel *widest(void) {
  for (int32_t i = 0; i < NUM_TABLES; i++)
    if (runs_here(TABLES[i]->name))
      return TABLES[i];
  return &dk_kernel_portable;
}

/* Two threads that come here first store the same pointer. */
const dk_kernel *dk_active_kernel(void) {
  const dk_kernel *kernel = atomic_load_explicit(&active, memory_order_acquire);
  if (kernel == NULL) {
    kernel = widest();
    atomic_store_explicit(&active, kernel, memory_order_release);
  }
  return kernel;
}

static int32_t active_index(void) {
  const dk_kernel *kernel = dk_active_kernel();
  int32_t index = 0;
  while (TABLES[index] != kernel)
    index++;
  return index;
}

const dk_forward_kernel *dk_active_forward_kernel(void) { return FORWARD_TABLES[active_index()]; }

/* Within a set, newer CPUs have instructions for products of bytes. They change no bit, so they are no set of their
 * own.
 */
const dk_quantised_kernel *dk_active_quantised_kernel(void) {
  const dk_quantised_kernel *kernel = QUANTISED_TABLES[active_index()];
#if defined(DK_HAVE_X86)
  if (kernel == &dk_quantised_avx512 && __builtin_cpu_supports("avx512vnni"))
    return &dk_quantised_avx512_vnni;
#endif
#if defined(DK_HAVE_NEON)
  if (kernel == &dk_quantised_neon && has_dot_product())
    return &dk_quantised_neon_dot;
#endif
  return kernel;
}

const char *decoding_isa_name(int32_t index) { return index >= 0 && index < NUM_TABLES ? TABLES[index]->name : NULL; }

int32_t decoding_isa_available(const char *name) {
  for (int32_t i = 0; name != NULL && i < NUM_TABLES; i++)
    if (strcmp(name, TABLES[i]->name) == 0)
      return runs_here(name) ? 1 : 0;
  return 0;
}

const char *decoding_active_isa(void) { return dk_active_kernel()->name; }

/* A set that exists on other machines or in other builds is absent here, not unknown. */
static int32_t is_known(const char *name) {
  static const char *const known[] = {"avx512", "avx2", "neon", "portable"};
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
    if (strcmp(name, known[i]) == 0)
      return 1;
  return 0;
}

int32_t decoding_force_isa(const char *name) {
  if (name == NULL) {
    atomic_store_explicit(&active, widest(), memory_order_release);
    return DECODING_OK;
  }
  if (!is_known(name))
    return DECODING_UNKNOWN_ISA;
  for (int32_t i = 0; i < NUM_TABLES; i++) {
    if (strcmp(name, TABLES[i]->name) == 0 && runs_here(name)) {
      atomic_store_explicit(&active, TABLES[i], memory_order_release);
      return DECODING_OK;
    }
  }
  return DECODING_ABSENT_ISA;
}
