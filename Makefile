# The two commands that matter: `make demo` and `make test`. All commands set up what they need in .venv first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/installed

.PHONY: demo test coverage test-slow mutate matrix bench bench-serving bench-views release-check lint types docs clean

# ARGS are passed on: make demo ARGS="--loss infonce --temperature 0.2 --dataset cifar10"
demo: $(INSTALLED)
	$(RUN) examples/demo.py $(ARGS)

# Two processes for all tests, one for a part: `make test ARGS="tests/losses -x"`.
IN_PARALLEL := --numprocesses=2 --dist=loadfile
test: $(INSTALLED)
	$(RUN) -m pytest $(or $(ARGS),$(IN_PARALLEL))

# Branch coverage of the fast tests, as a table and in htmlcov/.
coverage: $(INSTALLED)
	$(RUN) -m pytest $(IN_PARALLEL) --cov --cov-report=term --cov-report=html $(ARGS)

# The slow tests, then some mutations. KERAS_TFCL_TEST_MINUTES=20 takes a fair sample of the tests for 20 minutes.
# Without it, each folder has a process of its own: what XLA has compiled stays in memory until its process ends.
SLOW := $(sort $(wildcard tests/*/)) $(wildcard tests/test_*.py)
NO_TESTS := 5 # exit code of pytest
test-slow: $(INSTALLED)
ifneq ($(ARGS)$(KERAS_TFCL_TEST_MINUTES),)
	$(RUN) -m pytest -m slow $(ARGS)
else
	failed=0; for part in $(SLOW); do $(RUN) -m pytest -m slow $$part || [ $$? -eq $(NO_TESTS) ] || failed=1; done; \
		exit $$failed
endif
	$(if $(ARGS),,$(MAKE) mutate)

# Changes keras_tfcl/ops in MUTATIONS random places, in a copy, and lists the changes that no test notices: about a
# quarter of an hour of processor time for twenty.
MUTATIONS ?= 20
MUTANTS := build/mutants
mutate: $(INSTALLED)
	rm -rf $(MUTANTS) && mkdir -p $(MUTANTS) && cp -r keras_tfcl export tests tools pyproject.toml $(MUTANTS)
	cd $(MUTANTS) && export PATH="$(CURDIR)/$(VENV)/bin:$$PATH" PYTHONPATH="$(CURDIR)/$(MUTANTS)" && \
		cosmic-ray init pyproject.toml session.sqlite && \
		cr-filter-operators session.sqlite pyproject.toml && \
		python tools/sample_mutations.py session.sqlite $(MUTATIONS) && \
		cosmic-ray baseline pyproject.toml && \
		cosmic-ray exec pyproject.toml session.sqlite && \
		cr-report --surviving-only --show-diff session.sqlite && \
		cr-rate --fail-over 20 session.sqlite

# Losses beside those of other libraries, which live in an environment of their own; then ours in turn in one process.
bench: $(INSTALLED) $(VENV)-bench/installed
	$(RUN) examples/speed/losses.py --peers $(VENV)-bench/bin/python $(ARGS)
	$(RUN) examples/speed/in_turn.py

# The server under load: table and figure in examples/results.
bench-serving: $(INSTALLED)
	$(RUN) examples/speed/serving.py $(ARGS)

# Views of photographs beside torchvision's transforms, on JPEG files.
bench-views: $(INSTALLED) $(VENV)-bench/installed
	$(RUN) examples/speed/views.py --peers $(VENV)-bench/bin/python $(ARGS)

# The fast tests on every Python and with the oldest and newest packages: make matrix ARGS="-s lowest -- tests/losses"
matrix: $(INSTALLED)
	$(RUN) -m nox $(ARGS)

# Builds sdist and wheel and tries them in clean environments, on every Python: make release-check ARGS="-p 3.12"
release-check: $(INSTALLED)
	$(RUN) -m nox -s release $(ARGS)

lint: $(INSTALLED) types
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .

types: $(INSTALLED)
	$(RUN) -m mypy

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict $(ARGS)

$(INSTALLED): pyproject.toml
	$(PYTHON) -c "import sys; sys.exit('Python 3.11, 3.12 or 3.13 is needed, this is ' + sys.version.split()[0] + ': make PYTHON=python3.12 ...' if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0)"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable ".[dev]"
	touch $@

# Torch first and the rest without dependencies: they would replace a CPU build of torch by a CUDA build.
TORCH ?= torch==2.13.0
$(VENV)-bench/installed:
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --quiet "$(TORCH)"
	$(VENV)-bench/bin/python -m pip install --quiet numpy scikit-learn transformers ftfy regex pillow requests aenum rich
	$(VENV)-bench/bin/python -m pip install --quiet jax optax
	$(VENV)-bench/bin/python -m pip install --quiet --no-deps lightly lightly-utils pytorch-metric-learning timm \
		open_clip_torch sentence-transformers torchvision pytorch-lightning torchmetrics lightning-utilities
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-bench build dist site htmlcov .coverage *.egg-info .nox .pytest_cache .ruff_cache .mypy_cache .hypothesis
