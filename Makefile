# One command for each daily task; CI runs the same ones.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The tests start hundreds of processes; each would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test lint format docs links dist bench moments soak django-tests browser matrix clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "django-rb needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.13"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# What `make run` needs, and no more. pip says how far it is.
$(VENV)/serves: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[example]'
	@touch $@

$(VENV)/tests-installed: setup.cfg pyproject.toml | $(BIN)/python
	@echo "Installing what the tests need; this may take half a minute."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ $(VENV)/serves

# Collecting all tests, and running a few that use hypothesis, writes their bytecode and the
# tables of hypothesis. Otherwise all workers, which start together, would write them. Errors
# are shown when the tests run.
$(VENV)/collected: $(VENV)/tests-installed
	@$(BIN)/python -m pytest -qq -k test_hashing > $@ 2>&1 || true

$(VENV)/installed: $(VENV)/tests-installed
	@echo "Installing what developers need; this may take a minute."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

run: $(VENV)/serves ## serve the example project on four local nodes
	$(BIN)/python example_project/manage.py serve $(ARGS)

# Tests wait half of their time, so there is room for more of them than there are cores.
WORKERS ?= 6
test: $(VENV)/collected ## run the tests on servers they start themselves
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)

# The types of map() are checked once more as a site's mypy checks them, without our settings.
SITES_MYPY := --config-file= --cache-dir=.mypy_cache/sites --follow-imports=silent
lint: $(VENV)/installed ## ruff, codespell and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/mypy $(SITES_MYPY) --warn-unused-ignores tests/engine/promised_types.py

format: $(VENV)/installed ## let ruff arrange the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed ## build the documentation into docs/_build/html
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -b html docs docs/_build/html $(ARGS)

links: $(VENV)/installed ## check the links of the documentation; needs the internet
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -b linkcheck docs docs/_build/links $(ARGS)

dist: $(VENV)/installed ## build the packages into dist/, check them and try them
	$(BIN)/python -m nox --session dist $(ARGS)

bench: $(VENV)/installed ## time django-rb beside its peers; ARGS=--help
	@$(BIN)/python -m benchmarks $(ARGS)

moments: $(VENV)/installed ## break calls off at every moment; `make test` takes a sample
	EVERY_MOMENT=1 $(BIN)/python -m pytest tests/faults/test_sharing_interrupts.py $(ARGS)

MINUTES ?= 3
# What is soaked: nothing for the cache on nodes that die, or near, or failover.
KIND ?=
soak: $(VENV)/installed ## threads and processes on nodes that die, hang and are slow; MINUTES=10 KIND=failover
	$(BIN)/python -m tests.soak$(KIND:%=.%) --minutes $(MINUTES) $(ARGS)

django-tests: $(VENV)/installed ## Django's own cache tests against RBCache
	$(BIN)/python -m tests.django_suite $(ARGS)

browser: $(VENV)/installed ## the pages of the admin in Debian's Chromium
	$(BIN)/python -m nox --session browser -- $(ARGS)

SESSIONS ?= oldest newest redis-8 redis-7 cluster-valkey-9 cluster-redis-8 cluster-redis-7
matrix: $(VENV)/installed ## both suites on the oldest and newest versions, on Redis 7 and 8, and Redis Clusters
	@$(MAKE) --no-print-directory --keep-going --jobs=2 --output-sync $(SESSIONS:%=matrix-%)

matrix-%: $(VENV)/installed
	$(BIN)/python -m nox --session $* $(ARGS)

clean: ## remove the virtual environments and what tools left
	rm -rf $(VENV) .venvs .mypy_cache .pytest_cache .ruff_cache build dist docs/_build *.egg-info
