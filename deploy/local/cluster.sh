#!/usr/bin/env bash
# cluster.sh up:     a cluster on this machine: an S3 server, 3 ingesters, 2 scrapers, 2 queriers, 1 compactor
# cluster.sh down:   ends it; its data stay, and the next `up` goes on with them
# cluster.sh status: what it is doing
#
# GNOMON: the binary. WEED: the S3 server (SeaweedFS). DATA: where all of it is kept. PORT: the first of 20 ports.
set -euo pipefail

here=$(cd "$(dirname "$0")/../.." && pwd)
gnomon=${GNOMON:-$here/target/release/gnomon}
weed=${WEED:-${XDG_CACHE_HOME:-$HOME/.cache}/gnomon/peers/seaweedfs/bin/weed}
data=${DATA:-$here/data-cluster}
first=${PORT:-19090}
bucket=gnomon

names=(querier-1 querier-2 ingester-1 ingester-2 ingester-3 scraper-1 scraper-2 compactor-1)
s3=$((first + 16))
grpc() { echo $((first + 8 + $1)); }
peers=127.0.0.1:$(grpc 2),127.0.0.1:$(grpc 3),127.0.0.1:$(grpc 4)

fail() {
  echo "cluster: $*" >&2
  exit 1
}

# A process of ours, by the id that was noted when it was started.
runs() {
  local noted=$data/$1/pid pid
  [ -f "$noted" ] || return 1
  read -r pid <"$noted"
  [ -n "$pid" ] && [ "$(readlink -f "/proc/$pid/exe" 2>/dev/null)" = "$(readlink -f "$2")" ]
}

start() {
  local name=$1 program=$2
  shift 2
  mkdir -p "$data/$name"
  runs "$name" "$program" && return
  nohup setsid "$program" "$@" >>"$data/$name/log" 2>&1 </dev/null &
  echo $! >"$data/$name/pid"
}

stop() {
  local name=$1 program=$2 pid
  runs "$name" "$program" || return 0
  read -r pid <"$data/$name/pid"
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 100); do
    runs "$name" "$program" || break
    sleep 0.1
  done
  ! runs "$name" "$program" || kill -9 "$pid" 2>/dev/null || true
  rm -f "$data/$name/pid"
}

# Status code of a URL; 000 where nobody listens.
code() { curl -s -o /dev/null -m 2 -w '%{http_code}' "$@" || true; }

start_s3() {
  start s3 "$weed" server -ip=127.0.0.1 -ip.bind=127.0.0.1 -dir="$data/s3" -filer -s3 -s3.port=$s3 \
    -s3.port.iceberg=0 -s3.port.lance=0 -master.port=$((first + 17)) -volume.port=$((first + 18)) \
    -filer.port=$((first + 19)) -master.telemetry=false -master.volumeSizeLimitMB=64 -volume.max=64
  for _ in $(seq 300); do
    case $(code -X PUT "http://127.0.0.1:$s3/$bucket") in
      200 | 409) return ;;
    esac
    runs s3 "$weed" || fail "the S3 server has ended: see $data/s3/log"
    sleep 0.2
  done
  fail "the S3 server does not answer: see $data/s3/log"
}

configuration() {
  local at targets=
  for at in "${!names[@]}"; do targets+="${targets:+, }'127.0.0.1:$((first + at))'"; done
  cat <<EOF
# Written by deploy/local/cluster.sh.
global:
  scrape_interval: 5s
scrape_configs:
  - job_name: gnomon
    static_configs:
      - targets: [$targets]
  # This host, if a node exporter runs on it.
  - job_name: node
    static_configs:
      - targets: ['127.0.0.1:9100']
EOF
}

up() {
  [ -x "$gnomon" ] || fail "$gnomon is missing: run \`make build\`"
  [ -x "$weed" ] || fail "$weed is missing: run \`make peers\`"
  command -v curl >/dev/null || fail "curl is missing: apt-get install curl"
  mkdir -p "$data"
  start_s3
  configuration >"$data/prometheus.yml"
  export AWS_ENDPOINT_URL=http://127.0.0.1:$s3 AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any
  local at name
  for at in "${!names[@]}"; do
    name=${names[$at]}
    start "$name" "$gnomon" --target="${name%-*}" --config.file="$data/prometheus.yml" \
      --storage.tsdb.path="$data/$name" --storage.object-store="s3://$bucket" \
      --web.listen-address=127.0.0.1:$((first + at)) --cluster.listen-address=127.0.0.1:"$(grpc "$at")" \
      --cluster.peers="$peers" --cluster.expect=3 \
      --web.enable-lifecycle --web.enable-admin-api --web.enable-remote-write-receiver
  done
  for at in "${!names[@]}"; do
    name=${names[$at]}
    for _ in $(seq 600); do
      [ "$(code "http://127.0.0.1:$((first + at))/-/ready")" = 200 ] && break
      runs "$name" "$gnomon" || fail "$name has ended: see $data/$name/log"
      sleep 0.2
    done
    [ "$(code "http://127.0.0.1:$((first + at))/-/ready")" = 200 ] || fail "$name is not ready: see $data/$name/log"
  done
  table
}

table() {
  printf '%-13s %-28s %s\n' PROCESS URL LOG
  local at
  for at in "${!names[@]}"; do
    printf '%-13s %-28s %s\n' "${names[$at]}" "http://127.0.0.1:$((first + at))" "$data/${names[$at]}/log"
  done
  printf '%-13s %-28s %s\n\n' s3 "http://127.0.0.1:$s3/$bucket" "$data/s3/log"
  status
}

status() { "$gnomon" cluster status --server="http://127.0.0.1:$first"; }

down() {
  local at
  # Who asks first, who is asked last.
  for at in 5 6 0 1 7 2 3 4; do stop "${names[$at]}" "$gnomon"; done
  stop s3 "$weed"
}

case ${1:-} in
  up | down | status) "$1" ;;
  *) fail "usage: $0 up|down|status" ;;
esac
