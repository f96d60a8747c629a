# make demo   a real front in minutes, and a picture of it
# make test   lint, format, types and all tests
# make check  lint, format, types and the quick tests, in about a minute
# make coverage  all tests, and the lines that none of them runs, workers' and servers' processes included
# make drills the long drills: kills, restarts, full disks, 64 workers; prints what was survived
# make bench  the measured tables of tests/benchmarks/RESULTS.md
# Each sets up all it needs: Python 3.11 or newer and make are enough.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

# torch's and OpenMP's threads would otherwise fight over the cores that parallel tests use
TEST_ENV = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

# layers that run no model
QUICK = tests/test_architecture.py tests/test_logs.py tests/config tests/storage tests/reporting tests/server/access

.PHONY: demo test tests check quick coverage drills bench lint types clean

demo: $(READY)
	$(BIN)/ztp launch demo

# types are checked beside the tests: mypy takes one core only
test: lint
	$(MAKE) --no-print-directory --jobs 2 types tests

tests: $(READY)
	$(TEST_ENV) $(BIN)/pytest -n 2 --dist worksteal

# mypy takes one core for as long as these tests take two
check: lint
	$(MAKE) --no-print-directory --jobs 2 types quick

quick: $(READY)
	$(TEST_ENV) $(BIN)/pytest -q -n 2 -m "not slow and not drill and not fault" $(QUICK)

coverage: $(READY)
	$(TEST_ENV) $(BIN)/pytest -n 2 --dist worksteal --cov --cov-report=term-missing

drills: $(READY)
	$(TEST_ENV) $(BIN)/pytest -m "drill or fault" --timeout 7200

bench: $(READY)
	$(BIN)/python -m tests.benchmarks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) .coverage* build *.egg-info .pytest_cache .mypy_cache .ruff_cache
