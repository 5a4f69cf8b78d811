PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

.PHONY: .venv demo test check bench clean

# The environment, with everything that the demo and the tests need. Made anew when pyproject.toml changes.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'Python 3.10 or newer is needed: make PYTHON=...')"
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

.venv: $(VENV)/.installed

# Embedded data, training, evaluation, prediction; writes demo/report.json and demo/report.html.
demo: $(VENV)/.installed
	$(RUN)/a2mamba demo demo --overwrite

# Everything that CI runs.
test: check
	$(RUN)/python -m pytest

check: $(VENV)/.installed
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

bench: $(VENV)/.installed
	$(RUN)/python benchmarks/models.py

clean:
	rm -rf $(VENV) demo runs build dist
