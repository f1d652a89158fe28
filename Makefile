# Every target works in a fresh clone: the first one run builds .venv.
# `make PYTHON=python3.12 test` chooses the interpreter (3.10 or newer).

PYTHON ?= python3
BIN := .venv/bin
# The models here are small: one thread each, and one test worker per core.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint docs dist notebooks browser bench clean

demo: .venv/.ready
	$(BIN)/python -m secondorder demo --out figures

test: .venv/.ready
	$(BIN)/python -m pytest --numprocesses auto --quiet

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, docs/_build/html: warnings are errors, links and names are looked up.
docs: .venv/.docs
	$(BIN)/python -m sphinx -b html -q -W --keep-going docs docs/_build/html
	$(BIN)/python docs/check.py docs/_build/html

# A wheel that installs into an empty environment and runs there.
dist: .venv/.ready
	rm -rf dist build .venv/dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv .venv/dist
	.venv/dist/bin/python -m pip install --quiet --constraint constraints.txt \
		dist/*.whl
	cd .venv/dist && bin/python -m secondorder --version
	cd .venv/dist && bin/python -m secondorder demo --quick --out figures

# Run every notebook from top to bottom and keep the new outputs.
notebooks: .venv/.ready
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

# Click at the pages of so.plot.interactive; needs chromium (or CHROMIUM=path).
browser: .venv/.ready
	$(BIN)/python tests/browser/check_page.py

bench: .venv/.bench
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv build dist figures docs/_build *.egg-info

# constraints.txt pins torch==2.13.0 and what the tests ran with.
.venv/.ready: setup.cfg constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		--editable '.[test]'
	touch $@

.venv/.docs: .venv/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		--editable '.[docs]'
	touch $@

.venv/.bench: .venv/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		--editable '.[bench]'
	touch $@
