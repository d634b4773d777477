# `make demo` and `make test` do all their own set-up, in .venv; nothing else on the machine is touched.

VENV := .venv
READY := $(VENV)/.ready
# Python 3.11 is what .ci/cpu-lock.txt was made for; others from 3.10 on usually do.
BASE_PYTHON := $(shell command -v python3.11 || command -v python3)
PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check
UV := $(VENV)/bin/uv --quiet

# Compiled modules are kept on first import: each vLLM engine process would otherwise compile thousands anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo docs figures pythons nightly test compat clean

setup: $(READY)

# Fast plans only: one locked list without dependency resolution, no compilation of modules that are never imported.
# torch comes through pip, which reads this machine's own configuration (a local CPU build, where there is one).
$(READY): .ci/cpu-lock.txt setup.py pyproject.toml Makefile
	@echo "Installing into $(VENV) (a minute or two the first time, about 3.5 GB)"
	test -x $(VENV)/bin/python || $(BASE_PYTHON) -m venv $(VENV)
	$(PIP) install --no-compile uv
	$(PIP) install --no-compile torch==2.13.0
	$(UV) pip install --python $(VENV)/bin/python --no-deps -r .ci/cpu-lock.txt \
		|| $(PIP) install --no-compile --no-deps -r .ci/cpu-lock.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(VENV)/bin/python -m vllm_specflash.cpu_setup
	touch $(READY)

demo: $(READY)
	$(VENV)/bin/specflash demo

test: $(READY)
	$(VENV)/bin/pytest --ignore=tests/compat --ignore=tests/nightly $(ARGS)

# Pages in build/site, warnings as errors.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict $(ARGS)

# Figures in README and on pages, from the records in docs/results; `make test` fails where they differ.
figures: $(READY)
	$(VENV)/bin/python docs/hooks/figures.py

# Which Pythons from 3.10 to 3.13 are here, and on each: an installation of the package, its commands and every module compiled.
pythons: $(READY)
	.ci/pythons

# Commands of README and pages, run for real on tiny models: the better part of an hour.
nightly: $(READY)
	$(VENV)/bin/pytest tests/nightly $(ARGS)

# Needs the network once per vLLM release checked; says so and skips without it.
compat: $(READY)
	$(VENV)/bin/pytest tests/compat -rs $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info
