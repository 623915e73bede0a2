# Needs python3 (3.11 or newer), git and make; everything else goes into $(VENV).
# On Linux without a GPU, `make demo PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu` saves gigabytes of CUDA.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS ?= demo
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal --durations 25 --costs suite

# Settings of the caller that would reach into the environment, change what tests mean, or have each process compile fedfm.
unexport PYTHONPATH PYTHONHOME PYTEST_ADDOPTS PYTHONDONTWRITEBYTECODE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: demo install test coverage test-faults test-soak test-trust test-matrix test-recipes lint schema audit docs bench clean help

demo: $(VENV)/demo.installed ## fine-tune MiniLM over clients, offline, on two cores; replaces runs/demo
	rm -rf runs/demo
	$(BIN)/fedfm run demo

install: | $(BIN)/python ## install fedfm into .venv; EXTRAS=demo,flower,ray,secure,track chooses what comes along
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@echo "Done. Next: source $(VENV)/bin/activate"

test: $(VENV)/test.installed ## all tests but those of faults; WORKERS=2
	$(PYTEST) -m 'not faults'

coverage: $(VENV)/test.installed ## the same, which must run at least 90 % of the lines; takes 1.7 times as long before Python 3.12
	$(PYTEST) -m 'not faults' --cov --cov-report=term --cov-fail-under=90

test-faults: WORKERS = 3 # its processes wait for one another
test-faults: $(VENV)/test.installed ## processes of a federation are killed one after the other; minutes
	$(PYTEST) -m 'faults and not soak' tests/faults # not all other tests, which each process would import

test-soak: $(VENV)/test.installed ## every process killed, hung or cut off, and hundreds of rounds with faults; not in CI
	$(PYTEST) -m soak tests/faults

test-trust: $(VENV)/test.installed ## faults, bad input, hostile messages and privacy: the list in docs/security.md
	$(PYTEST) -m 'trust and not faults'

lint: $(VENV)/test.installed ## style, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: $(VENV)/test.installed ## compare constraints.txt with the vulnerabilities that PyPI lists; needs the network
	$(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/python -m pip install --quiet pip-audit
	$(VENV)/audit/bin/python -m pip_audit --strict --no-deps --disable-pip --requirement constraints.txt

schema: $(VENV)/test.installed ## regenerate schema.json and the lists in docs/
	$(BIN)/python -m fedfm.recipe.index
	$(BIN)/python -m tools.algorithms
	$(BIN)/python -m tools.matrix
	$(BIN)/python -m tools.trust

test-matrix: $(VENV)/test.installed ## 200 combinations of methods under all runtimes; minutes
	FEDFM_MATRIX=1 $(BIN)/python -m pytest tests/system/test_matrix.py tests/system/test_first_users.py

test-recipes: $(VENV)/test.installed ## every recipe as shipped, with its seconds; half an hour
	FEDFM_RECIPES=1 $(BIN)/python -m pytest tests/system/test_recipes.py -k shipped -rP

docs: $(VENV)/docs.installed ## build the site into site/, strictly
	PYTHONPATH=tools $(BIN)/zensical build --strict --clean

bench: ## list what reproduces the README's figures; `make bench-NAME [ARGS=…]` runs one
	@for file in $$(grep -l __main__ benchmarks/*.py benchmarks/*/compare.py); do \
	  name=$${file#benchmarks/}; name=$${name%/compare.py}; \
	  printf '%-14s %s\n' "$${name%.py}" "$$(sed -n '1s/"""//gp' "$$file")"; \
	done

bench-%: $(VENV)/demo.installed
	$(BIN)/python $(firstword $(wildcard benchmarks/$(subst -,_,$*).py benchmarks/$*.py benchmarks/$*/compare.py) benchmarks/$(subst -,_,$*).py) $(ARGS)

clean: ## remove everything that make created here, except runs/
	rm -rf $(VENV) site .cache dist build .coverage .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F '|' '{ printf "make %-11s %s\n", $$1, $$2 }'

# One stamp for each set of extras; it ages when pyproject.toml or constraints.txt change.
$(VENV)/demo.installed: EXTRAS := demo
$(VENV)/test.installed: EXTRAS := demo,dp,flower,ray,secure,track,dev
$(VENV)/docs.installed: EXTRAS := docs

$(VENV)/%.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing fedfm[$(EXTRAS)] into $(VENV); the first time takes a few minutes."
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there; name another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit("fedfm needs Python 3.11 or newer and $(PYTHON) is %d.%d; name another: make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
