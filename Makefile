# gnomon. `make run` and `make test` are the two commands; `make help` lists the rest.
SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)

# RocksDB: Debian 12's library (7.8) is linked where it is installed, since building the bundled one takes about
# 20 minutes on two cores. ROCKSDB_COMPILE=1 builds the bundled one; ROCKSDB_LIB_DIR names another compatible one.
MULTIARCH := $(shell gcc -print-multiarch 2>/dev/null)
ifeq ($(ROCKSDB_COMPILE),)
ifneq ($(wildcard /usr/lib/$(MULTIARCH)/librocksdb.so.7.*),)
export ROCKSDB_LIB_DIR ?= /usr/lib/$(MULTIARCH)
endif
endif
# libclang reads RocksDB's C header while building.
LIBCLANG := $(firstword $(wildcard /usr/lib/llvm-*/lib/libclang.so.1 /usr/lib/llvm-*/lib/libclang-*.so.1))
ifneq ($(LIBCLANG),)
export LIBCLANG_PATH ?= $(dir $(LIBCLANG))
endif

# Of `make run`: where it listens, where it keeps its data, which configuration it reads.
HTTP_ADDRESS ?= 127.0.0.1:9090
GRPC_ADDRESS ?= 127.0.0.1:9095
DATA_DIR ?= data
# The node scrapes itself: where it listens elsewhere, the quickstart file is written anew with its address.
OWN_QUICKSTART := $(DATA_DIR)/quickstart.yml
ifeq ($(HTTP_ADDRESS),127.0.0.1:9090)
CONFIG ?= deploy/quickstart/prometheus.yml
else
CONFIG ?= $(OWN_QUICKSTART)
endif
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)

.PHONY: help run cluster cluster-down build setup peers test test-run test-kill test-crash test-nemesis test-senders sim bench \
	bench-query bench-storage bench-cluster conformance fuzz \
	lint fix print-env

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/; s/\$$\$$/$$/' | expand -t 15

