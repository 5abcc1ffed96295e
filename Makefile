# `make run` and `make test` need Python 3.11 or later and nothing else; they make .venv themselves.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test soak lint format types check clean

run: .venv/run
	$(BIN)/python -m sandbox

# Each file in one process, in their own order, so that no long one is the last. Half of the time is waiting: three
# processes keep two cores busy.
test: .venv/test
	$(BIN)/python -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder

# ROWS=1000 SEED=7 FUNCTIONS=2 make it another one; SOAK='--no-faults' or SOAK='--wipe' another kind.
soak: .venv/test
	$(BIN)/python -m tests.faults.soak $(if $(ROWS),--rows $(ROWS)) $(if $(SEED),--seed $(SEED)) $(if $(FUNCTIONS),--functions $(FUNCTIONS)) $(SOAK)

lint: .venv/test
	$(BIN)/ruff check .

format: .venv/test
	$(BIN)/ruff format --check .

types: .venv/test
	$(BIN)/mypy

check: lint format types

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; this is %s.%s. Name another with: make PYTHON=python3.12 …" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv

.venv/run: requirements.txt requirements-sandbox.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-sandbox.txt
	@touch $@

.venv/test: requirements.txt requirements-dev.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
