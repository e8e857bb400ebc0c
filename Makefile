# Two commands for newcomers: `make demo` and `make test`. Each sets everything up in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/digits-ipc1

.PHONY: demo test test-slow lint format docs docs-serve bench gpu clean
.DEFAULT_GOAL := test

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/bacon fit --config digits/ipc1 --trainer.default_root_dir $(DEMO) --overwrite true
	$(BIN)/bacon eval --config digits/ipc1 --trainer.default_root_dir $(DEMO) \
		--distilled $(DEMO) --baselines random,whole --overwrite true

test: $(VENV)/.installed
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/run.py $(ARGS)

# `make gpu PYTHON=python` runs that Python as it is, without .venv: for machines without internet.
ifeq ($(origin PYTHON),command line)
GPU_PYTHON := $(PYTHON)
else
GPU_PYTHON := $(BIN)/python
gpu: $(VENV)/.installed
endif

gpu:
	$(GPU_PYTHON) benchmarks/gpu.py $(if $(ROOT),--root "$(ROOT)") $(ARGS)

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache
