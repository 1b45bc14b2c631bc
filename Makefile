# `make demo` and `make test` do all the set-up: each makes .venv when it is missing or older than pyproject.toml.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
PARALLEL := -n auto --maxprocesses 8 --dist worksteal  # a process per core, one thread each

.PHONY: demo test slow faults check format clean

demo: $(READY)
	$(RUN) scripts/compare.py --config compare_quickstart --output runs/demo --jobs 2

test: $(READY)
	$(RUN) -m pytest $(PARALLEL)

slow: $(READY)
	$(RUN) -m pytest $(PARALLEL) -m slow

faults: $(READY)  # kills, full disks, two owners: a table of what was tried and what failed
	$(RUN) -m tests.faults

check: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(READY)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf $(VENV) runs/demo .pytest_cache .mypy_cache .ruff_cache .hypothesis dist

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)
