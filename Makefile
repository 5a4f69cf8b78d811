PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
# Two processes of one thread: small operations do not gain from two. A process that has no test left takes half of the
# other's, from the end; until then neighbors stay together, and so share what they prepare.
PYTEST := OMP_NUM_THREADS=1 $(RUN)/python -m pytest --numprocesses 2 --dist worksteal

.PHONY: .venv demo demo-detect test test-slow test-all test-lowest test-timm check docs bench bench-gpu clean

# The environment, with everything that the demo and the tests need. Made anew when pyproject.toml changes.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'Python 3.10 or newer is needed: make PYTHON=...')"
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

.venv: $(VENV)/.installed

# Embedded data, a classifier, then SegMAN-V2 on its backbone; writes demo/report.json and demo/report.html.
demo: $(VENV)/.installed
	$(RUN)/a2mamba demo demo --overwrite

# The classifier, then a detector on its backbone, in demo-detect/.
demo-detect: $(VENV)/.installed
	$(RUN)/a2mamba demo demo-detect --tasks detection --overwrite

# The small form of every check; CI runs it first.
test: check
	$(PYTEST)

# What is marked `slow`: the full-size forms. OPTIONS are for pytest.
test-slow: $(VENV)/.installed
	$(PYTEST) -m slow $(OPTIONS)

test-all: test test-slow

# The lower bounds that pyproject.toml declares, in an environment of their own.
test-lowest: $(VENV)/.installed
	$(RUN)/python benchmarks/lowest_versions.py

# Saved folders and the examples with the lowest timm that pyproject.toml declares, beside the newest of all else.
test-timm: $(VENV)/.installed
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv-timm \
		"timm==$$(sed -n 's/.*"timm>=\([0-9.]*\)".*/\1/p' pyproject.toml)"
	PYTHONPATH=$(CURDIR)/.venv-timm $(RUN)/python -m pytest tests/hub tests/examples

check: $(VENV)/.installed
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

# The documentation as a site, in site/; anything that a reader would stumble over is an error.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --strict

# On CPUs: the first table of docs/benchmarks/cpu.md; its page has the commands of the others.
bench: $(VENV)/.installed
	$(RUN)/a2mamba bench --models convnext_tiny swin_tiny_patch4_window7_224 a2mamba_tiny a2mamba_nano --threads 2

# On a GPU: checks, operators and models; writes results/gpu.json and results/gpu.md.
bench-gpu: $(VENV)/.installed
	$(RUN)/python benchmarks/gpu.py

clean:
	rm -rf $(VENV) .venv-lowest .venv-timm demo demo-detect runs build dist site
