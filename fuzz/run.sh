#!/usr/bin/env bash
# run.sh [SECONDS [TARGET…]]: runs each fuzz target (or those named) for a while, one after the other, on one core.
# Installs cargo-fuzz below fuzz/target where it is missing. Ends with an error at the first crash; its input stays in
# fuzz/artifacts/TARGET, what was learnt in fuzz/corpus/TARGET.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-180}
[ $# -gt 0 ] && shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(exposition promql remote_write block batch config)

if ! command -v cargo-fuzz >/dev/null && [ ! -x fuzz/target/tools/bin/cargo-fuzz ]; then
  echo "fuzz: installing cargo-fuzz below fuzz/target/tools"
  cargo install --quiet --locked cargo-fuzz --root fuzz/target/tools
fi
export PATH=$PWD/fuzz/target/tools/bin:$PATH
# libFuzzer's flags are still called unstable; the stable compiler has them.
export RUSTC_BOOTSTRAP=1

for target in "${targets[@]}"; do
  mkdir -p "fuzz/corpus/$target"
  seeds=()
  [ -d "fuzz/seeds/$target" ] && seeds=("fuzz/seeds/$target")
  echo "fuzz: $target for $seconds s"
  # -timeout: a single input that takes this long is a finding too.
  cargo fuzz run "$target" "fuzz/corpus/$target" "${seeds[@]}" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -max_len=16384 -print_final_stats=1
done
