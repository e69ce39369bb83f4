# make demo, make test: each does all the set-up it needs. PYTHON chooses the interpreter of the new environment.
# make bench: ops, training step, loaders and memory on this machine, beside whichever peers are there.
# make test-cpus, make sanitize: what needs more tools or minutes than CI has; see CONTRIBUTING.md.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test bench test-cpus sanitize lint clean
setup: $(READY)

# torch first: the extension is compiled against it, and the other packages then find it in place. timm last and alone:
# its torchvision does not import beside a CPU build of torch, and where it is installed transformers wants it.
$(READY): setup.py pyproject.toml constraints.txt $(wildcard csrc/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt pip setuptools wheel
	$(BIN)/python -m pip install --quiet -c constraints.txt torch numpy ninja
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[dali,test]" triton
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps timm
	touch $@

demo: setup
	$(BIN)/mae-fast data photos demo/photos
	$(BIN)/mae-fast pretrain --config benchmarks/demo.yaml
	$(BIN)/mae-fast reconstruct --checkpoint demo/run/checkpoint-149.pth --images demo/photos/val --limit 6 --out demo/reconstructions.png
	$(BIN)/mae-fast report demo/run

# Two processes, of one thread each: four threads on two cores wait for each other, and tests take three times as long.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

bench: setup
	$(BIN)/mae-fast bench all

# The second half compiles for aarch64; that the linking then fails, for want of libraries, is ignored.
CROSS ?= aarch64-linux-gnu-
test-cpus: setup
	$(BIN)/python -m pytest -m emulated -rs tests/ops/test_cpus.py
	rm -rf build/aarch64 && mkdir -p build
	_PYTHON_HOST_PLATFORM=linux-aarch64 CC=$(CROSS)gcc CXX=$(CROSS)g++ \
	  $(BIN)/python setup.py --quiet build_ext --build-lib build/aarch64 --build-temp build/aarch64 >build/aarch64.log 2>&1
	@if test `find build/aarch64 -name '*.o' | wc -l` = $(words $(wildcard csrc/*.cpp)); \
	then echo "csrc/ compiles for aarch64"; else cat build/aarch64.log; exit 1; fi

# GCC. The interpreter is not built with the sanitizers: they are loaded first, and libstdc++ for exceptions to be seen.
CAPABILITIES := import torch; s = ["default", "avx2", "avx512"]; \
	print(*s[:s.index(torch.backends.cpu.get_cpu_capability().lower()) + 1])
SANITIZE := -g1 -fsanitize=address,undefined -fno-omit-frame-pointer
sanitize: setup
	CFLAGS="$(SANITIZE)" CXXFLAGS="$(SANITIZE)" LDFLAGS="$(SANITIZE)" \
	  $(BIN)/python setup.py --quiet build --build-lib build/sanitize --build-temp build/sanitize-objects
	for capability in `$(BIN)/python -c '$(CAPABILITIES)'`; do \
	  LD_PRELOAD="`gcc -print-file-name=libasan.so` `gcc -print-file-name=libstdc++.so`" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  ATEN_CPU_CAPABILITY=$$capability MAE_FAST_BUILD=/build/sanitize/ \
	  $(BIN)/python -m pytest --capture=sys -o pythonpath=build/sanitize -p no:cacheprovider \
	    tests/ops/test_ops.py tests/ops/test_ragged.py -k "cpu or test_loaded_build" || exit 1; \
	done

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache

clean:
	rm -rf $(VENV) build demo *.egg-info mae_fast/*.so
