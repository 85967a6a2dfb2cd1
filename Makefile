# `make demo` runs the main job, `make test` the whole suite. Both make .venv when it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTED := $(VENV)/.tested

# One thread for each process: a library's own pool beside torch's only fights it for the cores.
SINGLE := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# Test processes side by side, one thread each.
WORKERS ?= 2

.PHONY: demo test test-slow lint bench clean

demo: $(READY)
	$(BIN)/geodistill demo

test: lint $(TESTED)
	$(SINGLE) $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

test-slow: $(READY)
	$(SINGLE) $(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/losses.py --threads 1
	$(BIN)/python benchmarks/logits.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/cache.py
	$(BIN)/python benchmarks/peers.py

# torch is pinned in constraints.txt: without the pin pip may take a build with gigabytes of CUDA.
$(READY): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

# Apart from the rest: bitsandbytes, where it is installed, has something to say whenever transformers is imported.
$(TESTED): $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[quantization]'
	touch $(TESTED)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
