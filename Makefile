# Everything runs in .venv, which is made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help env demo test test-slow gpu lint format figures docs bench selfcheck clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

env: $(VENV)/.ready  ## create .venv with the pinned versions

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Ridgeline needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: env  ## the main job on embedded images: networks, landscapes, figures/overview.png
	$(BIN)/python run/demo.py

figures: env  ## draw the demo's figures again from its kept results
	$(BIN)/python run/demo.py

test: env  ## the test suite
	$(BIN)/python -m pytest -m 'not slow' -n auto --maxprocesses 4 --dist loadfile

test-slow: env  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

gpu: env  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu -n 0

lint: env  ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: env  ## let ruff mend style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs  ## build the guide into site/ and check its links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html"

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

bench: env  ## side by side with PyHessian, curvlinops, hessian-eigenthings
	$(BIN)/python benchmarks/curvature.py lenet --power_iteration
	$(BIN)/python benchmarks/memory.py lenet

selfcheck: env  ## exact answers on this machine: a pass/fail table
	$(BIN)/python run/selfcheck.py

clean:  ## remove .venv and caches; results stay
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
