# Everything goes through the environment in .venv, which the first target that needs it makes.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Torch first and by itself: constraints.txt names the CPU build's version, and nothing then asks for the CUDA one.
TORCH := $(shell sed -n 's/^\(torch==[^ +;]*\).*/\1/p' constraints.txt)

export PYTHONUNBUFFERED := 1

.PHONY: help run test peers test-slow check bench chaos ui plan status clean
help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Lifespan needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

PROFILE ?= laptop
run: $(READY)  ## the whole life with the laptop profile (PROFILE=smoke for a quick look)
	$(BIN)/lifespan run $(PROFILE)

plan: $(READY)  ## what a run would do, and why
	$(BIN)/lifespan plan $(PROFILE)

status: $(READY)  ## runs and stages of this home
	$(BIN)/lifespan status

ui: $(READY)  ## the dashboard on loopback, with MLflow's and Prefect's pages behind it
	$(BIN)/lifespan ui

# Once more without C code, what has a form of its own there: models, generation, a training loop, and whole stages.
WITHOUT_C := tests/components/model tests/components/native tests/components/inference/test_decoders.py \
  tests/components/inference/test_engine.py tests/components/training/test_language_model.py \
  tests/flows/stages/test_training_resume.py::test_the_toy_cases_do_what_they_are_there_for

test: $(READY)  ## the tests, in parallel; a part of them again without C code
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'
	LIFESPAN_NATIVE=0 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile \
	  -m 'not slow' $(WITHOUT_C)

# TRL 1.12 is the last with PPO; it lies unpacked beside the newer one, and only its test looks there.
peers: $(READY)  ## what the slow tests and the benchmarks compare with
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,peers,ray,postgres]'
	test -d $(VENV)/peers/trl-1.12 || { \
	  $(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps -d $(VENV)/peers trl==1.12.0 && \
	  $(BIN)/python -m zipfile -e $(VENV)/peers/trl-1.12.0-*.whl $(VENV)/peers/trl-1.12; }

test-slow: peers  ## tests that take minutes or compare with a peer
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

check: $(READY)  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: peers  ## speed beside transformers, TRL and MLflow, and what orchestration costs (about 25 minutes)
	PYTHONPATH=. $(BIN)/python tests/benchmarks/training_speed.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/hot_paths.py
	PYTHONPATH=. $(BIN)/python tests/benchmarks/generation_speed.py 2>/dev/null
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/rlhf_speed.py 2>/dev/null
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python tests/benchmarks/data_speed.py
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python tests/benchmarks/sql_speed.py 2>/dev/null
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python tests/benchmarks/scaling_speed.py
	PYTHONPATH=. $(BIN)/python tests/benchmarks/ui_speed.py
	PYTHONPATH=. $(BIN)/python tests/benchmarks/scheduler.py
	PYTHONPATH=. $(BIN)/python tests/benchmarks/orchestration.py

chaos: $(READY)  ## kill one smoke life fifty times; it must end as an undisturbed one does (about 15 minutes)
	rm -rf .lifespan-chaos
	$(BIN)/python tests/chaos/kill_a_life.py
	rm -rf .lifespan-chaos

clean:  ## remove the environment and caches; runs in .lifespan stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
