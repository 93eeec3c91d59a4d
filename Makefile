# The two doors: `make demo` and `make test`. Both set up what they need.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export OMP_NUM_THREADS ?= 1
export TQDM_MININTERVAL ?= 1

.PHONY: demo test test-slow contract check format phenomena table1-mini robustness-mini crossed-mini setup

demo: setup ## erase nudity from the embedded model with DM2, attack it, score it, report
	snakemake --cores 2 results/nudity/dm2/table.csv
	@echo "The page: results/report.html"

test: setup check ## everything but the slow tests
	pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-slow: setup ## the minutes-long ones
	pytest -m slow

contract: setup ## what Snakemake, DVC and the disk promise one another, in throw-away clones (half an hour)
	tests/contract.sh

check: setup ## style, types, import rules, the graph
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	mypy
	lint-imports --no-cache
	snakemake -n --quiet all

format: setup
	ruff check --fix .
	ruff format .
	snakefmt Snakefile rules

phenomena: setup ## the published phenomena on the embedded model, three seeds, into docs/phenomena.md
	snakemake --cores 2 docs/phenomena.md

table1-mini: setup ## every method beside every concept on the embedded model, into docs/table1-mini.md (hours; goes on where it was)
	snakemake --cores 2 --keep-going docs/table1-mini.md

robustness-mini: setup ## attacks beside methods over three seeds, into docs/robustness-mini.md (hours; goes on where it was)
	snakemake --cores 2 --keep-going docs/robustness-mini.md

crossed-mini: setup ## every attack beside every method on church and nudity, into docs/crossed-mini.md (hours; goes on where it was)
	snakemake --cores 2 --keep-going docs/crossed-mini.md

setup: .venv/ok

.venv/ok: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "palimpsest: $(PYTHON) is older than 3.11; say make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[judges,metrics,prompts,dev]'
	touch $@
