# gnomon: `make run` and `make test` are the two commands; the rest is for those who work on it.
SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)

# The RocksDB that is linked: Debian's (7.8, seconds to link) where it is installed, else the one bundled
# with the crate. Set ROCKSDB_LIB_DIR yourself to use another; ROCKSDB_COMPILE=1 forces the bundled one
# (about 20 minutes of compiling on two cores).
MULTIARCH := $(shell gcc -print-multiarch 2>/dev/null)
SYSTEM_ROCKSDB := $(wildcard /usr/lib/$(MULTIARCH)/librocksdb.so)
ifneq ($(SYSTEM_ROCKSDB),)
ifeq ($(ROCKSDB_COMPILE),)
export ROCKSDB_LIB_DIR ?= /usr/lib/$(MULTIARCH)
endif
endif
LLVM_LIB := $(lastword $(sort $(wildcard /usr/lib/llvm-*/lib/libclang.so* /usr/lib/llvm-*/lib/libclang-*.so*)))
ifneq ($(LLVM_LIB),)
export LIBCLANG_PATH ?= $(dir $(LLVM_LIB))
endif

print-env:
	@echo "export ROCKSDB_LIB_DIR=$(ROCKSDB_LIB_DIR) LIBCLANG_PATH=$(LIBCLANG_PATH)"
