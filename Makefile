PYTHON ?= python3
GRID ?= config.yaml
CORES ?= all
BIN := .venv/bin
.DEFAULT_GOAL := help
SHELL := /bin/bash -o pipefail
# of Snakemake's log, leave errors and "12 of 240 steps (5%) done"
CHATTER := /^(Select jobs|Execute [0-9]|\[[A-Z]|Finished jobid|Assuming |Building DAG|Using |Provided cores|Rules claiming)/d

.PHONY: demo help run retry tables unlock publish test test-fast lint format lock

# the default grid, on data that needs no download
demo: run

# what make can do here
help:
	@awk '/^# /{said=substr($$0,3)} /^[a-z-]+:/{if(said){split($$0,name,":"); printf "make %-10s %s\n",name[1],said}} !/^# /{said=""}' Makefile

# any grid: make run GRID=grids/cifar10_cpu.yaml
run: .venv/installed
	@$(BIN)/python -m keyhole.planning.reading "$(GRID)"
	@$(BIN)/snakemake --cores $(CORES) --configfile "$(GRID)" --quiet rules reason host 2>&1 | sed -uE '$(CHATTER)'

# nothing that Keyhole does needs it; for locks that an earlier version or another profile left
unlock: .venv/installed
	@$(BIN)/snakemake --unlock --configfile "$(GRID)"

# tries again what failed
retry: .venv/installed
	@$(BIN)/python -m keyhole.running.retry "$(GRID)"
	@$(MAKE) --no-print-directory run

# tables and report of what there is, also while a run is going on
tables: .venv/installed
	@$(BIN)/python -m keyhole.reporting.unfinished "$(GRID)"

# adds what has been run of a grid to published/, if it comes from clean commits
publish: .venv/installed
	@$(BIN)/python -m keyhole.reporting.publish "$(GRID)"

test: .venv/installed lint
	$(BIN)/python -m pytest

# without the tests that start Snakemake or search for planted triggers: minutes, for every day
test-fast: .venv/installed
	$(BIN)/python -m pytest -m "not slow"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules
	$(BIN)/python -m keyhole.reporting.legend results/README.md

# The lock pins every package of the default install with its hash.
.venv/installed: requirements.lock pyproject.toml
	@echo "Installing Keyhole into .venv (PyTorch with CUDA is 5 GB: about 3 minutes on a fast line)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --progress-bar off --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-build-isolation --no-deps --editable .
	touch $@

lock: .venv/installed
	$(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra dev --extra slurm --output-file requirements.lock pyproject.toml
