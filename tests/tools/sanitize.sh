#!/usr/bin/env bash
# Runs the tests that reach the kernel against a build with AddressSanitizer and UndefinedBehaviorSanitizer. The first
# report ends the run with an error. Needs gcc, Python and PyPI, and leaves nothing behind: tests/tools/sanitize.sh
#
# With --prove, a read past the end of a row is planted in the copy first, and the script succeeds only if
# AddressSanitizer reports it.
source "$(dirname "${BASH_SOURCE[0]}")/instrumented.sh"
flags="-g -fno-omit-frame-pointer -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all"

plant_error() { # the finite check reads one element too many
  local row=$scratch/decoding/csrc/sampling/row_view.c
  sed -i 's/scan(logits, batch->dtype, batch->vocab_size,/scan(logits, batch->dtype, batch->vocab_size + 1,/' "$row"
  if cmp -s "$checkout/csrc/sampling/row_view.c" "$row"; then
    echo "nothing was planted: row_view.c has changed"
    exit 1
  fi
}

run_sanitized() { # PYTEST-OPTIONS
  # Python is not instrumented, so the runtime must be loaded before it, and what it keeps until it exits is no leak.
  # Its own allocator would hide overruns. Captured output would die with the process, and the report with it.
  LD_PRELOAD=$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
    PYTHONMALLOC=malloc run_tests --capture=no "$@"
}

copy_checkout
forbid_inlining
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
