# `make run` and `make test` need Python 3.11 or later and nothing else; they make .venv themselves.
PYTHON ?= python3
BIN := .venv/bin

# A target whose line has a comment after two number signs is listed by `make help`.
.PHONY: run help test soak rounds burst hanging lint format types check clean

run: .venv/run  ## Start PostgreSQL, Hasura's delivery, a small ServiceNow and the function; show a tour
	$(BIN)/python -m sandbox

help:  ## List what make can do
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Half of the time is waiting: four processes keep two cores busy. Who is done takes work from the others, so that none
# is alone at the end.
test: .venv/test  ## Run every test
	$(BIN)/python -m pytest --numprocesses=4 --dist=worksteal

# ROWS=1000 SEED=7 FUNCTIONS=2 make it another one; SOAK='--no-faults' or SOAK='--wipe' another kind.
soak: .venv/test  ## Send rows through thousands of faults; count lost, duplicated and stale tickets
	$(BIN)/python -m tests.faults.soak $(if $(ROWS),--rows $(ROWS)) $(if $(SEED),--seed $(SEED)) $(if $(FUNCTIONS),--functions $(FUNCTIONS)) $(SOAK)

# TRIPS=100 SEED=7 FUNCTIONS=3 make it another one; ROUNDS='--no-faults' another kind.
rounds: .venv/test  ## Edit rows and tickets from both sides through hundreds of faults; count lost, duplicated and unequal ones
	$(BIN)/python -m tests.faults.round_trips $(if $(TRIPS),--trips $(TRIPS)) $(if $(SEED),--seed $(SEED)) $(if $(FUNCTIONS),--functions $(FUNCTIONS)) $(ROUNDS)

# COMMANDS=100 SEED=7 make it another one.
burst: .venv/test  ## Type 500 slash commands at once, kill a function half-way; count lost and doubled ones
	$(BIN)/python -m tests.faults.burst $(if $(COMMANDS),--commands $(COMMANDS)) $(if $(SEED),--seed $(SEED)) $(BURST)

# ROWS=200 makes it a smaller one.
hanging: .venv/test  ## Send rows to tickets and to a system that hangs; compare the tickets' times with those without
	$(BIN)/python -m tests.faults.hanging_target $(if $(ROWS),--rows $(ROWS)) $(HANGING)

lint: .venv/test  ## Look for mistakes (ruff)
	$(BIN)/ruff check .

format: .venv/test  ## Check the formatting, and change nothing
	$(BIN)/ruff format --check .

types: .venv/test  ## Check the types (mypy)
	$(BIN)/mypy

check: lint format types  ## Do lint, format and types

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; this is %s.%s. Name another with: make PYTHON=python3.12 …" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv

.venv/run: requirements.txt requirements-sandbox.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-sandbox.txt
	@touch $@

.venv/test: requirements.txt requirements-dev.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	@touch $@

clean:  ## Remove .venv and the caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
