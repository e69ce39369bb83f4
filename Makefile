# make demo, make test: each does all the set-up it needs. PYTHON chooses the interpreter of the new environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test lint clean
setup: $(READY)

# torch first: the extension is compiled against it, and the other packages then find it in place.
$(READY): setup.py pyproject.toml constraints.txt $(wildcard csrc/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt pip setuptools wheel
	$(BIN)/python -m pip install --quiet -c constraints.txt torch numpy
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[dali,test]" triton
	touch $@

demo: setup
	$(BIN)/mae-fast data photos demo/photos
	$(BIN)/mae-fast pretrain --config benchmarks/demo.yaml
	$(BIN)/mae-fast reconstruct --checkpoint demo/run/checkpoint-149.pth --images demo/photos/val --limit 6 --out demo/reconstructions.png

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build demo *.egg-info mae_fast/*.so
