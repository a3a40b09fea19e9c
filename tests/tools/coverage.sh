#!/usr/bin/env bash
# Line and branch coverage of csrc/ by the tests that reach the kernel, and the numbers of the lines that they miss.
# Needs gcc with gcov, Python and PyPI, and leaves nothing behind: tests/tools/coverage.sh
#
# kernels_body.h is compiled once for each instruction set. gcovr adds the three up by line: a line or a branch counts as
# covered when one set took it. Sets that this CPU cannot run are not measured.
source "$(dirname "${BASH_SOURCE[0]}")/instrumented.sh"
copy_checkout
forbid_inlining
install_copy -O0 "--coverage -fprofile-update=atomic"
run_tests
python3 -m venv "$scratch/gcovr"
"$scratch/gcovr/bin/pip" install --quiet --disable-pip-version-check gcovr
for metric in line branch; do
  "$scratch/gcovr/bin/gcovr" --root "$scratch/decoding/csrc" --exclude '.*/_kernel\.c' \
    --merge-mode-functions=separate --txt-metric "$metric" "$scratch/build"
done
