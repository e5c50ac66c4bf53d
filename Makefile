# Two commands for a newcomer: `make demo` and `make test`. Everything runs in .venv.

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(shell command -v $(name))))
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CITY ?= helsinki

# the instance of `make demo` is the one that `make ui` shows
export DAGSTER_HOME ?= $(CURDIR)/instance

.DEFAULT_GOAL := help
.PHONY: help install demo test check ui clean

help:  ## list the targets
	@echo "usage: make <target>"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-9s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "options: CITY=<a file of cities/>  PYTHON=<python 3.11 or 3.12>"

install: $(READY)  ## create .venv and install the pinned dependencies (pip only)

# torch first: its pin chooses the build for the CPU
# one start of Python afterwards: the wheel that carries LLVM finishes itself
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
		|| { echo "Python 3.11 or 3.12 is needed: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -c 'pass'
	@touch $@

demo: $(READY)  ## bring every stage of CITY up to date through Dagster, print the result
	$(BIN)/python -m pipelines.regenerate $(CITY)

test: $(READY)  ## run all tests
	$(BIN)/python -m pytest -n 2

check: $(READY)  ## lint, format, types, layers and the quick tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 -m "not slow"

ui: $(READY)  ## the Dagster UI of the same instance, on http://localhost:3000
	$(BIN)/dagster dev -w workspace.yaml

clean:  ## remove caches and build leftovers; keeps .venv, data/ and the instance
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
