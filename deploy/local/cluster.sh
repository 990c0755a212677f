#!/usr/bin/env bash
# cluster.sh up:     a cluster on this machine: an S3 server, 3 ingesters, 2 scrapers, 2 queriers, 1 compactor; returns once
#                    any of them may be killed
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
  local name=$1 program=$2 signal=${3:-TERM} pid
  runs "$name" "$program" || return 0
  read -r pid <"$data/$name/pid"
  kill -s "$signal" "$pid" 2>/dev/null || true
  for _ in $(seq 100); do
    runs "$name" "$program" || break
    sleep 0.1
  done
  if runs "$name" "$program"; then
    echo "cluster: $name has not ended within 10 s: it is killed" >&2
    kill -s KILL "$pid" 2>/dev/null || true
  fi
  rm -f "$data/$name/pid"
}

# Status code of a URL; 000 where nobody listens.
code() { curl -s -o /dev/null -m 2 -w '%{http_code}' "$@" || true; }

# An election of the only master takes as long as its timeout, 10 s unless told otherwise, at every start but the first.
start_s3() {
  start s3 "$weed" server -ip=127.0.0.1 -ip.bind=127.0.0.1 -dir="$data/s3" -filer -s3 -s3.port=$s3 \
    -s3.port.iceberg=0 -s3.port.lance=0 -master.port=$((first + 17)) -volume.port=$((first + 18)) \
    -filer.port=$((first + 19)) -master.telemetry=false -master.electionTimeout=1s -master.heartbeatInterval=100ms \
    -master.volumeSizeLimitMB=64 -volume.max=64
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
  [ -x "$weed" ] || fail "$weed is missing: run \`deploy/setup.sh s3\`"
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
  echo "cluster: all answer; waiting until the metadata group and every shard have three voters" >&2
  local whole=
  for _ in $(seq 120); do
    is_whole && whole=yes && break
    sleep 0.5
  done
  table
  [ -n "$whole" ] || fail "after 60 s the metadata group or a shard still has no leader, or not the three voters it is to" \
    "have (above): until then, whoever is killed may take all of it away"
}

# Whether any one ingester may go: the metadata group and all shards have a leader, and three voters where they are to be.
is_whole() {
  local said voters
  said=$(status --json 2>/dev/null | tr -d '[:space:]') || return
  [[ $said != *'"leader":null'* && $said != *'"settled":false'* ]] || return
  mapfile -t voters < <(grep -o '"voters":\[[^]]*\]' <<<"$said")
  # The metadata group and at least one shard.
  [ ${#voters[@]} -ge 2 ] || return
  ! printf '%s\n' "${voters[@]}" | grep -qvE '\[[0-9]+,[0-9]+,[0-9]+\]$'
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

status() { "$gnomon" cluster status --server="http://127.0.0.1:$first" "$@"; }

down() {
  local at
  # Who asks first, who is asked last.
  for at in 5 6 0 1 7 2 3 4; do stop "${names[$at]}" "$gnomon"; done
  # Asked to end, it waits 15 s for streams between parts of itself and 10 s more for other masters to hear of it. Nobody
  # writes any more, and what it has acknowledged is in its files.
  stop s3 "$weed" KILL
}

case ${1:-} in
  up | down | status) "$1" ;;
  *) fail "usage: $0 up|down|status" ;;
esac
