# Two sets of binaries (see CONTRIBUTING.md): runtime, shim and spec-tests are static, aborting and small; kelsond and kelson
# are dynamic and unwinding. Everything that is built lands in target/kelson/bin.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

CARGO ?= cargo
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
OUT := $(CARGO_TARGET_DIR)/kelson
BIN := $(OUT)/bin
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
PREFIX ?= /usr/local

STATIC_PACKAGES := kelson-runtime kelson-shim kelson-logger kelson-spec-tests kelson-floor
STATIC_DIR := $(CARGO_TARGET_DIR)/$(HOST)/static
RELEASE_DIR := $(CARGO_TARGET_DIR)/release
PROGRAMS := kelson kelsond kelson-shim containerd-shim-kelson-v2 kelson-logger kelson-runtime kelson-spec-tests kelson-floor

BUILD_PACKAGES := gcc libc6-dev libseccomp-dev
RUN_PACKAGES := iproute2 nftables
CONFORMANCE_PACKAGES := bats busybox-static dpkg-dev gawk iproute2 jq python3
TEST_PACKAGES := btrfs-progs busybox-static ca-certificates containerd crun curl docker-compose docker-registry docker.io fuse-overlayfs iptables mmdebstrap \
  netavark podman runc skopeo xfsprogs

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: build
build: build-packages static dynamic ## build release binaries into target/kelson/bin
	@install -d $(BIN)
	@for program in kelson kelsond; do install -m 755 $(RELEASE_DIR)/$$program $(BIN)/; done
	@for program in $(STATIC_PACKAGES); do install -m 755 $(STATIC_DIR)/$$program $(BIN)/; done
	@ln -f $(BIN)/kelson-shim $(BIN)/containerd-shim-kelson-v2
	@ls -l $(BIN)

# A static glibc can't load name services: a call that needs them links with a warning and fails on the user's machine. Only
# ld.bfd gives that warning, and rustc hides what a linker says unless asked. Cargo repeats it when nothing is built anew.
STATIC_FLAGS := -C target-feature=+crt-static -C link-arg=-fuse-ld=bfd -C link-arg=-Wl,-z,pack-relative-relocs -W linker-messages

.PHONY: static
static:
	@install -d $(OUT)
	LIBSECCOMP_LINK_TYPE=static LIBSECCOMP_LIB_PATH="$$(dirname "$$(gcc -print-file-name=libseccomp.a)")" \
	  RUSTFLAGS="$(STATIC_FLAGS)" $(CARGO) build --locked --profile static --target $(HOST) \
	  $(STATIC_PACKAGES:%=--package %) 2>&1 | tee $(OUT)/static.log
	@if grep -n 'statically linked applications' $(OUT)/static.log; then echo 'a static program needs a shared library at run time' >&2; exit 1; fi

.PHONY: dynamic
dynamic:
	$(CARGO) build --locked --release --package kelson-engine --bin kelsond --package kelson-cli --bin kelson

.PHONY: run
run: need-root run-packages build ## start kelsond, run the embedded web server, fetch its page, clean up (needs root)
	@KELSON_BIN_DIR=$(BIN) engine/tests/first-light.sh

.PHONY: test
test: need-root test-packages build ## build and run every test (needs root)
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	KELSON_BIN_DIR=$(BIN) $(CARGO) test --locked --workspace --doc
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	  KELSON_BIN_DIR=$(BIN) $(CARGO) nextest run --locked --workspace $(TESTS); \
	else \
	  KELSON_BIN_DIR=$(BIN) $(CARGO) test --locked --workspace --all-targets --no-fail-fast $(TESTS); \
	fi

# CI machines have no such program: there the tests that need cgroup v2 or systemd say so and are skipped.
.PHONY: test-conformance
test-conformance: need-root conformance-packages build ## run the bats suite of Debian's runc source package against the runtime (needs root)
	@runtime/tests/conformance/run $(BIN)/kelson-runtime $(OUT)/conformance

.PHONY: test-vm
test-vm: build-packages ## run the runtime's tests under cgroup v2 and systemd: VM=COMMAND, VM_ARGS, TESTS=NAME (see CONTRIBUTING.md)
	@test -n "$(VM)" || { echo 'VM names a program that runs a command in a guest (see CONTRIBUTING.md)' >&2; exit 1; }
	@TESTS="$(TESTS)" runtime/tests/vm.sh $(VM) $(VM_ARGS)

.PHONY: bench
bench: need-root test-packages build ## time our programs against runc, crun, podman and docker (needs root)
	@$(BIN)/kelson-spec-tests bench --runtime $(BIN)/kelson-runtime --runtime "$$(command -v runc)" \
	  --runtime "$$(command -v crun)" --floor $(BIN)/kelson-floor --crowd 1000 \
	  --json $(OUT)/bench-runtime.json --svg $(OUT)/bench-runtime.svg
	@$(BIN)/kelson-spec-tests bench logs --kelson $(BIN) --json $(OUT)/bench-logs.json
	@$(BIN)/kelson-spec-tests bench images --kelson $(BIN) --json $(OUT)/bench-images.json
	@$(BIN)/kelson-spec-tests bench clients --kelson $(BIN) --json $(OUT)/bench-clients.json --svg $(OUT)/bench-clients.svg

.PHONY: soak
soak: need-root test-packages ## the long forms of tests that CI samples (needs root)
	KELSON_CRASH_ROUNDS=200 $(CARGO) test --locked -p kelson-images --test crash -- --nocapture
	KELSON_BIN_DIR=$(BIN) KELSON_KILL_ROUNDS=200 $(CARGO) test --locked -p kelson-engine --test stories killing -- --nocapture

.PHONY: install
install: build ## install the programs into PREFIX/bin, unit files and completions beside them
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(PROGRAMS:%=$(BIN)/%) $(DESTDIR)$(PREFIX)/bin/
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|@BINDIR@|$(PREFIX)/bin|' engine/systemd/kelson.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/kelson.service
	install -m 644 engine/systemd/kelson.socket $(DESTDIR)$(PREFIX)/lib/systemd/system/
	install -D -m 644 engine/cli/completions/kelson.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/kelson
	install -D -m 644 engine/cli/completions/kelson.zsh $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_kelson
	install -D -m 644 engine/cli/completions/kelson.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/kelson.fish

.PHONY: clean
clean: ## remove everything that was built
	rm -rf $(CARGO_TARGET_DIR)

.PHONY: need-root build-packages run-packages test-packages conformance-packages
need-root:
	@if [ "$$(id -u)" != 0 ]; then echo 'this needs root: it makes namespaces, cgroups and networks' >&2; exit 1; fi
build-packages:
	@.ci/packages $(BUILD_PACKAGES)
run-packages:
	@.ci/packages $(BUILD_PACKAGES) $(RUN_PACKAGES)
conformance-packages:
	@.ci/packages $(BUILD_PACKAGES) $(CONFORMANCE_PACKAGES)
test-packages:
	@.ci/packages $(BUILD_PACKAGES) $(RUN_PACKAGES) $(TEST_PACKAGES)
