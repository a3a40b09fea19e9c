#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* syscall */
#endif
#include "forward/amx.h"

#if defined(DK_HAVE_AMX) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

static bool cpu_has_tiles(void) {
  const unsigned int amx_tile = 1u << 24, amx_int8 = 1u << 25;
  unsigned int eax, ebx, ecx, edx;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & amx_tile) != 0 && (edx & amx_int8) != 0;
}

bool dk_request_tiles(void) {
  return cpu_has_tiles() && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
#else
bool dk_request_tiles(void) { return false; }
#endif
