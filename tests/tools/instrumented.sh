# Sourced by the other tools. Makes a folder `$scratch`, removed when the script exits, with a copy of the checkout,
# `decoding`, and an environment, `venv`, in which the copy is installed.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

copy_checkout() { # links the optional test data, a folder called shared beside the checkout
  mkdir "$scratch/decoding"
  tar -C "$checkout" --exclude=./.git --exclude=./build --exclude=./.venv -c . | tar -C "$scratch/decoding" -x
  if [ -d "$checkout/../shared" ]; then ln -s "$(cd "$checkout/../shared" && pwd)" "$scratch/shared"; fi
}

install_copy() { # OPTIMISATION C-FLAGS SETTINGS: installs the package, compiled with these, and its test requirements
  local optimisation=$1 flags=$2
  shift 2
  sed -i "s/ -O3 / $optimisation /" "$scratch/decoding/csrc/CMakeLists.txt"
  python3 -m venv "$scratch/venv"
  CC=gcc CFLAGS=$flags "$scratch/venv/bin/pip" install --quiet --disable-pip-version-check \
    --config-settings=build-dir="$scratch/build" "${@/#/--config-settings=}" -e "$scratch/decoding[test]"
}

run_tests() { # PYTEST-OPTIONS: runs the tests of the kernel; most of them run on every instruction set
  cd "$scratch/decoding"
  "$scratch/venv/bin/python" -c \
    'from decoding.sampling.kernel import available_isas; print("instruction sets:", *available_isas(), flush=True)'
  "$scratch/venv/bin/python" -m pytest -q -p no:cacheprovider "$@" \
    tests/oracle tests/vectors tests/unit/forward tests/unit/engine/test_multi_step.py \
    tests/unit/sampling/test_explain.py tests/unit/sampling/test_num_threads.py tests/unit/sampling/test_philox.py \
    tests/unit/sampling/test_sampler_arguments.py
}
