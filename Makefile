# make        the study: environment, then every stage whose inputs changed
# make test   all checks: style, types, tests
PYTHON ?= python3
INSTALLED := .venv/installed
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: study test clean
study: $(INSTALLED)
	dvc repro

test: $(INSTALLED)
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	pytest

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $@

clean:
	rm -rf .venv .cells
