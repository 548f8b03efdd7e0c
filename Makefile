# mailstack: `make up` for a mail domain that works, `make test` for the whole suite.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST ?= $(BIN)/python -m pytest
# Tests of one file share servers, so a file stays on one worker.
PYTEST_ARGS ?= -n 2 --dist loadfile

.PHONY: up down test crash fuzz lint format bench golden constraints clean

up: $(VENV)/.installed
	@BIN=$(BIN) sh examples/tour.sh

down: $(VENV)/.installed
	@$(BIN)/mailstack -f examples/minimal/mailstack.yaml -p tour down --volumes

test: $(VENV)/.dev
	$(PYTEST) $(PYTEST_ARGS) tests

# Kill processes while mail flows, for some minutes and with another seed each time (make crash SEED=… repeats one).
ROUNDS ?= 200
SEED   ?= $(shell date +%s)
crash: $(VENV)/.dev
	MAILSTACK_CRASH_ROUNDS=$(ROUNDS) MAILSTACK_CRASH_SEED=$(SEED) $(PYTEST) -s tests/crash

# Look for input that breaks a promise, guided by coverage (make fuzz TARGET=address RUNS=1000000; tests/fuzz/targets.py).
TARGET ?= smtp_server
RUNS   ?= 10000000
fuzz: $(VENV)/.dev
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check atheris
	$(BIN)/python -m tests.fuzz.run $(TARGET) $(RUNS)

lint: $(VENV)/.dev
	$(BIN)/ruff check mailstack tests benchmarks
	$(BIN)/ruff format --check mailstack tests benchmarks
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format mailstack tests benchmarks
	$(BIN)/ruff check --fix mailstack tests benchmarks

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

# Write the golden trees of tests/golden/ and the pages that are made from tables anew (look at the diff first).
golden: $(VENV)/.dev
	MAILSTACK_UPDATE_GOLDEN=1 $(PYTEST) -q tests/golden tests/unit/spec/test_pages.py tests/unit/config_dovecot/test_settings.py tests/unit/config_named/test_page.py

# Lock the newest versions of what pyproject.toml asks for (needs pip-tools).
PIP_COMPILE := pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-header --upgrade \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options
constraints:
	$(PIP_COMPILE) --build-deps-for editable -o constraints.txt pyproject.toml
	$(PIP_COMPILE) --build-deps-for editable --extra dev -c constraints.txt -o constraints-dev.txt pyproject.toml

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "mailstack needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "cannot make a virtual environment: on Debian, apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }

$(VENV)/.installed: $(VENV)/bin/python constraints.txt pyproject.toml
	@echo "installing mailstack into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed constraints-dev.txt
	@echo "installing the development tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
