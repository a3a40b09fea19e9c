#!/usr/bin/env bash
# Fuzzes the kernel: tests/fuzz/run.sh [seconds, 600 by default] [corpus folder, kept between runs]
#
# Needs an x86-64 Linux and clang with libFuzzer: on Debian `apt-get install clang libclang-rt-14-dev`, or another
# version by name, as in `CLANG=clang-16 tests/fuzz/run.sh`. Exits with 0 if nothing was found. A finding is written
# to ./crash-* or ./timeout-*; the output names the command to replay it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
csrc=$here/../../csrc
clang=${CLANG:-clang}
seconds=${1:-600}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
corpus=${2:-$scratch/corpus}
mkdir -p "$corpus"

flags=(-std=c11 -g -O1 -ffp-contract=off -fno-omit-frame-pointer -DDK_HAVE_X86 -DDK_HAVE_AVX_VNNI -DDK_WITHOUT_INLINING -I"$csrc"
  -fsanitize=address,undefined -fno-sanitize-recover=all)
declare -A set_flags=(
  [kernels_avx2]="-mavx2 -mfma -mf16c"
  [kernels_avx512]="-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512"
  [quantised_avx2]="-mavx2 -mfma -mf16c"
  [quantised_avx2_vnni]="-mavx2 -mfma -mf16c -mavxvnni"
  [quantised_avx512]="-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512"
  [quantised_avx512_vnni]="-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma -mf16c")

compile() { # SOURCE
  local name object
  name=$(basename "$1" .c)
  object=$(basename "$(dirname "$1")")_$name.o
  # shellcheck disable=SC2086 # the flags of a set are words
  "$clang" "${flags[@]}" -fsanitize=fuzzer-no-link ${set_flags[$name]:-} -c "$1" -o "$scratch/$object"
}

while read -r source; do compile "$csrc/$source"; done <"$csrc/sources.txt"
for set in "${!set_flags[@]}"; do
  for source in "$csrc"/*/"$set".c; do compile "$source"; done
done
for source in "$here"/*.c; do
  case $source in */standalone.c) continue ;; esac
  compile "$source"
done
"$clang" "${flags[@]}" -fsanitize=fuzzer "$scratch"/*.o -lm -o "$scratch/fuzz_sample"

"$scratch/fuzz_sample" -max_total_time="$seconds" -max_len=512 -len_control=0 -timeout=20 -print_final_stats=1 "$corpus"
