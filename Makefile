# `make test` and `make demo` work on a fresh clone: they need Python 3.11+ with its headers and venv, a C compiler and git.
# Everything is installed into .venv; an environment that happens to be active is neither used nor changed.

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
BIN := .venv/bin
PACKAGES := engine plugins pluginmachinery _speedups
INSTALLED := .venv/.installed
LINKS := $(PACKAGES:%=build/links/propfan/%)

# The compiled modules with sanitizers, in a package tree of their own; the tests that reach them.
ASAN := build/asan
SANITIZED = PYTHONPATH=$(ASAN) PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so)"
ASAN_TESTS := tests/unit/_speedups tests/unit/pluginmachinery tests/golden tests/fuzz

# What is built or installed. A change of these installs again.
SOURCES := pyproject.toml setup.py $(wildcard _speedups/*.py _speedups/*.pyx _speedups/*.pxd)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test operators dev lint types imports bench asan fuzz cluster wheel clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(INSTALLED) ## Run a pipeline of the Flyte SDK on a control plane on this machine
	$(BIN)/python -m examples.demo

test: $(INSTALLED) ## Run all tests; those that miss a tool say so and are skipped
	$(BIN)/python -m pytest $(ARGS)

dev: $(INSTALLED) $(LINKS) ## Install everything needed for development into .venv

lint: $(INSTALLED) types imports ## Check style, format, types and import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED) $(LINKS)
	$(BIN)/mypy $(PACKAGES:%=-p propfan.%) -p tests -p benchmarks -p examples
	$(BIN)/stubtest --mypy-config-file pyproject.toml $(patsubst _speedups/%.pyi,propfan._speedups.%,$(wildcard _speedups/*.pyi))

imports: $(INSTALLED) $(LINKS)
	PYTHONPATH=build/links $(BIN)/lint-imports --no-logo

bench: $(INSTALLED) ## Run every benchmark suite briefly (ARGS="NAME" runs one in full)
	$(BIN)/python -m benchmarks $(or $(ARGS),all --quick)

asan: $(INSTALLED) ## Test the compiled modules with AddressSanitizer and UBSan (needs gcc)
	PROPFAN_SANITIZE=address,undefined $(BIN)/python setup.py --quiet build_ext --build-lib $(ASAN) --build-temp $(ASAN)/temp
	ln -sfn $(addprefix $(CURDIR)/,$(filter-out _speedups,$(PACKAGES))) $(ASAN)/propfan/
	ln -sfn $(addprefix $(CURDIR)/,$(wildcard $(addprefix _speedups/*.,py pyi pyx pxd))) $(ASAN)/propfan/_speedups/
	env $(SANITIZED) $(BIN)/python -c 'from propfan import _speedups as s; print("from", s.__path__[0], s.backends()); \
		assert "$(ASAN)" in s.__path__[0] and set(s.backends().values()) == {"compiled"}'
	env $(SANITIZED) $(BIN)/python -m pytest -p no:cacheprovider $(or $(ARGS),$(ASAN_TESTS))

fuzz: $(INSTALLED) ## Feed every decoder of foreign bytes for a minute (ARGS="NAME --seconds N" runs one)
	$(BIN)/python -m tests.fuzz $(or $(ARGS),all --seconds 60)

cluster: $(INSTALLED) ## Run a Kubernetes cluster of real parts, until Ctrl-C (needs Go; ARGS="--help")
	$(BIN)/python -m tests.cluster up $(ARGS)

operators: $(INSTALLED) ## Test the plugins with the real operators, half an hour; builds them the first time (needs Go, Java)
	PROPFAN_OPERATORS=1 $(BIN)/python -m pytest $(or $(ARGS),tests/cluster)

wheel: $(INSTALLED) ## Build a wheel with the compiled modules into dist/
	rm -rf build/lib* build/bdist*
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## Remove what was built and installed; nothing that is kept in git
	rm -rf .venv build dist *.egg-info _speedups/*.so _speedups/*.c .benchmarks .hypothesis .import_linter_cache \
		.mypy_cache .pytest_cache .ruff_cache
	find $(PACKAGES) tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): $(SOURCES)
	@test -n '$(PYTHON)' || { echo 'No Python 3.11 or newer found: install one, or name it: make PYTHON=/path/to/python' >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) can make no virtual environment. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@test '$(PROPFAN_PURE)' = 1 || \
		'$(PYTHON)' -c 'import os, sysconfig; open(os.path.join(sysconfig.get_path("include"), "Python.h")).close()' 2>/dev/null || \
		{ echo "$(PYTHON) has no headers to compile with. On Debian and Ubuntu: apt install python3-dev gcc" >&2; exit 1; }
	test -x $(BIN)/python || '$(PYTHON)' -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# The folders as `propfan.*`, for tools that read files instead of importing them (mypy, import-linter).
build/links/propfan/%:
	@mkdir -p $(@D)
	@ln -sfn ../../../$* $@
