# Every target does its own set-up: it makes .venv when that is missing or older than pyproject.toml.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
PARALLEL := -n auto --maxprocesses 8 --dist worksteal  # a process per core, one thread each

.PHONY: setup demo test slow faults fuzz check format docs linkcheck clean

setup: $(READY)

demo: $(READY)
	$(RUN) -m ssdnorm compare --config compare_quickstart --output runs/demo --jobs 2

test: $(READY)
	$(RUN) -m pytest $(PARALLEL)

slow: $(READY)
	$(RUN) -m pytest $(PARALLEL) -m slow

faults: $(READY)  # kills, full disks, two owners: a table of what was tried and what failed
	$(RUN) -m tests.faults

fuzz: $(READY)  # ten thousand hostile files and settings of each kind: the same table
	$(RUN) -m tests.fuzz

check: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(READY)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docs: $(READY)  # into docs/_build/html; a warning, such as a broken link between pages, is an error
	$(RUN) -m sphinx -W --keep-going -b html docs docs/_build/html

linkcheck: $(READY)  # the links to other sites, which needs a network
	$(RUN) -m sphinx -b linkcheck docs docs/_build/linkcheck

clean:
	rm -rf $(VENV) runs/demo docs/_build docs/generated .pytest_cache .mypy_cache .ruff_cache .hypothesis dist

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	@touch $(READY)
