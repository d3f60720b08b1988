# Every target sets up what it needs: on a fresh machine with Python >= 3.11, `make demo` or `make test` is enough.
VENV ?= .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
EXTRAS := $(VENV)/.installed-extras
ORACLES := .oracles
RUN ?= demo
# Two copies of a test process share the cores; one thread each is faster than four fighting.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

.DEFAULT_GOAL := help
.PHONY: help setup doctor demo test test-slow parity faults lint type benchmark clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(STAMP) ## create .venv and install requirements.txt (about 30 s with a warm cache)

$(STAMP): requirements.txt pyproject.toml
	@sh scripts/setup.sh $(VENV)
	@touch $@

# What only some users want, and the slow tests try: Ray.
$(EXTRAS): $(STAMP)
	@sh scripts/setup.sh $(VENV) "-e .[ray]"
	@touch $@

# Independent implementations to compare with, beside the environment and not in it.
$(ORACLES)/.installed: tests/parity/oracles.txt $(STAMP)
	@sh scripts/setup.sh $(VENV) "--target $(ORACLES) --no-deps -r tests/parity/oracles.txt"
	@touch $@

doctor: $(STAMP) ## import every package the suite needs and say what to mend
	@$(PYTHON) scripts/doctor.py

demo: $(STAMP) ## synthesise the embedded corpus, train S2P, P2T and TSPC, evaluate, transcribe (about 10 min on 2 cores)
	@$(PYTHON) scripts/demo.py --name $(RUN)

test: $(STAMP) ## the test suite without the slow tests (a few minutes on 2 cores)
	@$(TEST_ENV) $(PYTHON) -m pytest -q -n 2 -m "not slow"

test-slow: $(EXTRAS) ## the slow tests: several processes, DeepSpeed, Ray, full-size models, injected faults
	@$(TEST_ENV) $(PYTHON) -m pytest -q -n 3 --dist loadfile -m slow

parity: $(ORACLES)/.installed ## our models, losses and searches against independent implementations, installed for that alone
	@$(TEST_ENV) AMVI_ORACLES=$(ORACLES) $(PYTHON) -m pytest -q -n 2 tests/parity

faults: $(STAMP) ## kill, damage, fill, poison and refuse: a table promise, fault, runs, survived; also faults.json
	@$(TEST_ENV) $(PYTHON) -m pytest -q tests/faults --faults faults.json

lint: $(STAMP) ## ruff: style and formatting
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

type: $(STAMP) ## pyright, basic mode
	@$(VENV)/bin/pyright

benchmark: $(STAMP) ## every speed claim as a ratio against a named peer, written to benchmarks.json
	@$(PYTHON) scripts/benchmark.py

clean: ## remove caches (never runs, data or .venv)
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -r {} + ; rm -rf .pytest_cache .ruff_cache .hypothesis
