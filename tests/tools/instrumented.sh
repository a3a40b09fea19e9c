# Sourced by the tools beside it. Makes a folder, `$scratch`, that goes away with the script, and in it a copy of the
# checkout, `decoding`, and an environment, `venv`, with the copy installed.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

copy_checkout() { # optional test data in a folder called shared is found where it was: beside the checkout
  mkdir "$scratch/decoding"
  tar -C "$checkout" --exclude=./.git --exclude=./build --exclude=./.venv -c . | tar -C "$scratch/decoding" -x
  if [ -d "$checkout/../shared" ]; then ln -s "$(cd "$checkout/../shared" && pwd)" "$scratch/shared"; fi
}

forbid_inlining() { # so that lines and branches are those of the source; and gcc needs minutes to instrument the lanes
  sed -i 's/ __attribute__((always_inline))//' "$scratch/decoding/csrc/simd/lanes.h"
}

install_copy() { # OPTIMISATION C-FLAGS: the package and what its tests need, the kernel compiled this way
  sed -i "s/ -O3 / $1 /" "$scratch/decoding/csrc/CMakeLists.txt"
  python3 -m venv "$scratch/venv"
  CC=gcc CFLAGS=$2 "$scratch/venv/bin/pip" install --quiet --disable-pip-version-check \
    --config-settings=build-dir="$scratch/build" -e "$scratch/decoding[test]"
}

run_tests() { # PYTEST-OPTIONS: those tests that reach the kernel; most run on every instruction set by themselves
  cd "$scratch/decoding"
  "$scratch/venv/bin/python" -c \
    'from decoding.sampling.kernel import available_isas; print("instruction sets:", *available_isas(), flush=True)'
  "$scratch/venv/bin/python" -m pytest -q -p no:cacheprovider "$@" \
    tests/oracle tests/vectors tests/unit/forward tests/unit/sampling/test_explain.py tests/unit/sampling/test_num_threads.py tests/unit/sampling/test_philox.py \
    tests/unit/sampling/test_sampler_arguments.py
}
