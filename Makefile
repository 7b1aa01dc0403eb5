# Everything a developer does, one verb each. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Setting up once is enough until the dependencies change.
STAMP := $(VENV)/.installed
WORKERS ?= 2

help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make the virtual environment with everything in it
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup ## Start the platform, train on photographs, predict (PHOTOS=dir for your own)
	@$(BIN)/lensmith demo $(if $(PHOTOS),--photos "$(PHOTOS)")

up: setup ## Run the platform on this machine until Ctrl-C
	@$(BIN)/lensmith up

test: setup ## Run every test against real servers (ARGS=… for pytest)
	@$(BIN)/pytest -n $(WORKERS) --dist loadgroup $(ARGS)

test-long: setup ## Run the long kills and loads (MINUTES=3 for a sample)
	@LENSMITH_TEST_MINUTES=$(or $(MINUTES),30) $(BIN)/pytest -n $(WORKERS) --dist loadgroup -m long --timeout 3600 $(ARGS) \
		$$(grep -rl 'mark\.long' tests --include='test_*.py' | sort)

gen: setup ## Make what is generated: code, client, OpenAPI document, settings page
	@$(BIN)/python scripts/generate_api.py
	@$(BIN)/python scripts/generate_sync_client.py
	@$(BIN)/python scripts/generate_settings_docs.py
	@$(BIN)/python -m lensmith_gateway.openapi --output docs/api/openapi.json
	@$(BIN)/python deploy/helm/generate.py

fmt: setup protos-deps ## Format code and protos
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix-only --quiet . && $(BIN)/buf format -w protos

lint: setup ## Lint and check formatting and imports
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

types: setup ## Check types, strictly
	@$(BIN)/mypy

protos-deps: setup
	@$(BIN)/python scripts/lay_out_googleapis.py

protos: setup protos-deps ## Lint the protos, compare with the last release, check the generated code
	@$(BIN)/buf lint && $(BIN)/buf format -d --exit-code protos
	@$(BIN)/buf breaking protos --against protos/released.binpb
	@$(BIN)/python scripts/generate_api.py --check
	@$(BIN)/python -m lensmith_gateway.openapi --check docs/api/openapi.json

release-protos: setup protos-deps ## Make today's contract the one that changes are compared with
	@$(BIN)/buf build protos -o protos/released.binpb

chart: setup ## Lint and render the Helm chart, lint the Dockerfile
	@$(BIN)/python -c "import helm_python, kubernetes_validate" 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[chart]'
	@$(BIN)/python deploy/helm/generate.py --check
	@$(BIN)/pytest -q tests/chart

fine-tune: setup ## Install PyTorch (large) and run what needs it: its types, its tests
	@$(BIN)/python -c "import lightning" 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[finetune]'
	@$(BIN)/mypy -p lensmith_vision.fine_tune
	@$(BIN)/pytest -n $(WORKERS) --dist loadgroup tests/lensmith_vision/fine_tune tests/lensmith_trainer/fine_tune tests/e2e/test_fine_tuning.py $(ARGS)

check: lint types protos chart ## What CI checks besides the tests

bench: setup ## Run all benchmarks
	@$(BIN)/python -c "import skimage, sklearn" 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[benchmarks]'
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean: ## Remove what was built
	@rm -rf .build dist .mypy_cache .ruff_cache .pytest_cache

.PHONY: help setup demo up test test-long gen fmt lint types protos-deps protos release-protos chart fine-tune check bench clean
