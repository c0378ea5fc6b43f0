# Every target that a person types has a line of help after `##`; `make help` lists them.
.DEFAULT_GOAL := all
SHELL := /bin/bash

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))))
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
WORKERS ?= 2
SEED ?= 0
FAST_TESTS ?= tests/data_store tests/project/test_commands.py tests/project/test_config.py tests/project/test_files.py
# Scripts of an environment name the folder that it was made in: a moved or copied one runs other code, or none.
MOVED := $(shell test ! -e $(VENV)/.created || grep -qsF "$(CURDIR)/$(VENV)" $(BIN)/activate || echo moved)

.PHONY: moved help demo install test test-slow faults faults-disks check coverage bench lint static docs format hooks ui demo-report embed-demo demo-sweep screenshots lock clean

include docker/docker.mk

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

demo: install ## run the whole pipeline on the embedded dataset and print the scores
	dvc repro
	@sensorium sync
	@sensorium results

install: $(VENV)/.runtime ## create .venv with the locked dependencies

test: $(VENV)/.develop lint ## linters, types, documentation and tests
	pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.develop ## the tests that take minutes
	pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m slow

check: $(VENV)/.develop ## what to run before each commit: linters, types and the fast tests, in under a minute
	@$(MAKE) --no-print-directory static
	pytest -n $(WORKERS) --quiet $(FAST_TESTS)

faults: $(VENV)/.develop ## damage the demonstration in 1,000 ways, kill 300 commands, give them twice, soak; hours
	python tests/faults/campaign.py --count 1000 --seed $(SEED)
	python tests/faults/kills.py --count 300 --seed $(SEED)
	python tests/faults/kills.py --twice
	python tests/faults/soak.py --rounds 6 --minutes 30 --seed $(SEED)
	@echo "Bad disks were not tried: that needs root. Type 'make faults-disks'."

faults-disks: $(VENV)/.develop ## the same commands on full, read-only and slow disks, as root
	$(if $(filter 0,$(shell id -u)),,sudo) "$(CURDIR)/$(BIN)/python" -B tests/faults/disks.py

coverage: $(VENV)/.develop ## the tests, and which lines they ran; a report, not a limit
	pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term --cov-report=html:reports/coverage

bench: $(VENV)/.develop ## write docs/reference/benchmark-results.md: speed and memory, hours; ARGS=--quick: minutes
	python benchmarks/suite.py $(ARGS)

lint: static docs ## linters, types, import layers, declared packages and documentation alone

static: $(VENV)/.develop
	ruff format --check .
	ruff check .
	mypy
	lint-imports
	deptry .

docs: $(VENV)/.develop ## build the documentation into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 mkdocs build

hooks: $(VENV)/.develop ## run the linters before each git commit
	pre-commit install

format: $(VENV)/.develop ## format the code
	ruff format .
	ruff check --fix .

ui: install ## open the MLflow UI on http://127.0.0.1:5000
	mlflow ui --app-name sensorium --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/mlflow.db}"

demo-report: install ## copy the report of the last run into docs/
	dvc repro report
	tools/copy-report

embed-demo: install ## maintainers: renew what the repository carries of the demonstration, for dvc pull
	tools/embed-demo

demo-sweep: install ## search hyper-parameters of the demonstration, and copy the figure into docs/
	dvc repro folds
	sensorium sweep -e true_batch_001 --space conf/sweep/quick.yaml --trials 8
	cp reports/sweeps/true_batch_001-quick/sweep.png docs/images/sweep.png

screenshots: $(VENV)/.browser ## draw the pictures of docs/how-to/mlflow.md anew, with the system's Chromium
	tools/screenshots.py

lock: $(VENV)/.develop ## resolve the dependencies anew into the lock files
	tools/lock

clean: ## remove the environment and what the demonstration made; never data/sensorium_all_2023
	rm -rf $(VENV) .sensorium mlflow.db mlartifacts data/store data/folds data/experiments data/runs \
	  data/predictions data/out-of-fold data/registry data/submissions data/settings.txt reports

$(VENV)/.created: $(MOVED)
	@tools/check-python "$(PYTHON)"
	"$(PYTHON)" -m venv $(if $(MOVED),--clear) $(VENV)
	@touch $@

$(VENV)/.runtime: $(VENV)/.created requirements.lock pyproject.toml
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	$(BIN)/sensorium project install
	@touch $@

$(VENV)/.develop: $(VENV)/.runtime requirements-dev.lock
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.lock
	@touch $@

$(VENV)/.browser: $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable ".[browser]"
	@touch $@
