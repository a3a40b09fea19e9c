#!/usr/bin/env bash
# Runs the tests of the kernel against a build with AddressSanitizer and UndefinedBehaviorSanitizer:
# tests/tools/sanitize.sh. The first report ends the run with an error. Needs gcc, Python and PyPI. Removes its files.
#
# With --prove, a read past the end of a row is planted in the copy first, and the script succeeds only if
# AddressSanitizer reports it.
source "$(dirname "${BASH_SOURCE[0]}")/instrumented.sh"
flags="-DDK_WITHOUT_INLINING -g -fno-omit-frame-pointer -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all"

plant_error() { # makes the finite check read one element too many
  local row=$scratch/decoding/csrc/sampling/row_view.c
  sed -i 's/scan(logits, batch->dtype, batch->vocab_size,/scan(logits, batch->dtype, batch->vocab_size + 1,/' "$row"
  if cmp -s "$checkout/csrc/sampling/row_view.c" "$row"; then
    echo "nothing was planted: row_view.c has changed"
    exit 1
  fi
}

run_sanitized() { # PYTEST-OPTIONS
  # Python is not instrumented, so the sanitizer's runtime must be preloaded, and memory that Python keeps until exit is
  # not a leak. Python's own allocator would hide overruns. If output were captured, an abort would lose the report.
  LD_PRELOAD=$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
    PYTHONMALLOC=malloc run_tests --capture=no "$@"
}

copy_checkout
if [ "${1:-}" = --prove ]; then
  plant_error
  install_copy "-O1 -fno-inline" "$flags"
  if run_sanitized --exitfirst >"$scratch/log" 2>&1; then
    echo "the planted error was not found"
    exit 1
  fi
  grep -m1 'ERROR: AddressSanitizer' "$scratch/log"
else
  install_copy "-O1 -fno-inline" "$flags"
  run_sanitized
  echo "no reports"
fi
