# make        the study: environment, then every stage whose inputs changed
# make test   all checks: style, types, documentation, tests
# make docs   the documentation, in site/index.html
PYTHON ?= python3
INSTALLED := .venv/installed
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: study test docs clean
study: $(INSTALLED)
	dvc repro

test: $(INSTALLED)
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	pytest

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 mkdocs build

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $@

clean:
	rm -rf .venv .cells site
