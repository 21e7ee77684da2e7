# Everything here works from a fresh clone on Debian 12 and 13: what a target needs is set up first.

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# BCC comes with the distribution's Python, so the virtual environment is made from that one.
SYSTEM_PYTHON := /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
LOCKED := $(VENV)/.locked
INSTALLED := $(VENV)/.installed
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)

# sudo clears the environment. What root runs leaves no file of root's in the checkout.
AS_ROOT = env CI="$(CI)" PATH="$(CURDIR)/$(BIN):$$PATH" $(if $(SUDO),PYTHONDONTWRITEBYTECODE=1)

APT_PACKAGES := clang-format curl iproute2 libc6-dev linux-libc-dev nghttp2-client procps \
	python3-bpfcc python3-venv tcpdump util-linux

# make test TESTS="tests/unit -k policy", make demo DEMO=--keep
TESTS :=
BENCH :=
BENCH_PACKAGES := iperf3 iproute2 iptables nftables nghttp2-client nghttp2-server
FUZZ_SECONDS := 600
FUZZ_SEED :=
DEMO :=

help: ## show this list
	@echo "Sluice: layers 3 and 4 in the kernel, an Envoy per tenant for HTTP and TLS"
	@echo
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: set-up ## build two tenants in network namespaces and show what happens to their traffic
	@$(SUDO) $(AS_ROOT) $(BIN)/sluice demo $(DEMO)

test: set-up ## run all tests; TESTS= adds arguments for pytest
	@$(if $(SUDO),echo "running the tests as root (sudo)")
	@$(SUDO) $(AS_ROOT) $(BIN)/python -m pytest $(if $(SUDO),-p no:cacheprovider) $(TESTS)

bench: set-up ## measure, results in build/bench; BENCH=NAME does one (policy, datapath)
	@$(MAKE) -s apt APT_PACKAGES="$(BENCH_PACKAGES)"
	@$(SUDO) $(AS_ROOT) $(BIN)/python -m tests.bench.run $(BENCH)

fuzz: set-up ## draw clusters and packets for FUZZ_SECONDS each; seeds are printed
	@$(SUDO) $(AS_ROOT) FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_SEED=$(FUZZ_SEED) \
		$(BIN)/python -m pytest -s $(if $(SUDO),-p no:cacheprovider) \
		tests/prog/test_policy_oracle.py tests/prog/test_fuzz.py -k "oracle_says or from_a_workload"

lint: set-up ## check style, types, layers and formatting
	@echo "ruff";          $(BIN)/ruff check --quiet --output-format concise . \
		&& $(BIN)/ruff format --check --quiet .
	@echo "mypy --strict"; $(BIN)/mypy --no-error-summary
	@echo "import-linter"; $(BIN)/lint-imports --no-logo > build/imports.log \
		|| { cat build/imports.log; exit 1; }
	@echo "clang-format";  find bpf -name '*.[ch]' -exec clang-format --dry-run -Werror {} +
	@echo "documents";     ! grep -nP '\t| +$$' README.md CHANGELOG.md CONTRIBUTING.md \
		$$(find docs -name '*.md')

format: set-up ## put Python and C into the project's format
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .
	@find bpf -name '*.[ch]' -exec clang-format -i {} +

lock: set-up ## resolve requirements.lock anew from pyproject.toml
	@echo "resolving requirements.lock"
	@$(SYSTEM_PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet uv
	@build/lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
		--extra dev --generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" pyproject.toml --output-file requirements.lock

CLEANED := $(VENV) build dist sluice.egg-info .hypothesis .import_linter_cache .mypy_cache \
	.pytest_cache .ruff_cache

clean: ## remove what was built and the virtual environment
	@rm -rf $(CLEANED) 2>/dev/null || $(SUDO) rm -rf $(CLEANED)
	@find l7proxy pyagent tests -name __pycache__ -prune -exec rm -rf {} +

# --- set-up: does nothing when nothing changed ---

set-up: apt
	@$(MAKE) -s $(INSTALLED)

# Asking dpkg takes milliseconds, so no stamp can be out of date.
apt:
	@mkdir -p build
	@if [ -n "$(APT_PACKAGES)" ] && ! command -v apt-get >/dev/null; then \
		echo "set-up needs Debian 12 or 13 (no apt-get here): install BCC for Python and the" \
			"tools by hand, then add APT_PACKAGES= to the command" >&2; exit 1; fi
	@have=" $$(dpkg-query -W -f '$${db:Status-Status}:$${Package} ' $(APT_PACKAGES) 2>/dev/null)"; \
	missing=; for package in $(APT_PACKAGES); do \
		case "$$have" in *" installed:$$package "*) ;; *) missing+=" $$package" ;; esac; done; \
	if [ -n "$$missing" ]; then \
		echo "installing Debian packages:$$missing"; \
		$(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 $$missing \
			>build/apt.log 2>&1 || { tail -5 build/apt.log >&2; exit 1; }; \
	fi

# The stamp names folder and interpreter: a moved checkout or an upgraded Python starts anew.
SET_UP_FOR := $(CURDIR) $(notdir $(realpath $(SYSTEM_PYTHON)))
ifneq ($(file <$(LOCKED)),$(SET_UP_FOR))
.PHONY: $(LOCKED)
endif

# --ignore-installed: no package of the distribution may stand in for a locked one. (Hence also the
# removal of the setuptools that Python 3.11 puts into each environment.)
$(LOCKED): requirements.lock
	@echo "making the virtual environment $(VENV) from $(SYSTEM_PYTHON)"
	@$(SYSTEM_PYTHON) -m venv --clear --system-site-packages $(VENV)
	@echo "installing the locked Python packages"
	@$(BIN)/pip uninstall -qqq --yes setuptools
	@$(BIN)/pip install -qq --disable-pip-version-check --ignore-installed --no-deps \
		--require-hashes --requirement requirements.lock
	@echo "$(SET_UP_FOR)" > $@

$(INSTALLED): $(LOCKED) pyproject.toml
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation \
		--editable .
	@touch $@

.PHONY: help demo test bench fuzz lint format lock clean set-up apt
