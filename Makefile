# `make demo`, `make test`, `make docs` and `make bench` need Python 3.11 or newer, and nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all bench lint docs clean

demo: .venv/ready
	$(BIN)/python train.py trainer.max_time=4m hydra.run.dir=outputs/demo
	$(BIN)/python evaluate.py runs=outputs/demo hydra.run.dir=outputs/demo/evaluation
	@echo "Look at outputs/demo/evaluation/images (truth, rendering, error, depth, opacity) and outputs/demo/evaluation/table.md"

# A worker per processor, at most 4, as each needs memory of its own. They begin with a stretch of the tests each, so that
# most of a file's tests share what one of them has made, and who is done first takes over what others have not begun.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

test: .venv/ready
	$(PYTEST)

test-all: .venv/ready
	$(PYTEST) -m ""

# An hour; `.venv/bin/python -m benchmarks --quick` takes two minutes.
bench: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,bench]'
	$(BIN)/python -m benchmarks --docs

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, into site/; a broken link or an undocumented public name ends it.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open site/index.html, or see it by $(BIN)/mkdocs serve"

.venv/docs: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "AutoInt needs Python 3.11 or newer, not %d.%d; use make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache site
