# Every target works in a fresh clone: the first one run builds .venv.
# `make PYTHON=python3.12 test` chooses the interpreter (3.10 or newer).

PYTHON ?= python3
BIN := .venv/bin
# The models here are small: one thread each, and one test worker per core.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint notebooks browser bench clean

demo: .venv/.ready
	$(BIN)/python -m secondorder demo --out figures

test: .venv/.ready
	$(BIN)/python -m pytest --numprocesses auto --quiet

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Run every notebook from top to bottom and keep the new outputs.
notebooks: .venv/.ready
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

# Click at the pages of so.plot.interactive; needs chromium (or CHROMIUM=path).
browser: .venv/.ready
	$(BIN)/python tests/browser/check_page.py

bench: .venv/.bench
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv build figures *.egg-info

# constraints.txt pins torch==2.13.0 and what the tests ran with.
.venv/.ready: setup.cfg constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		--editable '.[test]'
	touch $@

.venv/.bench: .venv/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		--editable '.[bench]'
	touch $@
