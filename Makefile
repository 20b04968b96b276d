# `make demo` and `make test` set everything up from Python 3.11 and this directory alone.
PYTHON ?= python3.11
BIN := .venv/bin
DEMO ?=
# Tests run in so many processes, a file in one of them: what a file sets up is set up once. Long files first.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all test-postgres check lock clean

demo: .venv/.ready
	$(BIN)/fedfer demo --output demo-out $(DEMO)

test: check
	$(PYTEST) -m "not slow"

# With the slow ones; and every process is started as a person starts it (tests/prepared.py).
test-all: check
	FEDFER_TEST_COMMANDS=started $(PYTEST)

# The tests that run an aggregator, on PostgreSQL instead of SQLite; skipped where there is none.
test-postgres: .venv/.ready
	FEDFER_TEST_DATABASE=postgresql $(PYTEST) -m "not slow" tests/test_store.py \
	  $$(grep -lE "^from (server|run)_helpers" tests/test_*.py tests/attacks/test_*.py)

check: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/.ready: requirements.lock pyproject.toml editable_links.py
	@echo "Setting up .venv from requirements.lock (about 2 GB on disk, minutes the first time) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Resolves the newest allowed versions anew; needs uv on the path.
lock:
	uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --quiet -o requirements.lock

clean:
	rm -rf .venv .editable demo-out dist
