# kmatrix's own makefile. `make matrix` and `make test` do all the set-up they need.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SUDO   := $(if $(filter 0,$(shell id -u)),,sudo)

# Debian's packages: what running guests, building images and compiling collectors takes. `kmatrix doctor` knows them too.
PACKAGES := qemu-system-x86 qemu-system-arm mmdebstrap e2fsprogs gpgv debian-archive-keyring kmod clang libbpf-dev python3-venv
# The programs that tell whether they are there: a host that has all of them is not asked for root.
PROGRAMS := qemu-system-x86_64 qemu-system-aarch64 mmdebstrap mke2fs gpgv depmod clang

# What the example agent (examples/go-agent) is built with: only the tests need it.
GO_PACKAGES := golang-go golang-github-cilium-ebpf-dev

# What the tests take besides: they build a kernel, and publish others as a registry, distributions and kernel.org do (each starts its own; a service
# of a package is not used), have sshds for workers, and click through the HTML report.
TEST_PACKAGES := git gcc make flex bison bc libelf-dev pahole perl ccache docker-registry rpm createrepo-c gnupg chromium shellcheck openssh-server openssh-client iproute2
TEST_PROGRAMS := git gcc make flex bison bc pahole perl ccache docker-registry rpmbuild createrepo_c gpg chromium shellcheck sshd ssh ip

.PHONY: setup matrix test test-fast test-build check docs bench fidelity predict-score overhead collectors examples clean help
.DEFAULT_GOAL := help

help:  ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(VENV)/.done  ## host packages (once, as root), and kmatrix in .venv/

$(VENV)/.done: pyproject.toml | packages
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

.PHONY: packages
packages:
	@export PATH="$$PATH:/usr/sbin:/sbin"; missing=; \
	for program in $(PROGRAMS); do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	test -e /usr/include/bpf/bpf_helpers.h || missing="$$missing bpf_helpers.h"; \
	test -e /usr/share/keyrings/debian-archive-keyring.gpg || missing="$$missing debian-archive-keyring"; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	test -z "$$missing" || { echo "installing what is missing:$$missing"; \
		$(SUDO) apt-get update -qq && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PACKAGES); }

matrix: setup collectors  ## every collector on every kernel x arch that can be had; the table
	@$(BIN)/kmatrix prepare
	@$(BIN)/pytest -q -n auto $(ARGS)

.PHONY: test-packages
test-packages: setup
	@export PATH="$$PATH:/usr/sbin:/sbin"; missing=; for program in $(TEST_PROGRAMS); do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	test -z "$$missing" || { echo "installing what the tests need:$$missing"; \
		$(SUDO) apt-get update -qq && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(TEST_PACKAGES); }
	@$(BIN)/python -c 'import playwright' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,browser]'

test: setup collectors examples test-packages  ## kmatrix's own tests, on real booted guests
	@$(BIN)/pytest tests -n auto --durations=10 $(ARGS)

test-fast: setup  ## the tests of pure logic: no VM is booted
	@$(BIN)/pytest tests/unit tests/sim/test_past.py tests/sim/test_simulated_matrix.py tests/guest/test_loader.py tests/guest/test_events.py -q -n auto $(ARGS)

test-build: setup test-packages  ## and those that build a kernel from Debian's source: some minutes (KMATRIX_BUILD=arm64 for the other arch)
	@KMATRIX_BUILD=$${KMATRIX_BUILD:-x86_64} $(BIN)/pytest -s tests/kernels/test_linux_source.py $(ARGS)

check: setup  ## types, style, and the order of imports
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check

docs: setup  ## the documentation as a site, in build/docs; a broken link is an error
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup collectors  ## how long cells and boots take, beside virtme-ng; ARGS=--write puts the tables into docs/performance.md
	@$(BIN)/python -m bench $(ARGS)

fidelity: setup  ## how far simulated kernels answer as the real 4.14 and 5.4 do (which must be in the store)
	@$(BIN)/python -m bench.fidelity $(ARGS)

predict-score: setup collectors  ## what `kmatrix predict` foresees, against booted kernels; ARGS=DIR… adds objects
	@$(BIN)/python -m bench.predict_score collectors $(ARGS)

overhead: setup collectors  ## what CO-RE and the compatibility macros cost at run time; rewrites the tables of docs/overhead.md
	@$(BIN)/python -m bench.overhead $(ARGS)

collectors: | packages  ## compile the reference collectors for both arches
	@$(MAKE) --no-print-directory -C collectors

# Without Go and the right to install it, the tests that need it say so and are skipped.
GO_IS_HERE := command -v go >/dev/null && test -d /usr/share/gocode/src/github.com/cilium/ebpf
examples: | packages  ## build the Go agent that brings its own loader
	@$(GO_IS_HERE) || { echo "installing $(GO_PACKAGES)"; $(SUDO) apt-get update -qq && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(GO_PACKAGES) >/dev/null; } || true
	@! ($(GO_IS_HERE)) || $(MAKE) --no-print-directory -C examples/go-agent

clean:  ## what was built and recorded here (the cache of kernels and images stays: `kmatrix kernels remove`)
	rm -rf $(VENV) .kmatrix build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	@$(MAKE) --no-print-directory -C collectors clean
	@$(MAKE) --no-print-directory -C examples/go-agent clean
