# `make demo` runs the main job, `make test` the whole suite. Both make .venv when it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTED := $(VENV)/.tested
DOCUMENTED := $(VENV)/.documented
LOWEST := .venv-lowest
LOWEST_READY := $(LOWEST)/.ready
CORE := tests/geometry tests/losses tests/features tests/data tests/models tests/distillation tests/quantization

# One thread for each process: a library's own pool beside torch's only fights it for the cores.
SINGLE := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# Test processes side by side, one thread each.
WORKERS ?= 2

.PHONY: demo test test-lowest test-slow lint bench docs clean

demo: $(READY)
	$(BIN)/geodistill demo

# The suite's core with the lowest release of each package that pyproject.toml allows. torch alone is the release of
# constraints.txt, because a pip index has older releases only as builds with gigabytes of CUDA.
test-lowest: $(LOWEST_READY)
	$(SINGLE) $(LOWEST)/bin/python -m pytest $(CORE)

test: lint docs $(TESTED)
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
	$(BIN)/python benchmarks/quantization.py
	$(BIN)/python benchmarks/peers.py

# The site, in site/, with warnings as errors.
docs: $(DOCUMENTED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# torch is pinned in constraints.txt: without the pin pip may take a build with gigabytes of CUDA.
$(READY): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

$(LOWEST_READY): pyproject.toml constraints.txt tests/lowest.py
	test -d $(LOWEST) || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --constraint constraints.txt torch
	$(PYTHON) tests/lowest.py pyproject.toml onnx peft > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/pip install --quiet --constraint $(LOWEST)/constraints.txt --editable '.[onnx,peft]' \
		ckatorch hypothesis POT pytest
	touch $(LOWEST_READY)

# Apart from the rest: bitsandbytes, where it is installed, has something to say whenever transformers is imported.
$(TESTED): $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[quantization]'
	touch $(TESTED)

$(DOCUMENTED): $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $(DOCUMENTED)

clean:
	rm -rf $(VENV) $(LOWEST) site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
