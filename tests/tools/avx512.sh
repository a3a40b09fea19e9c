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

pretend() { # makes dispatch.c find the set on any processor
  local dispatch=$scratch/decoding/csrc/simd/dispatch.c
  sed -i 's/__builtin_cpu_supports("avx512[a-z]*")/1/g' "$dispatch"
  if cmp -s "$checkout/csrc/simd/dispatch.c" "$dispatch"; then
    echo "dispatch.c has changed: it does not ask for AVX-512"
    exit 1
  fi
}

copy_checkout
pretend
install_copy "-O1" "-DDK_WITHOUT_INLINING" \
  "cmake.define.DECODING_AVX512_FLAGS=-mavx2;-mfma;-mf16c;-std=gnu11;-w;-I$checkout/tests/tools/emulated;-I$simde" \
  "cmake.define.DECODING_VNNI_FLAGS="
"$scratch/venv/bin/python" -c 'from decoding.sampling.kernel import available_isas; assert "avx512" in available_isas()'
# The checker in C is built with the processor's own flags; Python draws its rows instead.
golden=tests/vectors/test_golden.py
run_tests --deselect $golden::test_all_rows_from_c --deselect $golden::test_the_checker_finds_a_changed_bit
"$scratch/venv/bin/python" -m pytest -q -p no:cacheprovider -m slow "$golden::test_all_rows_from_python[avx512]"