run: setup $(filter $(OWN_QUICKSTART),$(CONFIG)) ## build and start one node that scrapes itself and this host
	@for at in $(HTTP_ADDRESS) $(GRPC_ADDRESS); do \
	  ! (exec 3<>/dev/tcp/$${at%:*}/$${at##*:}) 2>/dev/null || { echo "run: somebody listens on $$at already: stop that," \
	    "or name others: make run HTTP_ADDRESS=127.0.0.1:9990 GRPC_ADDRESS=127.0.0.1:9995 DATA_DIR=data/other" >&2; \
	    exit 1; }; \
	done
	$(MAKE) --no-print-directory build
	exec target/release/gnomon --config.file=$(CONFIG) --storage.tsdb.path=$(DATA_DIR) \
	  --web.listen-address=$(HTTP_ADDRESS) --cluster.listen-address=$(GRPC_ADDRESS) --web.enable-lifecycle

.PHONY: $(OWN_QUICKSTART)
$(OWN_QUICKSTART):
	@mkdir -p $(DATA_DIR)
	@sed 's/localhost:9090/$(HTTP_ADDRESS)/' deploy/quickstart/prometheus.yml >$@

cluster: setup ## start a cluster on this machine: S3 server, 3 ingesters, 2 scrapers, 2 queriers, 1 compactor
	@deploy/setup.sh s3
	$(MAKE) --no-print-directory build
	@deploy/local/cluster.sh up

cluster-down: ## end it; its data stay in data-cluster
	@deploy/local/cluster.sh down

build: ## the release binary, target/release/gnomon
	GNOMON_REVISION=$$(git rev-parse --short=12 HEAD 2>/dev/null) \
	GNOMON_BRANCH=$$(git branch --show-current 2>/dev/null) \
	cargo build --release --locked --bin gnomon

setup: ## install what the build needs (Debian packages; asks for sudo unless root)
	@deploy/setup.sh build

peers: ## fetch the real servers that tests compare with (unpacked, not installed)
	@deploy/setup.sh peers victoria-metrics libfaketime

test: setup peers ## every test
	$(MAKE) --no-print-directory test-run

test-run:
ifeq ($(NEXTEST),yes)
	cargo nextest run --workspace --locked --no-fail-fast
	cargo test --workspace --locked --doc --quiet
else
	cargo test --workspace --locked --no-fail-fast
endif

test-kill: setup ## kill -9 at 100k series, power cuts, bad disks: many rounds (docs/resilience.md)
	$(MAKE) --no-print-directory build
	GNOMON_TEST_BINARY=$(CURDIR)/target/release/gnomon GNOMON_KILL_ROUNDS=20 GNOMON_KILL_SERIES=100000 \
	  GNOMON_KILL_ARGS= GNOMON_POWER_ROUNDS=50 GNOMON_DISK_ROUNDS=10 \
	  cargo test --locked --test one_node -- --nocapture --test-threads=1 kill:: disk::

test-crash: setup peers ## a fault at every operation of storage; kills while it compacts, deletes, copies; a bad network
	GNOMON_CRASH_STRIDE=1 cargo test --workspace --locked --test crash -- --nocapture --test-threads=1
	GNOMON_KILL_ROUNDS=60 cargo test --workspace --locked --test one_node -- --nocapture --test-threads=1 storage_kills:: s3:: azure:: gcs::

# How long the trouble lasts.
GNOMON_OVERLOAD_SECONDS ?= 600
test-senders: setup peers ## Prometheus, vmagent, the OpenTelemetry SDK and a gRPC client through an overload of 10 minutes
	GNOMON_OVERLOAD_SECONDS=$(GNOMON_OVERLOAD_SECONDS) \
	  cargo test --workspace --locked --test three_processes -- --nocapture --test-threads=1 senders::

GNOMON_NEMESIS_STEPS ?= 40
GNOMON_SEEDS ?= 1 2 3 4 5
test-nemesis: setup peers ## a cluster of real processes whose networks, disks, clocks and object store go wrong (root; docs/reliability.md)
	for seed in $(GNOMON_SEEDS); do \
	  GNOMON_NEMESIS_STEPS=$(GNOMON_NEMESIS_STEPS) GNOMON_SEED=$$seed \
	    cargo test --workspace --locked --test cluster -- --nocapture || exit 1; \
	done

SEEDS ?= 1000
FIRST ?= 1
sim: setup ## the cluster in simulation: SEEDS (1000) seeds from FIRST on; or SEED alone, with all that happens
	GNOMON_SIM_SEEDS=$(SEEDS) GNOMON_SIM_FIRST=$(FIRST) GNOMON_SIM_SEED=$(SEED) \
	  cargo test --workspace --locked --test sim -- --nocapture --ignored --exact many_seeds

bench: setup ## gnomon beside Prometheus and VictoriaMetrics under the same load
	@deploy/setup.sh peers victoria-metrics
	cargo bench --locked --bench ingest

bench-query: setup ## dashboards' and alerts' queries beside Prometheus and VictoriaMetrics over the same data
	@deploy/setup.sh peers victoria-metrics
	cargo bench --locked --bench query

bench-storage: setup ## what a sample and a series take on disk, beside Prometheus and VictoriaMetrics
	@deploy/setup.sh peers victoria-metrics
	cargo bench --locked --bench storage

bench-cluster: setup ## fail-over, what replicas cost, coefficients of docs/capacity.md (root: network namespaces)
	cargo bench --locked --bench cluster

# Of `make conformance`: how many random queries, and which (a new seed each time, printed).
GNOMON_DIFFERENTIAL ?= 20000
GNOMON_SEED ?= $(shell date +%s)
conformance: setup peers ## PromQL and the HTTP API beside Prometheus: scripts, random queries, expressions, requests
	GNOMON_DIFFERENTIAL=$(GNOMON_DIFFERENTIAL) GNOMON_SEED=$(GNOMON_SEED) \
	  cargo test --workspace --locked --test conformance -- --nocapture --test-threads=1
	cargo test --workspace --locked --test one_node -- --nocapture --test-threads=1 api::

FUZZ_SECONDS ?= 180
fuzz: setup ## each fuzz target for FUZZ_SECONDS (180); see docs/fuzzing.md
	@fuzz/run.sh $(FUZZ_SECONDS)

lint: ## formatting, clippy with warnings denied, lock files (checks only)
	cargo fmt --all --check
	cargo metadata --locked --manifest-path fuzz/Cargo.toml --format-version 1 >/dev/null
	cargo clippy --workspace --all-targets --locked -- -D warnings

fix: ## what lint complains of and a machine can mend
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged -- -D warnings

print-env: ## the build's environment, for a shell: eval $$(make -s print-env)
	@echo "export$(if $(ROCKSDB_LIB_DIR), ROCKSDB_LIB_DIR=$(ROCKSDB_LIB_DIR))$(if $(LIBCLANG_PATH), LIBCLANG_PATH=$(LIBCLANG_PATH))"
