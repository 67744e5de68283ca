# One door: `make` lists what there is. Every target installs what it needs first; a second run finds it there.
#
#   ARGS="..."    more arguments for the program or for pytest:  make test ARGS="-k wal -x"
#   WORKERS=2     test files that run at a time (0: one after the other, in this process)
#   PYTHON=...    the Python (>= 3.11) to make .venv with; without it the newest known one on PATH
#   SECONDS=60    for `make fuzz`: how long each parser is tried; PARSERS="..." are those that are
#   MINUTES=15    for `make soak`; SEED=... makes the decisions of a run again
#   USE_UV=1      install with uv instead of pip

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules
BIN := .venv/bin
ARGS ?=
WORKERS ?= 2
SECONDS = 60
MINUTES = 15
SEED =
PARSERS = pgoutput server_bytes stream_frame copy_rows wire_message mailbox_bytes
export PYTHON USE_UV

.PHONY: help
help: ## list the targets
	@echo 'ETL Stream: PostgreSQL changes into Snowflake. Targets:'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done
	@echo 'Variables: ARGS="..." (for the program or pytest), PYTHON=python3.12, USE_UV=1'

# A terminal's Ctrl-C reaches the program directly, and once: the recipe is the program alone, make only waits for it.
.PHONY: run
run: .installed-embedded ## run the supervisor (Ctrl-C drains and stops)
	@$(BIN)/etl-supervisor run $(ARGS)

.PHONY: demo
demo: .installed-embedded ## run everything on this machine alone: shop, pipeline, local Snowflake, comparison
	@$(BIN)/etl-supervisor demo $(ARGS)

.PHONY: install
install: .installed-dev ## make .venv and install everything, with the tools for development

.PHONY: test
test: .installed-dev ## run all tests, WORKERS files at a time
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile $(ARGS)

.PHONY: test-matrix
test-matrix: .installed-dev ## run the reader's tests against PostgreSQL 14 to 18 (fetches what is missing, 100 MB unpacked)
	@scripts/fetch_postgres_versions.sh
	@$(BIN)/pytest tests/postgres/test_decode_postgres.py tests/postgres/test_versions.py $(ARGS)

.PHONY: soak
soak: .installed-dev ## change rows under MINUTES=15 of faults decided by SEED, and compare everything afterwards
	@PYTHONPATH=. $(BIN)/python -m scripts.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: bench-reader
bench-reader: .installed-dev ## measure the reader against pg_recvlogical (10 minutes)
	@$(BIN)/python -m scripts.bench_reader $(ARGS)

.PHONY: bench-copy
bench-copy: .installed-dev ## measure first copies: read, stored, a thousand tables, after crashes (15 minutes)
	@$(BIN)/python -m scripts.bench_copy $(ARGS)

.PHONY: bench-api
bench-api: .installed-embedded ## measure the lists of the REST API at 200 requests per second (half a minute)
	@PYTHONPATH=. $(BIN)/python scripts/bench_api.py $(ARGS)

.PHONY: leak
leak: .installed-embedded ## look for leaks: half an hour of changes, kills and questions
	@PYTHONPATH=. $(BIN)/python scripts/leak.py $(ARGS)

.PHONY: fuzz
fuzz: .installed-fuzz ## try broken bytes on every parser, SECONDS each; what breaks one is kept in .local/fuzz
	@set -e; for parser in $(PARSERS); do $(BIN)/python -m tests.fuzz.run $$parser $(SECONDS) .local/fuzz/$$parser; done

.PHONY: bench-load
bench-load: .installed-embedded ## measure the way into Snowflake: encoder, rows per second, latency, memory (minutes)
	@PYTHONPATH=. $(BIN)/python scripts/bench_load.py $(ARGS)

.PHONY: check
check: lint ## lint, scan for secrets, audit dependencies, then the tests that take seconds (unit, property, architecture)
	@$(BIN)/python scripts/scan_secrets.py
	@$(BIN)/python scripts/audit_dependencies.py
	@$(BIN)/pytest -m 'not slow' tests/unit tests/property tests/architecture $(ARGS)

.PHONY: lint
lint: .installed-dev ## format check, lint, types, borders between packages
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy etl_supervisor workers migrations
	@$(BIN)/lint-imports

.PHONY: format
format: .installed-dev ## format the code and repair what the linter can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: hooks
hooks: .installed-dev ## let git run `make lint` before a commit and `make check` before a push
	@$(BIN)/pre-commit install --config .ci/pre-commit.yaml --hook-type pre-commit --hook-type pre-push

.PHONY: docs
docs: .installed-dev ## write docs/types.md, docs/metrics.md and the dashboard from the code
	@PYTHONPATH=. $(BIN)/python scripts/write_types.py
	@PYTHONPATH=. $(BIN)/python scripts/write_metrics.py
	@PYTHONPATH=. $(BIN)/python scripts/write_dashboard.py

.PHONY: constraints
constraints: .installed-dev ## write the installed versions to scripts/constraints.txt
	@scripts/write_constraints.sh

.PHONY: clean
clean: ## remove .venv, caches and build products; the data in .local stays
	rm -rf .venv .bootstrap build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: clean-data
clean-data: ## remove .local: the embedded databases with everything in them
	@scripts/remove_data.sh

# Not files: scripts/bootstrap.sh looks itself whether there is something to do (20 ms when there is not).
.PHONY: .installed-embedded .installed-dev .installed-fuzz
.installed-embedded .installed-dev .installed-fuzz:
	@scripts/bootstrap.sh $(@:.installed-%=%)
