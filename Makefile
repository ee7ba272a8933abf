# make demo   the whole flywheel on sample articles: no key, no network after the install
# make up     PostgreSQL, the Dagster UI at http://127.0.0.1:3000 and its daemon
# make test   every test but those of the four suites below
# make test-hostile   what the world does to it: strangers, web pages, kills, full disks, clocks that jump
# make test-ui   `qbawa up` and the Dagster UI by clicks in Chromium, its schedules and sensors among them
# make screenshots   the same, which makes the pictures of docs/images anew
# make test-clients   the client libraries that are recorded, each in an environment of its own (build/clients)
# make test-installed   the wheel, built and run in an environment of its own
# make test-fast   the inner loop, within a minute: without Dagster, Chromium and whatever is marked slow
# make check  format, lint, types, which room may import which
# make lock   resolve the locked requirements again
# make release  wheel, sdist and checksums into dist/, then the tag; uploads nothing (CONTRIBUTING.md)
.PHONY: demo up test test-fast test-hostile test-ui test-clients screenshots test-installed check format lock release clean install

PYTHON ?= python3
BIN := .venv/bin

demo: .venv/installed
	@$(BIN)/qbawa demo

up: .venv/installed
	@exec $(BIN)/qbawa up

# Tests start dozens of processes that import Dagster; without bytecode each would compile it all again.
# They sync to disk thousands of times; where memory has the room, their files lie there.
ROOMY := $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 4000000 {print "TMPDIR=/dev/shm"}')
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(ROOMY) $(BIN)/python -m pytest
# One more than cores, since a test that waits for a disk, a daemon or a kill leaves its core idle.
WORKERS ?= 3

test: .venv/installed
	$(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not installs and not hostile and not ui and not clients"

test-hostile: .venv/installed
	$(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m hostile

test-ui: .venv/installed
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder -m ui

screenshots: .venv/installed
	QBAWA_SCREENSHOTS=docs/images $(PYTEST) -m ui

test-clients: .venv/installed
	$(PYTEST) -n 2 --dist loadgroup -m clients tests/clients

test-installed: .venv/installed
	$(PYTEST) -m installs

test-fast: .venv/installed
	$(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow and not installs and not hostile and not ui and not clients" --ignore tests/dagster

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: .venv/installed

# uv installs in seconds what takes pip a minute; pip is the way out where uv cannot reach the package index. Bytecode is
# compiled at once, as pip does: where PYTHONDONTWRITEBYTECODE is set, every command would compile Dagster again (4 s).
.venv/installed: requirements.lock requirements-bootstrap.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else "qbawa needs Python 3.11 to 3.13, and $(PYTHON) is %d.%d. Name another one: make PYTHON=python3.12" % v[:2])'
	@echo "Installing into .venv (once, one to three minutes) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.lock
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes --requirement requirements.lock \
		|| $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

lock: .venv/installed
	$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --extra pipeline --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-strip-extras --no-header --output-file requirements.lock

release: .venv/installed
	@$(BIN)/python tools/release.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache dist
