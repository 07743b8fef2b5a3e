# make demo: learn a generated world and write a report.   make test: everything CI checks.
# make bench: speed beside the peers, docs/performance.md.   make test-machines: the numbers on other processors.
# make gpu: what only a GPU can show, in ten minutes; needs no installation where PyTorch, timm and Lightning are.
PYTHON ?= python3
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin

.PHONY: demo bench gpu test lint types imports unit test-machines machine-threads machine-avx512 machine-avx2 machine-sse41

demo: .venv/installed
	rm -rf runs/demo
	$(BIN)/glocal pretrain --config demo.yaml --out runs/demo
	@echo "open runs/demo/report.html"

bench: .venv/installed
	$(BIN)/python -m benchmarks

gpu:
	PYTHONPATH=src $(firstword $(wildcard $(BIN)/python) $(PYTHON)) -m benchmarks.gpu $(if $(OUT),--out $(OUT))

# what checks the code runs beside the tests, of which some wait
test: .venv/developed
	$(MAKE) --jobs=2 unit lint types imports

lint: .venv/developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/developed
	$(BIN)/mypy

imports: .venv/developed
	$(BIN)/lint-imports

# a folder in memory, where there is a large one: tests write and delete 4 GB
unit: export TMPDIR := $(or $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 4e6 {print "/dev/shm"}'),$(TMPDIR))
unit: export TORCHINDUCTOR_CACHE_DIR := $(CURDIR)/.venv/inductor/unit
# three processes on two cores, since some tests wait
unit: .venv/developed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# The instructions, hence the rounding, of other processors, as far as this one has them too; -k for all in spite of faults.
NUMERIC := $(addprefix tests/,losses heads backbones views methods evaluation training)

test-machines: machine-threads machine-avx2 machine-sse41
ifneq ($(shell grep -m1 -o amx_tile /proc/cpuinfo 2>/dev/null),)
test-machines: machine-avx512
endif

machine-threads: .venv/developed
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest $(NUMERIC)

machine-avx512: export ONEDNN_MAX_CPU_ISA = AVX512_CORE
machine-avx2: export ONEDNN_MAX_CPU_ISA = AVX2
machine-avx2: export ATEN_CPU_CAPABILITY = avx2
machine-avx2: export MKL_CBWR = AVX2
machine-sse41: export ONEDNN_MAX_CPU_ISA = SSE41
machine-sse41: export ATEN_CPU_CAPABILITY = default
machine-sse41: export MKL_CBWR = COMPATIBLE
# what torch.compile keeps for one set of instructions fails with another
machine-avx512 machine-avx2 machine-sse41: export TORCHINDUCTOR_CACHE_DIR = $(CURDIR)/.venv/inductor/$@
machine-avx512 machine-avx2 machine-sse41: .venv/developed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(NUMERIC)

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/developed: .venv/installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@
