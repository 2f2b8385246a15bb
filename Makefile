# Two commands do everything on a fresh machine with Python 3.11 or newer: `make demo`, `make test`.
PYTHON ?= python3
VENV ?= .venv
SCALE ?= laptop
OUT ?= runs/demo-$(SCALE)
WORKERS ?= auto
NOTEBOOKS ?= notebooks

BIN = $(VENV)/bin
# pyenv's shims refuse a version that is installed but not selected: select it.
FIND = version=$$(printf '%s' "$(PYTHON)" | sed -n 's/^python\(3\.[0-9]*\)$$/\1/p'); \
	if ! $(PYTHON) --version >/dev/null 2>&1 && command -v pyenv >/dev/null && [ -n "$$version" ]; then \
	  PYENV_VERSION=$$(pyenv versions --bare | grep "^$$version\." | tail -1); export PYENV_VERSION; fi

.PHONY: help demo test test-slow check bench bench-peers bench-compare bench-report notebooks docs clean

help:  ## show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(BIN)/.installed: pyproject.toml
	@$(FIND); $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "landscape needs Python 3.11 or newer; '$(PYTHON)' is not: try make PYTHON=python3.12"; exit 2; }
	@echo "making a virtual environment in $(VENV) and installing (a minute or two) ..."
	@$(FIND); $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(BIN)/.installed  ## train, measure and report on the digits; SCALE=smoke|laptop, OUT=folder
	@echo "comparing plain, residual and hyper-residual networks on the digits ($(SCALE) scale) ..."
	@$(BIN)/landscape reproduce fig3 --scale $(SCALE) --out $(OUT) --resume

test: $(BIN)/.installed  ## the suite, doctests included: under ten minutes on two cores
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -q -m "not slow"

test-slow: $(BIN)/.installed  ## its slow part: whole runs, processes that are killed, many cases
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -q -m slow

check: $(BIN)/.installed  ## ruff, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(BIN)/.installed  ## the benchmark suite, quick; NAMES="kernels resolve", FLAGS=--full
	$(BIN)/python benchmarks/run.py $(NAMES) $(FLAGS)

bench-peers: $(BIN)/.installed  ## others on the same work, each in an environment made here; FLAGS=--quick
	$(BIN)/python benchmarks/side_by_side.py $(NAMES) $(FLAGS)

bench-compare: $(BIN)/.installed  ## two result files side by side: BEFORE=a.json AFTER=b.json
	@$(BIN)/python benchmarks/compare.py $(BEFORE) $(AFTER)

bench-report: $(BIN)/.installed  ## docs/benchmarks.md from the results
	$(BIN)/python benchmarks/report.py

notebooks: $(BIN)/.installed  ## execute notebooks/*.py into notebooks/*.ipynb; NOTEBOOKS=folder for elsewhere
	@mkdir -p $(NOTEBOOKS)
	@ls notebooks/*.py | xargs -P 2 -I{} sh -c '$(BIN)/jupytext --quiet --to ipynb --execute \
	  --output $(NOTEBOOKS)/$$(basename {} .py).ipynb {} && echo "{} done"'

docs: $(BIN)/.installed  ## the documentation site, strictly, into docs/_build/html
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	$(BIN)/python docs/check_links.py docs/_build/html

clean:  ## remove the virtual environment, caches and the built documentation
	rm -rf docs/_build docs/tutorials docs/api/generated docs/api/*.rst \
	  $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
