/* The instruction sets that this build has and this CPU runs, and the active one: the library's only state. */
#include "simd/dispatch.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(DK_HAVE_X86)
#include <cpuid.h>
#endif
#if defined(DK_HAVE_NEON) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "decoding.h"

static const char *const NAMES[DK_NUM_ISAS] = {
    [DK_AVX512] = "avx512",
    [DK_AVX2] = "avx2",
    [DK_NEON] = "neon",
    [DK_PORTABLE] = "portable",
};

/* The sets of this build, widest first. */
static const dk_isa BUILT[] = {
#if defined(DK_HAVE_X86)
    DK_AVX512,
    DK_AVX2,
#endif
#if defined(DK_HAVE_NEON)
    DK_NEON,
#endif
    DK_PORTABLE,
};
#define NUM_BUILT ((int32_t)(sizeof BUILT / sizeof BUILT[0]))

#define NOT_CHOSEN ((int)DK_NUM_ISAS)

static atomic_int active = NOT_CHOSEN;

#if defined(DK_HAVE_X86)
/* __builtin_cpu_supports does not know "f16c" on every compiler. */
static bool has_f16c(void) {
  unsigned int eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
}

/* Nor "avxvnni": bit 4 of EAX in subleaf 1 of leaf 7, whose subleaf 0 has the last subleaf in EAX. */
static bool has_avx_vnni(void) {
  unsigned int eax, ebx, ecx, edx;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && eax >= 1 &&
         __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & 1u << 4) != 0;
}
#endif

static bool cpu_runs(dk_isa isa) {
#if defined(DK_HAVE_X86)
  __builtin_cpu_init();
  if (isa == DK_AVX512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (isa == DK_AVX2)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
#endif
#if defined(DK_HAVE_NEON)
  if (isa == DK_NEON)
    return true; /* part of every 64-bit ARM */
#endif
  return isa == DK_PORTABLE;
}

static dk_isa widest(void) {
  int32_t i = 0;
  while (!cpu_runs(BUILT[i])) /* ends at the portable set */
    i++;
  return BUILT[i];
}

/* Two threads that make the first call at once store the same value. */
dk_isa dk_active_isa(void) {
  int isa = atomic_load_explicit(&active, memory_order_acquire);
  if (isa == NOT_CHOSEN) {
    isa = (int)widest();
    atomic_store_explicit(&active, isa, memory_order_release);
  }
  return (dk_isa)isa;
}

bool dk_has_byte_products(dk_isa isa) {
#if defined(DK_HAVE_X86)
  __builtin_cpu_init();
  if (isa == DK_AVX512)
    return __builtin_cpu_supports("avx512vnni");
  if (isa == DK_AVX2)
    return has_avx_vnni();
#endif
#if defined(DK_HAVE_NEON) && defined(__ARM_FEATURE_DOTPROD)
  return isa == DK_NEON;
#elif defined(DK_HAVE_NEON) && defined(__linux__)
  return isa == DK_NEON && (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return false;
#endif
}

const char *decoding_isa_name(int32_t index) { return index >= 0 && index < NUM_BUILT ? NAMES[BUILT[index]] : NULL; }

const char *decoding_active_isa(void) { return NAMES[dk_active_isa()]; }

/* Return DK_NUM_ISAS if no set has this name. */
static dk_isa isa_of_name(const char *name) {
  int isa = 0;
  while (isa < DK_NUM_ISAS && strcmp(name, NAMES[isa]) != 0)
    isa++;
  return (dk_isa)isa;
}

static bool is_available(dk_isa isa) {
  for (int32_t i = 0; i < NUM_BUILT; i++)
    if (BUILT[i] == isa)
      return cpu_runs(isa);
  return false;
}

int32_t decoding_isa_available(const char *name) { return name != NULL && is_available(isa_of_name(name)); }

/* A set of other machines or other builds is absent, not unknown. */
int32_t decoding_force_isa(const char *name) {
  dk_isa isa = name == NULL ? widest() : isa_of_name(name);
  if (isa == DK_NUM_ISAS)
    return DECODING_UNKNOWN_ISA;
  if (!is_available(isa))
    return DECODING_ABSENT_ISA;
  atomic_store_explicit(&active, (int)isa, memory_order_release);
  return DECODING_OK;
}
