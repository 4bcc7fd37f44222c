# make            install, run the pipeline, show the results
# make serve      the advisor service with the sample's adapters, and a page to try it
# make test       unit tests, the pipeline on few photos, the service, and a page if there is Chromium
# make test-all   all other tests: what takes longer, every page, PostgreSQL if MONDRIAN_POSTGRES is set
# make lint       ruff, import-linter and mypy
# make images     the images of the README; needs Chromium
# make lock       write the requirements again after a change of pyproject.toml
# make clean      remove all outputs and the environment
#
# Recipes name the programs of the environment by path: GNU make 3.81, which macOS has, looks up the
# command of a recipe in the PATH that it was started with. PATH is for the stages, which call `python`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export DVC_NO_ANALYTICS := 1

.PHONY: all repro serve test test-all lint images lock clean

all: repro
	@$(BIN)/mondrian summary

repro: $(VENV)/run
	@$(BIN)/mondrian check >/dev/null
	@$(BIN)/dvc repro

serve: repro
	@echo "open http://127.0.0.1:5100 in a browser; Ctrl-C ends it"
	@$(BIN)/mondrian serve --lora_path models --model_mode ab_test

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/dev
	@$(PYTEST) -m "not slow"

test-all: $(VENV)/dev
	@$(PYTEST) -m slow

lint: $(VENV)/dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/mypy

images: repro $(VENV)/dev
	@$(BIN)/python docs/images/make.py

lock: $(VENV)/uv
	set -e; lock() { uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header "$$@"; }; \
	lock --group uv -o requirements-uv.lock; \
	lock pyproject.toml -o requirements.lock; \
	lock --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean:
	rm -rf $(VENV) data/linked data/prepared data/sample/mondrian models/*-lora-* dvc_plots .cache \
	  .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else \
	  f"error: Python {v[0]}.{v[1]} found; 3.11 to 3.13 needed: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# uv installs in seconds, pip in a minute; the locks hold every package, so no other is looked for.
$(VENV)/uv: $(VENV)/python requirements-uv.lock
	@command -v uv >/dev/null || $(BIN)/python -m pip install --quiet --no-deps --only-binary :all: \
	  --require-hashes -r requirements-uv.lock || echo "uv could not be installed; pip takes longer"
	@touch $@

define install
@if command -v uv >/dev/null; then uv pip install --quiet --no-deps --python $(BIN)/python $(1); \
  else $(BIN)/python -m pip install --quiet --no-deps $(1); fi
endef

$(VENV)/run: $(VENV)/uv requirements.lock pyproject.toml
	@echo "installing"
	$(call install,--require-hashes -r requirements.lock)
	$(call install,--no-build-isolation --editable .)
	@touch $@

$(VENV)/dev: $(VENV)/run requirements-dev.lock
	$(call install,--require-hashes -r requirements-dev.lock)
	@touch $@
