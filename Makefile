# make run: set up and run the main job. make test: set up and test. make check: format, lint, types, tests.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
RECIPE ?= drone_nano
STAMP := $(VENV)/.ready
# One process per CPU; the fixtures of a module are made once.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadscope

.PHONY: run test check setup format clean
.DEFAULT_GOAL := help

help:
	@head -1 Makefile | cut -c3-

setup: $(STAMP)

# Made anew when the requirements change; shown as it goes, since it fetches several gigabytes.
$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (some minutes the first time, about 7 GB)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[ultralytics,timm,tensorrt,ncnn,dev]'
	@touch $@

run: setup
	$(BIN)/python -m compress recipe=$(RECIPE)

test: setup
	$(PYTEST)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) outputs/*
