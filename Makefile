# `make run` and `make test` need Python 3.11 or later and nothing else; they make .venv themselves.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test lint format types check clean

run: .venv/run
	$(BIN)/python -m sandbox

test: .venv/test
	$(BIN)/python -m pytest

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

.venv/run: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/test: requirements.txt requirements-dev.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
