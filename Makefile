# sensorloop: everything a user types. `make` alone explains.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
REQUIREMENTS := docker/python/requirements.txt
WORKERS ?= 3
export SENSORLOOP_HOME ?= $(CURDIR)/var

.PHONY: help setup demo rehearse secrets image services test coverage bench-ingest bench-faults bench-poison bench-promotion bench-transfer bench-quality bench-rescore bench-train lint format lock clean browser
help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo
	@echo "  make demo SOURCE=dir TARGET=dir   with your own recordings (see 'sensorloop import --help')"
	@echo "  make demo ONCE=1                  stop everything after the summary"

$(READY): $(REQUIREMENTS) docker/python/uv.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "sensorloop needs Python 3.11: install it, or say which with 'make PYTHON=/path/to/python3.11 …'"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "'$(PYTHON)' is not Python 3.11: say which with 'make PYTHON=/path/to/python3.11 …'"; exit 1; }
	@echo "Setting up $(VENV): about 3 GB to download, 7 GB on disk, once."
	@rm -rf $(VENV)
	@$(PYTHON) -m venv var/uv || { echo "Python's venv module is missing (Debian: apt-get install python3.11-venv)"; exit 1; }
	@var/uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r docker/python/uv.txt
	@var/uv/bin/uv venv --quiet --python $(PYTHON) $(VENV)
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) var/uv/bin/uv pip install --compile-bytecode --require-hashes -r $(REQUIREMENTS)
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) var/uv/bin/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $(READY)

setup: $(READY)  ## the environment in .venv

demo: $(READY)  ## the whole loop on this machine: a real Kafka, MLflow and Airflow
	@$(BIN)/sensorloop demo $(if $(ONCE),--once) $(if $(SOURCE),--source "$(SOURCE)") $(if $(TARGET),--target "$(TARGET)")

secrets:  ## passwords and certificates for docker/compose.yaml → docker/secrets, docker/.env (KAFKA_HOST=name: of the brokers, from outside)
	@KAFKA_HOST=$(or $(KAFKA_HOST),localhost) docker/secrets.sh

image:  ## the image of docker/compose.yaml, which knows the commit that it is of
	@cd docker && SENSORLOOP_COMMIT="$$(git describe --always --abbrev=40 --dirty --exclude='*')" docker compose build

services:  # PostgreSQL and Redis for the rehearsal; only where we may install them, and without starting any
	@{ ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && command -v redis-server >/dev/null; } || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && { apt-get update -qq && RUNLEVEL=1 apt-get install -y -qq postgresql redis-server >/dev/null; }; } || true

rehearse: $(READY) services  ## the cluster of docker/compose.yaml on this machine, without containers: to the verdict (SIZE=0.5; KILL=1: and kill -9 of trainer, worker, scheduler)
	@OMP_NUM_THREADS=1 $(BIN)/python -m dags.local.rehearsal $(if $(SIZE),--size $(SIZE)) $(if $(KILL),--kill)

browser:  # Chromium for the tests that look at pages; only where we may install it
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && { apt-get update -qq && apt-get install -y -qq chromium >/dev/null; }; } || \
	  echo "No Chromium: the browser tests are skipped. To run them: sudo apt-get install chromium"

test: $(READY) browser  ## lint, types and tests, with the real broker, Airflow, MLflow and browser
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	@# Three processes, a file in one of them, the long ones first: most tests wait for a service, and each process has services of its own.
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=30 --durations-min=5 $(ARGS)

coverage:  ## the same, and which lines no test has run
	@$(MAKE) test ARGS="--cov --cov-report=term $(ARGS)"

bench-ingest: $(READY)  ## how fast ingestion is, beside what → var/bench/ingest.json (QUICK=1: in some minutes)
	@PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.ingest

bench-transfer: $(READY)  ## FilterLoss beside what people use → var/bench/transfer.json (QUICK=1: 30 minutes; PAIRS="name=SOURCE,TARGET …")
	@PYTHONPATH=$(CURDIR) $(BIN)/python -m benchmarks.transfer

bench-quality: $(READY)  ## how well the quality score finds planted faults → var/bench/quality.json (QUICK=1: in some minutes; SEEDS=n)
	@PYTHONPATH=$(CURDIR) $(BIN)/python -m benchmarks.quality

bench-rescore: $(READY)  ## embeddings a second of a rescoring beside the bare forward pass → var/bench/rescore.json (QUICK=1; WINDOWS=n; TURNS=n)
	@PYTHONPATH=$(CURDIR) $(BIN)/python -m benchmarks.rescore

bench-train: $(READY)  ## our training loop beside a plain one, on a GPU if there is one → var/bench/train.json (QUICK=1)
	@PYTHONPATH=$(CURDIR) $(BIN)/python -m benchmarks.train

bench-faults: $(READY)  ## 200 rounds of kill -9, 85 of zombies and outages: what is lost or doubled → var/bench/faults.json (QUICK=1: 19)
	@PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.faults

bench-poison: $(READY)  ## a million damaged batches: each is taken or refused → var/bench/poison.json (QUICK=1: 50,000)
	@PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.poison

bench-promotion: $(READY)  ## kills between all steps of a promotion, races, rollbacks: who serves → var/bench/promotion.json (QUICK=1: 2 rounds)
	@PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.promotion

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(READY)  ## let ruff rewrite what it may
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lock: $(READY)  ## pin every package again, with hashes
	var/uv/bin/uv pip compile pyproject.toml --extra dev --extra onnx --upgrade --generate-hashes --python-version 3.11 --no-header --no-annotate -q -o $(REQUIREMENTS)

clean:  ## remove the environment and everything under var/
	-$(BIN)/sensorloop kafka stop
	rm -rf $(VENV) var build *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage
