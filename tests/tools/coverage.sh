#!/usr/bin/env bash
# Prints line and branch coverage of csrc/ by the tests of the kernel, and the numbers of uncovered lines:
# tests/tools/coverage.sh. Needs gcc with gcov, Python and PyPI. Removes all files that it makes.
#
# kernels_body.h is compiled once per instruction set. gcovr merges the sets by line: a line or a branch is covered if
# any set covers it. Sets that this CPU cannot run are not measured.
source "$(dirname "${BASH_SOURCE[0]}")/instrumented.sh"
copy_checkout
install_copy -O0 "-DDK_WITHOUT_INLINING --coverage -fprofile-update=atomic"
run_tests
python3 -m venv "$scratch/gcovr"
"$scratch/gcovr/bin/pip" install --quiet --disable-pip-version-check gcovr
for metric in line branch; do
  "$scratch/gcovr/bin/gcovr" --root "$scratch/decoding/csrc" --exclude '.*/_kernel\.c' \
    --merge-mode-functions=separate --txt-metric "$metric" "$scratch/build"
done
