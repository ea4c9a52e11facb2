PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test slow lint types format docs clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: $(READY)  ## train on Ga18 for about three minutes; structures, learning curve and table in runs/
	$(BIN)/python agents/ppo_train.py --name demo --n 18 --num_steps 60000 --max_time 170
	$(BIN)/python structures.py --symbols=X,Ga --unique --poscar runs/poscar

test: $(READY)  ## lint and the test suite (some minutes)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n 2 -m "not slow"

slow: $(READY)  ## the tests that take minutes each
	$(BIN)/python -m pytest -n 2 -m slow

lint: $(READY)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy on the wheel, as installed
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w build/wheel .
	cd build/wheel && unzip -q *.whl && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml -p megen_gym

format: $(READY)  ## let ruff rewrite
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## the pages as a site that opens offline, build/site/index.html
	$(BIN)/python -c "import furo, myst_parser" 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/python docs/build.py
	rm -rf build/site build/doctrees
	$(BIN)/python -m sphinx -q -W --keep-going -d build/doctrees -c docs . build/site

clean:  ## remove what was built, but no runs
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
