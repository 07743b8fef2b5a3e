# make demo: learn a generated world and write a report.   make test: everything CI checks.
# make bench: speed beside the peers, docs/performance.md.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo bench test lint types imports unit

demo: .venv/installed
	rm -rf runs/demo
	$(BIN)/glocal pretrain --config demo.yaml --out runs/demo
	@echo "open runs/demo/report.html"

bench: .venv/installed
	$(BIN)/python -m benchmarks

test: lint types imports unit

lint: .venv/developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/developed
	$(BIN)/mypy

imports: .venv/developed
	$(BIN)/lint-imports

unit: .venv/developed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/developed: .venv/installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@
