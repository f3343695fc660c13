# Two commands do all the set-up: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2
EXTRAS ?= dev
# Machines of CI often set it. Each worker and child would then compile all sources again, for minutes.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo retrofit-demo study test test-fast test-changed test-levels test-long test-night test-study test-slurm test-next test-lowest durations soak audit-security check docs format wandb-sync gpu-check gpu-wheels release clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

# SEEDS=3: each model thrice, so that the figure has the noise of seeds in it
demo: $(READY)  ## train the demo sweep (minutes on 2 cores), fit and draw its isoFLOP figure
	$(BIN)/python -m experiments.run experiment=demo $(if $(SEEDS),'seed=range($(SEEDS))')
	@$(BIN)/python -m analysis isoflop results/demo --brief
	@printf '%s\n' '' 'its page, with the loss curves: results/demo/status.html' 'next, after source $(BIN)/activate:' \
		'  python -m analysis report results/demo                    # tables, fits and figures on one page' \
		'  python -m experiments.run experiment=demo model=none      # the control: blocks without the layer' \
		"  python -m experiments.inspect $$(dirname $$(grep -l '\"model\": \"peer\"' results/demo/*/record.json | head -1))   # which experts read what"

# What is trained is not trained again; the sample and the export are made again, in seconds.
RETROFIT := $$(dirname $$(ls -t results/retrofit_demo/*/record.json | head -1))
retrofit-demo: $(READY)  ## put a PEER layer into SmolLM2, adapt it to a domain, export it (10 minutes, or an hour: docs/retrofit.md)
	$(BIN)/python -m experiments.run experiment=retrofit_demo
	@$(BIN)/python -m analysis compare results/retrofit_demo --question adaptation
	@$(BIN)/python -m experiments.generate $(RETROFIT) "To make the soup," max_tokens=40
	@$(BIN)/python -m experiments.export $(RETROFIT) $(RETROFIT)/hf

# Committed records are kept: only what is not done yet is trained (docs/study.md).
study: $(READY)  ## train what is missing of the study (hours on 2 cores), fit and draw it
	$(BIN)/python -m experiments.run experiment=study_tuning
	$(BIN)/python -m experiments.run experiment=study_isoflop
	$(BIN)/python -m experiments.run experiment=study_experts
	$(BIN)/python -m experiments.run experiment=study_causes
	$(BIN)/python -m analysis report results/study/isoflop
	$(BIN)/python -m analysis report results/study/experts

# Two tests at a time, each with one thread (tests/conftest.py): WORKERS=8 on a larger machine.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test: $(READY)  ## run the tests, but for those of more than 0.15 seconds (minutes)
	$(PYTEST) --ignore tests/study

# Where logits and losses are compared, and sums are taken.
ARITHMETIC := $(addprefix tests/,kernels models optim training init adapters interchange tasks budget) tests/test_export.py
# These go through the levels themselves.
ARITHMETIC += $(addprefix --ignore=tests/kernels/,test_trunk.py test_mixture.py test_product_key_layer.py)

# LEVELS=--oldest: as the oldest alone
test-levels: $(READY)  ## repeat the tests of arithmetic as older x86 processors compute
	@levels=$$($(BIN)/python -m tests.levels $(LEVELS)) && echo "$$levels" | while read -r level; do \
		[ -n "$$level" ] || break; echo "$$level"; \
		env $$level $(PYTEST) $(ARITHMETIC) -m "levels or not (slurm or long or night)" </dev/null || exit; \
	done

test-long: $(READY)  ## run the tests of more than 0.15 seconds each: runs, a real model, compilers, kills
	$(PYTEST) --ignore tests/study -m "long and not night"

test-night: $(READY)  ## run what takes longer still: coverage over many draws, mistakes put in, graphs of each layer
	$(PYTEST) -m night

durations: $(READY)  ## run all but the night's, for an hour, and record which are slow and long
	folder=$$(mktemp -d) && { $(PYTEST) --ignore tests/study -m "not slurm and not night" --record-durations=$$folder; \
		$(BIN)/python -m tests.durations $$folder; rm -r $$folder; }

test-fast: $(READY)  ## run the quick tests (a few minutes)
	$(PYTEST) --ignore tests/study -m "not slow and not slurm and not long and not night"

# SINCE=COMMIT: what differs from that one
test-changed: $(READY)  ## run the tests of the modules that changed since main, and of those above them
	@files=$$($(BIN)/python -m tests.changed $(if $(SINCE),--since $(SINCE))) && \
		{ [ -n "$$files" ] || { echo "nothing changed"; exit; }; } && $(PYTEST) $$files

test-study: $(READY)  ## hold the committed study's numbers to its records
	$(PYTEST) tests/study -m "not night"

# AGAIN=1: those that failed the last time
test-slurm: $(READY)  ## run the tests on real Slurm daemons (root; apt-get install slurm-wlm munge)
	$(BIN)/python -m pytest tests/slurm -m slurm -o cache_dir=.pytest_cache/slurm $(if $(AGAIN),--last-failed)

# Candidates of Hydra and OmegaConf, in a folder before the environment's own
NEXT := $(CURDIR)/build/next
test-next: $(READY)  ## run the tests of config and sweep, and a tiny sweep, with the newest Hydra, candidates too
	rm -rf $(NEXT)
	$(BIN)/python -m pip install --quiet --pre --no-deps --target $(NEXT) 'hydra-core>=1.4.0rc1' 'omegaconf>=2.4'
	PYTHONPATH=$(NEXT) $(PYTEST) tests/config tests/sweep tests/test_run.py
	PYTHONPATH=$(NEXT) $(BIN)/python -m experiments.run -m model=dense,peer size=1 ladder.vocab_size=512 \
		budget=2e10 logger=csv sweep=next paths.results=$(NEXT)/results
	PYTHONPATH=$(NEXT) $(BIN)/python -m experiments.run experiment=demo dry_run=true

# uv knows what pip does not: how the lowest versions go together. torch's lowest brings 6 GB.
LOWEST := $(CURDIR)/build/lowest
# Deprecations: of old versions by their newer neighbours (matplotlib 3.9 by pyparsing), and torch 2.9's own of TF32.
test-lowest:  ## run the tests in an environment of the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip compile --quiet pyproject.toml --extra dev --resolution lowest-direct \
		--python $(LOWEST)/bin/python --output-file $(LOWEST)/versions.txt
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --requirements $(LOWEST)/versions.txt
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps --editable .
	touch $(LOWEST)/.ready
	PYTEST_ADDOPTS="-W ignore::DeprecationWarning -W 'ignore:Please use the new API settings'" $(MAKE) VENV=$(LOWEST) test

# MINUTES of random faults, SEED and ONLY to see a failure again (docs/soak.md)
soak: $(READY)  ## interrupt, kill and damage runs; each must come out to the bit: MINUTES=30
	$(BIN)/python -m tests.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) \
		$(if $(ONLY),--only $(ONLY)) $(if $(SLURM),--slurm $(SLURM))

# GGUF=FILE: a model of your own, a copy of which gets flipped bits too (docs/trust.md)
audit-security: $(READY)  ## try strangers' folders on the commands: none may run anything (20 minutes)
	$(BIN)/python -m tests.security $(if $(ONLY),--only "$(ONLY)") $(if $(GGUF),--gguf $(GGUF))

# On a bare machine: PYTHONPATH=src python3 -m experiments.bench gpu (docs/gpu-check.md).
gpu-check: $(READY)  ## prove a GPU in 8 minutes: kernels, speeds, memory; results/gpu/CARD/report.md
	$(BIN)/python -m experiments.bench gpu $(if $(ONLY),--only $(ONLY)) \
		$(if $(MINUTES),--minutes $(MINUTES)) $(if $(AGAIN),--again)

# For the parts that run the harness on a machine without a registry: PYTHON_VERSION=3.12 PLATFORM=manylinux_2_28_x86_64
release: $(READY)  ## build the wheel and the sdist into dist/, and try each in an empty environment (5 minutes)
	rm -rf dist
	$(BIN)/hatchling build
	$(BIN)/python -m tests.release dist

gpu-wheels: $(READY)  ## gather what a bare machine lacks for gpu-check's runs into wheels/
	$(BIN)/python -m experiments.gpu.wheels $(if $(PYTHON_VERSION),--python-version $(PYTHON_VERSION)) \
		$(if $(PLATFORM),--platform $(PLATFORM))

check: $(READY)  ## ruff, types, import directions, names of files, links of documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n 0 -m "" tests/test_references.py tests/test_documents.py

# Strict: a link or an anchor that leads nowhere fails (make check looks for these too, in a second).
docs: $(READY)  ## make the documents, the notebooks and all docstrings a site: build/docs/index.html
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS),docs]'
	$(BIN)/python -m sphinx -q -j auto --fail-on-warning --keep-going -c docs . build/docs

format: $(READY)  ## apply ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wandb-sync: $(READY)  ## upload the offline W&B runs of results/, or of one sweep: SWEEP=name
	@$(BIN)/python -c 'import sys; from experiments.training.trackers.weights_and_biases import has_key; sys.exit(None if has_key() else "no W&B key: set WANDB_API_KEY, or $(BIN)/wandb login; then make wandb-sync again")'
	@runs=results$(if $(SWEEP),/$(SWEEP)); \
	if [ -z "$$(find "$$runs" -type d -name 'offline-run-*' 2>/dev/null)" ]; then \
		echo "no offline W&B runs in $$runs"; \
	else \
		find "$$runs" -type d -name 'offline-run-*' -print0 | xargs -0 $(BIN)/wandb sync; \
	fi

clean:  ## remove the environment, caches and what was built; results stay
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache build

# The stamp is written last, so an interrupted installation is taken up again. Modules are compiled
# when they are first imported: most never are, and all of them take a minute.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python {v[0]}.{v[1]} found; 3.11 to 3.13 needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[$(EXTRAS)]'
	@touch $(READY)
