#!/usr/bin/env bash
# run.sh [SECONDS [TARGET…]]: runs each fuzz target (or those named) for a while, one after the other, on one core.
# Needs what the build needs, and a C++ compiler for libFuzzer; no nightly compiler and no cargo-fuzz. Ends with an error
# at the first crash; its input stays in fuzz/artifacts, what was learnt in fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-180}
[ $# -gt 0 ] && shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(exposition promql remote_write otlp block tsdb batch config)

command -v c++ >/dev/null || {
  echo "fuzz: a C++ compiler is missing: apt-get install g++" >&2
  exit 1
}
host=$(rustc -vV | sed -n 's/^host: //p')
# What cargo-fuzz passes, without a sanitizer: there is no unsafe code to watch, and the stable compiler has these flags.
coverage="--cfg fuzzing -Cdebug-assertions -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares"
RUSTFLAGS=$(echo $coverage) cargo build --release --locked --target "$host"

for target in "${targets[@]}"; do
  mkdir -p "corpus/$target" artifacts
  folders=("corpus/$target")
  [ -d "seeds/$target" ] && folders+=("seeds/$target")
  echo "fuzz: $target for $seconds s"
  # -timeout: a single input that takes this long is a finding too.
  "target/$host/release/$target" "${folders[@]}" -artifact_prefix="artifacts/$target-" -max_total_time="$seconds" \
    -timeout=10 -rss_limit_mb=4096 -max_len=16384 -print_final_stats=1 -verbosity=1
done
