#!/usr/bin/env bash
# Builds each mutant of csrc/ (mutants.py beside this file) and runs the tests of the kernel against it, up to the first
# failure. Succeeds if the tests find every mutant.
#     tests/tools/mutants.sh [NUMBER...]        all of them by default
#
# The golden file is left out, because it would find every mutant alone and so hide gaps in the other tests. Needs gcc,
# cmake, Python and PyPI. Removes all files that it makes.
source "$(dirname "${BASH_SOURCE[0]}")/instrumented.sh"
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
copy_checkout
install_copy -O1 ""
site=$("$scratch/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
cp -r "$scratch/decoding/csrc" "$scratch/original"

build() { # replaces the installed module by the mutant; compiles only changed files
  cmake --build "$scratch/build" >"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
  find "$scratch/build" -name '_kernel*.so' -exec cp {} "$site/decoding/" \;
}

noticed() { # succeeds if a test of the probes, the oracle or the statistics fails within 20 minutes
  cd "$scratch/decoding"
  timeout 1200 "$scratch/venv/bin/python" -m pytest -q -x -p no:cacheprovider tests/fault_detection/test_other_samplers.py \
    tests/properties/test_sampler_properties.py tests/oracle tests/unit/sampling/test_philox.py tests/statistical \
    >"$scratch/tests" 2>&1 && return 1
  grep -q FAILED "$scratch/tests"
}

if [ $# = 0 ] && noticed; then
  echo "a test fails without any mutant: $(grep -m1 -o 'FAILED [^ ]*' "$scratch/tests")"
  exit 1
fi
missed=0
for number in ${*:-$(seq "$(python3 "$tools/mutants.py")")}; do
  effect=$(python3 "$tools/mutants.py" "$number" "$scratch/decoding/csrc")
  build
  if noticed; then
    echo "noticed: $number. $effect: $(grep -m1 -o 'FAILED [^ ]*' "$scratch/tests")"
  else
    echo "MISSED: $number. $effect"
    missed=$((missed + 1))
  fi
  cp "$scratch/original/${effect%%:*}" "$scratch/decoding/csrc/${effect%%:*}" # restores only this file
done
echo "$missed missed"
[ "$missed" = 0 ]
