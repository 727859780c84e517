# Everything a fresh machine needs: Python 3.11 or newer and a package index. `make` alone prints help.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Another index for torch alone, for a CPU-only or another CUDA build, such as TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
DATA ?= scenes
ROOT ?= data/$(DATA)
OUT ?= results
SWEEP ?= scenes_objective

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv test lint reproduce tables sweep bench clean

help:  ## print this list
	@echo "usage: make TARGET [VARIABLE=value]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-12s%s\n", $$1, $$2}' Makefile
	@echo "variables:"
	@echo "  DATA, ROOT  data set to reproduce and its folder (scenes, which is generated, in data/scenes)"
	@echo "  OUT         folder of the tables, figures and runs (results)"
	@echo "  ONLY, SEEDS tables, such as IV,V, and seeds, such as 0,1,2, that make tables is to run (all that are declared)"
	@echo "  SWEEP       which sweep of experiments/sweeps ($(SWEEP))"
	@echo "  TORCH_INDEX package index for torch alone (pip's own)"
	@echo "  PYTHON      interpreter, 3.11 or newer, that makes $(VENV) ($(PYTHON))"

venv: $(READY)  ## make .venv with the exact versions of constraints.txt

# The stamp is written last and taken away first: an environment without it was cut off half-way and is made anew.
$(READY): setup.cfg constraints.txt
	@test -n "$(PYTHON)" || { echo "no python3 found: install Python 3.11 or name one with PYTHON=" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: name one with PYTHON=" if sys.version_info < (3, 11) else 0)'
	test -f $@ || $(PYTHON) -m venv --clear $(VENV)
	rm -f $@
	$(BIN)/python -m pip install --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[test]'
	touch $@

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint  ## lint, then every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: soak
soak: $(READY)  ## racg prepare killed at 20 random moments ends in the same bytes (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s tests/soak_prepare.py

reproduce: $(READY)  ## train and evaluate every row of the table on DATA, and write OUT
	$(BIN)/racg reproduce --data $(DATA) --root $(ROOT) --out $(OUT)

tables: $(READY)  ## run what is missing of experiments/tables.yaml (all, or on DATA=name), and write OUT/tables.html
	$(BIN)/racg tables $(if $(filter-out file,$(origin DATA)),--data $(DATA) --root $(ROOT)) $(if $(ONLY),--only $(ONLY)) $(if $(SEEDS),--seeds $(SEEDS)) --out $(OUT)

sweep: $(READY)  ## run experiments/sweeps/SWEEP.yaml offline, with a table and a figure in OUT/sweeps
	$(BIN)/racg sweep experiments/sweeps/$(SWEEP).yaml --out $(OUT)/sweeps

bench: $(READY)  ## measure speed and memory here, beside the field's way, write OUT/bench.md; then conversion beside a copy (10 GB of disk)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[search]'
	$(BIN)/racg bench --out $(OUT)
	$(BIN)/python -m racg_pl.bench_convert

clean:  ## remove .venv and caches; data and results stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
