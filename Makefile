# Everything a user or a developer of batchqa does, as one word each. `make help` lists them.
# Each target makes the environment that it needs in .venv, once; repeated calls are quick.

PYTHON ?= python3
TORCH ?= torch==2.13.0
# three at once on two cores: tests wait for processes and servers a good part of their time
PYTEST_ARGS ?= -n 3 --dist loadfile

# Data and models outside the project; tests and benchmarks that need them are skipped where they are absent.
override BATCHQA_DATA := $(abspath $(or $(BATCHQA_DATA),../shared/data))
override BATCHQA_MODELS := $(abspath $(or $(BATCHQA_MODELS),../shared/models))
export BATCHQA_DATA BATCHQA_MODELS

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CONSTRAINTS := requirements/constraints-cpu.txt
RUNNABLE := .venv/.installed-run
DEVELOPER := .venv/.installed-all

.DELETE_ON_ERROR:
.PHONY: help demo setup check format test test-quick test-slow test-faults bench bench-full bench-gpu bench-host bench-endurance bench-processes bench-scaling bench-scoring docs bundled-model clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(RUNNABLE)  ## annotate sample_data with the model in the package and show the answers
	$(BIN)/batchqa run sample_data/sample.jsonl -o demo.out.parquet --overwrite
	$(BIN)/python sample_data/show.py demo.out.parquet
	$(BIN)/batchqa run sample_data/documents.jsonl -o demo.documents.parquet --overwrite \
		--questions sample_data/questions.toml --layout wide --limit 10
	$(BIN)/python sample_data/show.py demo.documents.parquet

setup: $(DEVELOPER)  ## make or upgrade .venv with all that a developer needs, the extra `export` too

check: $(DEVELOPER)  ## format, lint, types, import contracts, generated documents
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/make_cli.py --check

format: $(DEVELOPER)  ## format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(DEVELOPER)  ## the tests, but for slow ones and fault injection
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-quick: $(DEVELOPER)  ## the core of the tests: at most three minutes
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not slow and not faults and not long"

test-slow: $(DEVELOPER)  ## parity, equality, memory, wheel: minutes; needs BATCHQA_DATA and BATCHQA_MODELS
	$(BIN)/python -m pytest -m slow --timeout 3600

test-faults: $(DEVELOPER)  ## kills, broken storage, damaged files
	$(BIN)/python -m pytest -m faults --timeout 3600

bench: $(DEVELOPER)  ## rows per second compared with other tools
	$(BIN)/python benchmarks/compare.py

bench-full: $(DEVELOPER)  ## the same with every contender and every mix of rows: hours
	$(BIN)/python benchmarks/compare.py --lineup full

bench-gpu: $(DEVELOPER)  ## the table on one CUDA device; needs a driver and the extra `cuda`
	$(BIN)/python benchmarks/compare.py --lineup gpu

bench-host: $(DEVELOPER)  ## the cost of a row apart from the model, step by step
	$(BIN)/python benchmarks/host.py

bench-endurance: $(DEVELOPER)  ## does a run of a million rows slow down or grow
	$(BIN)/python benchmarks/endurance.py

bench-processes: $(DEVELOPER)  ## rows per second of --processes 1 and 2 with a tiny model
	$(BIN)/python benchmarks/processes.py

bench-scaling: $(DEVELOPER)  ## how cost grows, up to a million rows, and what --dry-run says of it
	$(BIN)/python benchmarks/scaling.py

bench-scoring: $(DEVELOPER)  ## a million predictions scored, and by the official algorithm in plain Python
	$(BIN)/python benchmarks/scoring.py

docs: $(DEVELOPER)  ## regenerate docs/cli.md from the commands' --help
	$(BIN)/python docs/make_cli.py

bundled-model: $(DEVELOPER)  ## train, export and tune the package's model: hours, resumable
	$(BIN)/python scripts/make_bundled_model.py $(BATCHQA_MODELS)/minilm-l6-squad2

clean:  ## remove the environment and all generated files
	rm -rf .venv .bench .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -rf build dist demo.out.parquet demo.out.parquet.batchqa demo.documents.parquet
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "batchqa needs Python 3.11 or later: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv

$(RUNNABLE): pyproject.toml batchqa/version.py $(CONSTRAINTS) | .venv/bin/python
	$(PIP) -c $(CONSTRAINTS) -e .
	@touch $@

# torch by itself and first: with its version fixed pip takes the wheel at hand, while a range, resolved
# together with the rest, can draw gigabytes of CUDA libraries.
$(DEVELOPER): pyproject.toml batchqa/version.py $(CONSTRAINTS) | .venv/bin/python
	$(PIP) $(TORCH)
	$(PIP) -c $(CONSTRAINTS) -e '.[train,openvino,report,dev]'
	@touch $(RUNNABLE) $@
