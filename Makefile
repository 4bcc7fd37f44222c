# make            install, run the pipeline, show the results
# make serve      the advisor service with the sample's adapters, and a page to try it; PORT=5100
# make test       unit tests, the pipeline on few photos, the service, and a page if there is Chromium
# make test-all   all other tests: what takes longer, every page, PostgreSQL if MONDRIAN_POSTGRES is set,
#                 and the model's tests in float16 and bfloat16 with the kernels that a GPU uses
# make lint       ruff, import-linter and mypy
# make images     the images of the README; needs Chromium
# make lock       write the requirements again after a change of pyproject.toml
# make clean      remove all outputs and the environment
#
# make DEVICE=cuda13 computes on an NVIDIA card under Linux (CUDA 13, driver 580 or later; cuda12: CUDA
# 12, driver 550), DEVICE=cpu on the CPU of Linux or with Metal on a Mac. An environment keeps its DEVICE.
#
# Recipes name the programs of the environment by path: GNU make 3.81, which macOS has, looks up the
# command of a recipe in the PATH that it was started with. PATH is for the stages, which call `python`.

PYTHON ?= python3
PORT ?= 5100
VENV := .venv
BIN := $(VENV)/bin
DEVICES := cpu cuda12 cuda13
INSTALLED := $(patsubst $(VENV)/device-%,%,$(firstword $(wildcard $(VENV)/device-*)))
DEVICE ?= $(or $(INSTALLED),cpu)
ifneq ($(words $(DEVICE)) $(filter $(DEVICES),$(DEVICE)),1 $(DEVICE))
$(error DEVICE is '$(DEVICE)'; it may be cpu, cuda12 or cuda13)
endif
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
	@echo "open http://127.0.0.1:$(PORT) in a browser; Ctrl-C ends it"
	@$(BIN)/mondrian serve --lora_path models --model_mode ab_test --port $(PORT)

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
DEVICE_TESTS := tests/model tests/training tests/evaluation tests/serving/test_worker.py

test: $(VENV)/dev
	@$(PYTEST) -m "not slow"

test-all: $(VENV)/dev
	@$(PYTEST) -m slow
	@set -e; for type in float16 bfloat16; do echo "as a GPU computes in $$type"; \
	  MONDRIAN_DEVICE=gpu-$$type $(PYTEST) -m device $(DEVICE_TESTS); done

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
	lock --extra cpu pyproject.toml -o requirements.lock; \
	lock --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock; \
	for cuda in cuda12 cuda13; do \
	  echo "mlx[$$cuda]" | lock -c requirements.lock --no-emit-package mlx --no-emit-package mlx-metal \
	    - -o requirements-$$cuda.lock; \
	done

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

define uninstall
@if command -v uv >/dev/null; then uv pip uninstall --quiet --python $(BIN)/python $(1); \
  else $(BIN)/python -m pip uninstall -qq --yes $(1); fi
endef

# requirements.lock has mlx-cpu; the lock of a CUDA version has only what is installed instead of it.
# Packages of two devices hold the same files, as libmlx.so: those of the others are removed first.
CUDA_LOCK := $(patsubst %,requirements-%.lock,$(filter cuda%,$(DEVICE)))
OTHERS := $(patsubst %,-r requirements-%.lock,$(filter-out cpu $(DEVICE),$(DEVICES)))
OTHERS += $(if $(CUDA_LOCK),mlx-cpu)

$(VENV)/device-$(DEVICE): $(VENV)/python
	@$(BIN)/python -c 'import sys; sys.exit(None if "$(DEVICE)" == "cpu" or sys.platform == "linux" else \
	  "error: DEVICE=$(DEVICE) needs Linux; on a Mac run make DEVICE=cpu, which uses Metal")'
	@rm -f $(VENV)/device-*
	@touch $@

ifeq ($(CUDA_LOCK),)
$(VENV)/requirements.txt: requirements.lock $(VENV)/device-$(DEVICE)
	@cp requirements.lock $@
else
$(VENV)/requirements.txt: requirements.lock $(CUDA_LOCK) $(VENV)/device-$(DEVICE)
	@sed '/^mlx-cpu==/,/[^\\]$$/d' requirements.lock | cat - $(CUDA_LOCK) >$@
endif

$(VENV)/run: $(VENV)/uv $(VENV)/requirements.txt pyproject.toml
	@echo "installing for $(DEVICE)"
	$(call uninstall,$(OTHERS))
	$(call install,--require-hashes -r $(VENV)/requirements.txt)
	$(call install,--no-build-isolation --editable .)
	@touch $@

$(VENV)/dev: $(VENV)/run requirements-dev.lock
	$(call install,--require-hashes -r requirements-dev.lock)
	@touch $@
