#!/usr/bin/env bash
# Tests the kernel on 64-bit ARM: cross-compiles it and runs the checker of the golden file and inputs of the fuzzer
# under qemu's user-mode emulation. They compare the NEON set with the portable one, and both with the bits of x86.
#     tests/tools/neon.sh [inputs of the fuzzer, 200 by default]
#
# Needs cmake, aarch64-linux-gnu-gcc and qemu-aarch64: on Debian `apt-get install cmake gcc-aarch64-linux-gnu
# libc6-dev-arm64-cross qemu-user`; and a Python with the package installed, `python3` or $PYTHON. Removes its files.
set -euo pipefail
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
csrc=$tests/../csrc
inputs=${1:-200}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
qemu=$(command -v qemu-aarch64 || command -v qemu-aarch64-static)

cmake -S "$csrc" -B "$scratch" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc >"$scratch/log"
cmake --build "$scratch" --target decoding --parallel >>"$scratch/log"

link() { # PROGRAM SOURCES: links statically, so that the program needs no libraries of the host
  aarch64-linux-gnu-gcc -std=c11 -O2 -static -I"$csrc" "${@:2}" "$scratch/libdecoding.a" -lm -o "$scratch/$1"
}

link check_golden "$tests/vectors/check_golden.c"
for isa in neon portable; do
  gzip -dc "$tests/vectors/golden.txt.gz" | "$qemu" "$scratch/check_golden" $isa
done

# The forward pass: each kind of tiny network must give the bits that Python computes on this machine.
link example_forward "$csrc/example_forward.c"
"${PYTHON:-python3}" "$tests/tools/forward_plans.py" "$scratch/plans"
for plan in "$scratch"/plans/*.plan; do
  "$qemu" "$scratch/example_forward" "$plan" 20 1 2 3 | diff - "${plan%.plan}.expected"
done
echo "neon: $(ls "$scratch"/plans/*.plan | wc -l) networks have the same logits"

link fuzz "$tests"/fuzz/*.c
"$qemu" "$scratch/fuzz" "$inputs"
