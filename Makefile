# The two commands that matter: `make demo` and `make test`. Both set up what they need in .venv first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/installed

.PHONY: demo test test-slow lint clean

# ARGS are passed on: make demo ARGS="--loss infonce --temperature 0.2 --dataset cifar10"
demo: $(INSTALLED)
	$(RUN) examples/demo.py $(ARGS)

test: $(INSTALLED)
	$(RUN) -m pytest $(ARGS)

test-slow: $(INSTALLED)
	$(RUN) -m pytest -m slow $(ARGS)

lint: $(INSTALLED)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .

$(INSTALLED): pyproject.toml
	$(PYTHON) -c "import sys; sys.exit('Python 3.11, 3.12 or 3.13 is needed, this is ' + sys.version.split()[0] + ': make PYTHON=python3.12 ...' if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0)"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build dist runs *.egg-info .pytest_cache .ruff_cache .hypothesis
