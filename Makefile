# Everything runs in .venv, built from the committed lock. Needs Python 3.11 or newer with venv, git and make.

PYTHON ?= python3
BIN := .venv/bin
# Tools that import the settings must not make keys in the developer's own home.
KEYS := SECRET_KEY=only-for-checks SALT_KEY=only-for-checks
PYTEST := PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(BIN)/python -m pytest -n 2 --dist worksteal
PIN := $(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	--no-annotate
LOCK := $(PIN) --extra embedded pyproject.toml
# Sizes and selection of the measurements, as in: make bench BENCH="--objects 300 --only small"
BENCH ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format lint types architecture dependencies migrations bench lock clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: .venv/installed ## Build .venv with the vh command (does nothing when it is current)

.venv/installed: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv \
		|| { echo "Python cannot make environments here; on Debian: apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## The whole story on a local S3 server, each command shown before it runs
	$(BIN)/vh demo

test: setup ## Run the tests, two at a time
	$(PYTEST)

check: lint types architecture dependencies migrations test ## Everything that must hold before a commit

format: setup ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(KEYS) $(BIN)/mypy

architecture: setup
	$(BIN)/lint-imports

dependencies: setup
	$(BIN)/deptry .

migrations: setup
	DJANGO_SETTINGS_MODULE=tests.settings $(BIN)/python manage.py makemigrations --check --dry-run

bench: setup ## Measure beside rclone and aws; writes bench-out/
	@$(MAKE) --no-print-directory .bench-venv/installed || echo "rclone and aws cannot be installed here"
	$(BIN)/python -m tests.bench $(BENCH)

.bench-venv/installed: requirements/bench.txt
	$(PYTHON) -m venv .bench-venv
	.bench-venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	@touch $@

lock: setup ## Pin the newest versions that pyproject.toml allows
	$(LOCK) --upgrade --output-file requirements/runtime.txt
	$(LOCK) --upgrade --group dev --output-file requirements/dev.txt
	$(PIN) --upgrade --group bench --output-file requirements/bench.txt

clean: ## Remove .venv and every cache
	rm -rf .venv .bench-venv bench-out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
