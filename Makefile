# Everything that this project does, as one command each. Needs make and Python 3.11 or newer; `make` alone lists it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := agentlightning-0.3 agentlightning-apo gepa litellm trl verl
CLIENTS := autogen litellm poml js
PYTEST_ARGS ?= -n auto --dist worksteal
# Each test worker computes on one thread: several that all take every core are slower by far than one.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# A flag for a variable that is set: SEED=1 -> --seed "1"
flag = $(if $($(1)),--$(2) "$($(1))")

.DEFAULT_GOAL := help
.PHONY: help setup train test faults fuzz check docs bench bench-store bench-gateway bench-training bench-numerics bench-algorithms bench-apo bench-peers clients clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## Create .venv and install the package with its extras (PYTHON=python3.12 chooses)

# Installed again whenever what is to be installed has changed; touched last, so a broken install is no install.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed and `$(PYTHON)` is " + sys.version.split()[0] + "; choose another one with `make setup PYTHON=python3.12`")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[verl,apo,dev]'
	@touch $@

train: $(STAMP) ## Train the calculator agent (SEED=1 RUN=name MODEL=path-or-hub-name; RESUME=1 goes on with RUN)
	$(BIN)/python -m examples.calc.train $(call flag,SEED,seed) $(call flag,RUN,run) $(call flag,MODEL,model) $(if $(filter-out 0,$(RESUME)),--resume)

test: $(STAMP) ## Run all tests (PYTEST_ARGS="-x tests/store" chooses)
	$(TEST_ENV) $(BIN)/pytest $(PYTEST_ARGS)

clients: $(CLIENTS:%=.clients/%/.installed) ## Install the clients that the tests run as programs into .clients/ (about 0.5 GB)

.clients/js/.installed: tests/clients/js/package.json tests/clients/js/package-lock.json
	mkdir -p $(@D)
	cp $^ $(@D)
	npm ci --prefix $(@D) --no-audit --no-fund
	@touch $@

.clients/%/.installed: tests/clients/requirements/%.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check --quiet -r $<
	@touch $@

faults: $(STAMP) ## Kill, stop and cut off real processes, 200 times each (about an hour; FAULT_ROUNDS, FAULT_SEED)
	FAULT_ROUNDS=$(or $(FAULT_ROUNDS),200) $(TEST_ENV) $(BIN)/pytest -n 2 tests/faults

FUZZ_TARGETS := stream completions messages answers requests otlp_json otlp_protobuf token_call
fuzz: $(STAMP) ## Look for input that breaks gateway or store (about half an hour; FUZZ_EXAMPLES, FUZZ_SECONDS)
	FUZZ_EXAMPLES=$(or $(FUZZ_EXAMPLES),1000) $(TEST_ENV) $(BIN)/pytest -n 2 --timeout 3600 tests/fuzz
	@$(BIN)/python -c 'import atheris' 2> /dev/null || $(BIN)/python -m pip install --disable-pip-version-check 'atheris>=3'
	@for target in $(FUZZ_TARGETS); do $(BIN)/python -m tests.fuzz $$target -max_total_time=$(or $(FUZZ_SECONDS),60) || exit 1; done

check: $(STAMP) ## Lint, check the formatting and the types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

docs: $(STAMP) ## Run the code of README.md and docs/, check their commands and links
	$(TEST_ENV) $(BIN)/pytest tests/docs

bench: $(STAMP) ## Run the benchmarks that need nobody else's software (about 5 minutes)
	@for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python $$script || exit 1; done
	$(BIN)/python benchmarks/store/compare.py --alone --quick

bench-store: $(STAMP) ## Compare store, runners and loop with the peer (BENCH_ARGS="--only loop dev --quick" chooses)
	$(BIN)/python benchmarks/store/compare.py $(BENCH_ARGS)

bench-gateway: $(STAMP) ## Compare the gateway with LiteLLM's proxy and an httpx pass-through (BENCH_ARGS="--quick" chooses)
	$(BIN)/python benchmarks/gateway/compare.py $(BENCH_ARGS)

bench-training: $(STAMP) ## Compare a training step with TRL's and with rows computed whole (BENCH_ARGS="--quick" chooses)
	$(BIN)/python benchmarks/training/compare.py $(BENCH_ARGS)

bench-numerics: $(STAMP) ## Compare advantages and losses with verl's own: numbers, time, memory (BENCH_ARGS="--only numbers" chooses)
	$(BIN)/python benchmarks/numerics/compare.py $(BENCH_ARGS)

bench-algorithms: $(STAMP) ## Compare the algorithms on the calculator agent (about 50 minutes; a second call goes on; BENCH_ARGS="--quick" chooses)
	$(BIN)/python -m benchmarks.algorithms.compare $(BENCH_ARGS)

bench-apo: $(STAMP) ## Compare prompt optimisers on a simulated endpoint (hours; a second call goes on; BENCH_ARGS="--quick" chooses)
	$(BIN)/python benchmarks/apo/compare.py $(BENCH_ARGS)

bench-peers: $(PEERS:%=.peers/%/.installed) ## Install the peers of the commands above into .peers/ (about 6 GB, 1.5 of it TRL, 1.9 verl)

.peers/%/.installed: benchmarks/peers/%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check -r $<
	@touch $@

clean: ## Remove .venv, .clients, caches and build outputs; runs/ and .peers/ stay
	rm -rf $(VENV) .clients build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
