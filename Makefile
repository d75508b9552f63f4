# `make` alone prints the commands. The work is done by Python: this file says in which order.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

BUILD := build
VENV := $(BUILD)/venv
PYTHON := $(VENV)/bin/python
# What the host must have beside make and git. mkosi and its tools come with the build.
HOST_PACKAGES := python3 curl python3-venv qemu-system-x86 ovmf uidmap zstd debian-archive-keyring dnsmasq-base iproute2 fdisk swtpm \
  $(shell . /etc/os-release 2>/dev/null; [ "$$ID" = debian ] || echo debootstrap)
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PROTOS := $(shell find proto/aurae -name '*.proto' | sort)

.PHONY: help
help: ## Print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

.PHONY: setup
setup: ## Install what this host lacks, by apt-get (Debian 12 or 13, Ubuntu LTS)
	@command -v apt-get > /dev/null || { echo "setup: this host has no apt-get: see to it that it has $(HOST_PACKAGES)"; exit 0; }; \
	have=$$(dpkg-query --show --showformat '$${binary:Package} $${db:Status-Abbrev}\n' $(HOST_PACKAGES) 2>/dev/null | sed -n 's/\(:[a-z0-9]*\)\? ii *$$//p' || true); \
	missing=$$(comm -23 <(printf '%s\n' $(HOST_PACKAGES) | sort) <(printf '%s\n' $$have | sort)); \
	[ -z "$$missing" ] || { echo "==> installing" $$missing; $(SUDO) apt-get -qq update; $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends $$missing; }

# The environment is made again when its lock changes.
$(VENV)/.locked: requirements/dev.txt | setup
	@echo "==> Python environment ($(VENV))"
	@rm -rf $(VENV)
	@python3 -m venv $(VENV)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements/dev.txt
	@touch $@

proto/gen/.ready: $(PROTOS) $(VENV)/.locked
	@echo "==> stubs (proto/gen)"
	@rm -rf proto/gen && mkdir -p proto/gen
	@PATH="$(VENV)/bin:$$PATH" $(PYTHON) -m grpc_tools.protoc -I proto --python_out=proto/gen --grpc_python_out=proto/gen \
	  --mypy_out=quiet:proto/gen --mypy_grpc_out=quiet:proto/gen $(PROTOS)
	@$(PYTHON) -m grpc_tools.protoc -I proto --include_imports --descriptor_set_out=proto/gen/all.pb $(PROTOS)
	@touch $@

$(VENV)/.ready: $(VENV)/.locked proto/gen/.ready pyproject.toml
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index --editable .
	@touch $@

.PHONY: env
env: $(VENV)/.ready

.PHONY: proto
proto: env ## Generate the stubs from proto/ into proto/gen/

.PHONY: check
check: env ## Lint, format, types and import arrows
	@echo "==> ruff" && $(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	@echo "==> mypy" && $(VENV)/bin/mypy
	@echo "==> import-linter" && $(VENV)/bin/lint-imports

.PHONY: test-unit
test-unit: env ## Unit tests: no root, no network
	@echo "==> unit tests" && $(PYTHON) -m pytest tests/unit

.PHONY: lock
lock: env ## Renew the locked versions in requirements/
	@$(VENV)/bin/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
	  pyproject.toml --all-extras --group dev -o requirements/dev.txt
	@$(VENV)/bin/uv pip compile --quiet --upgrade --generate-hashes --no-header --no-annotate --python-version 3.13 \
	  --python-platform x86_64-manylinux_2_39 pyproject.toml --extra client -c requirements/dev.txt -o requirements/image.txt
	@$(PYTHON) -m image.lock

# Debian's packages are kept in AURAE_CACHE (~/.cache/aurae); FRESH=1 asks for today's, LOCKED=1
# ends where they are not those of requirements/debian.txt. VERSION= stands for the commit's own.
.PHONY: image
image: env ## Build the image into build/ (PROFILE=cloud, debug; FRESH=1: with today's Debian packages)
	@$(PYTHON) -m image.build $(if $(FRESH),--fresh) $(if $(PROFILE),--profile $(PROFILE))

# Needs a network, and ten minutes; see docs/decisions/0106-provenance.md.
.PHONY: reproduce
reproduce: env ## Build twice from nothing and compare every artifact
	@$(PYTHON) -m image.reproduce $(ARGS)

.PHONY: pxe
pxe: env ## Build what a network boots into build/pxe/ (aer netboot serve offers it)
	@$(MAKE) image
	@$(PYTHON) -m image.pxe

.PHONY: boot
boot: env ## Boot with the working tree's Python (BACKGROUND=1: return when the API answers)
	@[ -e $(BUILD)/initramfs ] || $(MAKE) image
	@$(PYTHON) -m image.node boot $(if $(BACKGROUND),--background)

.PHONY: poweroff
poweroff: env ## Power off the machine of make boot BACKGROUND=1
	@$(PYTHON) -m image.node poweroff

.PHONY: run
run: env ## Everything from a fresh clone to a first cell on a booted machine
	@$(MAKE) image
	@$(PYTHON) -m image.node run

# The image of the working tree, so that what is tested is what a node would run.
.PHONY: test-vm
test-vm: env ## Tests against the booted image, by emulation if need be (ARGS= for pytest)
	@$(MAKE) image
	@echo "==> tests against the booted image" && $(PYTHON) -m pytest tests/integration $(ARGS)

.PHONY: soak
soak: env ## The same tests, with the large counts
	@for profile in default cloud debug; do $(MAKE) image PROFILE=$$profile; done
	@echo "==> malformed certificates, rotations" && AURAE_SOAK=1 $(PYTHON) -m pytest tests/unit/identity/test_malformed.py tests/unit/trust/test_rotation.py
	@echo "==> the same with large counts" && AURAE_SOAK=1 $(PYTHON) -m pytest tests/integration $(ARGS)

.PHONY: test
test: ## All of it: check, unit tests, image, tests against the booted image
	@$(MAKE) check
	@$(MAKE) test-unit
	@$(MAKE) test-vm
	@echo "==> make test: all passed"

.PHONY: bench
bench: env ## Measure, print a table, write build/bench.json (ARGS= for more)
	@$(MAKE) image
	@echo "==> measurements" && $(PYTHON) -m bench $(ARGS)

.PHONY: clean
clean: ## Remove build/ and the generated stubs; the cache of Debian's packages stays
	@rm -rf $(BUILD) proto/gen
