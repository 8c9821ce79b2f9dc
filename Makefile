# `make demo` and `make test` need nothing but Python >= 3.11 and make: they set up .venv themselves.
PYTHON ?= python3
VENV := .venv
PY := $(abspath $(VENV))/bin/python
PAPER1 := solutions/paper1_world_models

.PHONY: demo test test-slow chaffs lint clean

$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -r requirements.txt
	touch $@

demo: $(VENV)/installed  ## train World Models on TinyRacer, evaluate it, draw its dreams (about 6 minutes on 2 cores)
	cd $(PAPER1) && $(PY) train.py --preset tiny
	cd $(PAPER1) && $(PY) eval.py --checkpoint model.pt --episodes 20 --render
	cd $(PAPER1) && $(PY) visualize.py --checkpoint model.pt --num-dreams 5

test: $(VENV)/installed  ## everything quick: at most 5 minutes on 2 cores
	$(PY) -m pytest --impl solutions

test-slow: $(VENV)/installed  ## what takes longer: training runs, kill and resume, several processes
	OMP_NUM_THREADS=1 $(PY) -m pytest --impl solutions --slow -m slow -n 2

chaffs: $(VENV)/installed  ## prove the tests: wrong answers they must reject, right ones they must accept
	$(PY) -m tests.chaffs.run

lint: $(VENV)/installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache
