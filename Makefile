# make          install, run the pipeline, show a summary
# make test     unit tests, a run of the pipeline on few photos, the service, and a page if there is Chromium
# make test-all all other tests: whatever takes longer, every page, PostgreSQL if MONDRIAN_POSTGRES names one
# make serve    the advisor service with the sample's adapters, and a page to try it
# make lint     ruff, import-linter and mypy
# make images   the images of the README; needs Chromium
# make lock     write the requirements again after a change of pyproject.toml
# make clean    remove all outputs and the environment
#
# The locks hold every package, so pip looks for none (--no-deps): an older pip would ask for a newer release of a
# package that another one names with an extra, and refuse it because it has no hash.

PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export DVC_NO_ANALYTICS := 1

.PHONY: all repro serve test test-all lint images lock clean

all: repro
	@$(VENV)/bin/mondrian summary

repro: $(VENV)/run
	@dvc repro

serve: repro
	@echo "open http://127.0.0.1:5100 in a browser; Ctrl-C ends it"
	@$(VENV)/bin/mondrian serve --lora_path models --model_mode ab_test

PYTEST := $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/dev
	@$(PYTEST) -m "not slow"

test-all: $(VENV)/dev
	@$(PYTEST) -m slow

lint: $(VENV)/dev
	@ruff check .
	@ruff format --check .
	@lint-imports --no-logo
	@mypy

images: repro $(VENV)/dev
	@$(VENV)/bin/python docs/images/make.py

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header pyproject.toml -o requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean:
	rm -rf $(VENV) data/linked data/prepared data/sample/mondrian models/*-lora-* dvc_plots .cache \
	  .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else \
	  f"error: Python {v[0]}.{v[1]} found; 3.11 to 3.13 needed: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/run: $(VENV)/python requirements.lock pyproject.toml
	@echo "installing (about a minute)"
	@python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	@echo "$(CURDIR)" > "$$(python -c 'import site; print(site.getsitepackages()[0])')/mondrian.pth"
	@printf '#!%s\nfrom mondrian.cli.main import entry\n\nentry()\n' "$(CURDIR)/$(VENV)/bin/python" > $(VENV)/bin/mondrian
	@chmod +x $(VENV)/bin/mondrian
	@touch $@

$(VENV)/dev: $(VENV)/run requirements-dev.lock
	@python -m pip install --quiet --no-deps --require-hashes -r requirements-dev.lock
	@touch $@
