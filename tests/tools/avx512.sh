#!/usr/bin/env bash
# Runs the tests of the kernel with the AVX-512 set compiled against SIMDe's portable intrinsics, on a processor with
# AVX2 only. This tests the bits of the set's source, tiles and tails included, not its speed or its compiler flags.
#     tests/tools/avx512.sh
#
# Needs gcc, Python, PyPI and SIMDe's headers: `apt-get install libsimde-dev`, or their folder in $SIMDE. Removes all
# files that it makes.
source "$(dirname "${BASH_SOURCE[0]}")/instrumented.sh"
simde=${SIMDE:-/usr/include}
test -f "$simde/simde/x86/avx512.h" || { echo "no SIMDe in $simde"; exit 1; }

emulate() { # replaces the flags of the set, and the test of the processor
  local lists=$scratch/decoding/csrc/CMakeLists.txt dispatch=$scratch/decoding/csrc/simd/dispatch.c
  local flags="-mavx2;-mfma;-mf16c;-std=gnu11;-w;-I$checkout/tests/tools/emulated;-I$simde"
  sed -i "s#-mavx512f;[^\"]*#$flags#" "$lists"
  sed -i 's/return __builtin_cpu_supports("avx512f") .*/return 1;/; /__builtin_cpu_supports("avx512dq")/d' "$dispatch"
  if cmp -s "$checkout/csrc/CMakeLists.txt" "$lists" || cmp -s "$checkout/csrc/simd/dispatch.c" "$dispatch"; then
    echo "nothing to emulate was found: CMakeLists.txt or dispatch.c has changed"
    exit 1
  fi
}

copy_checkout
emulate
install_copy "-O1" ""
"$scratch/venv/bin/python" -c 'from decoding.sampling.kernel import available_isas; assert "avx512" in available_isas()'
run_tests
