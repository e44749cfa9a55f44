# Everything a developer runs.  `make demo` and `make test` set up what they need, in .venv, without a compiler.
PYTHON ?= python3
VENV ?= .venv
# A CPU-only or CUDA-specific build of torch can be chosen here: make demo TORCH=path/or/requirement
TORCH ?= torch==2.13.0

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps

.PHONY: demo test check docs fuzz kill nat bootstrap-check requirements clean
.DELETE_ON_ERROR:

demo: $(VENV)/.inference
	@$(BIN)/cactus-mesh demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in build/site: opened from disk or put on any web server, it asks nobody else for anything.
docs: $(VENV)/.dev
	$(BIN)/mkdocs build --quiet --strict

fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz_messages

# the embedded ledger, killed 200 times
kill: $(VENV)/.dev
	$(BIN)/python -m tests.ledger.kill_devnet

# Every pair of kinds of networks, as root on Linux: minutes; writes the table of docs/nat.md.
nat: $(VENV)/.dev
	$(BIN)/python -m tests.nat.matrix --write

# What operators of public nodes need: checked as far as this machine can; as root without a container engine, in a chroot.
bootstrap-check: $(VENV)/.dev
	$(BIN)/python -m bootstrap.check --image

$(VENV)/.base: requirements/base.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"Cactus Mesh needs Python 3.11 to 3.13, this is {v[0]}.{v[1]}; name one: make PYTHON=python3.12 ...")'
	@echo "setting up $(VENV): the network, the ledger client (about a minute, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -r requirements/base.txt
	@$(PIP) --editable .
	@touch $@

$(VENV)/.inference: $(VENV)/.base requirements/inference.txt
	@echo "setting up $(VENV): torch and transformers (about a minute, once)"
	@$(PIP) -r requirements/inference.txt
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet '$(TORCH)'
	@touch $@

$(VENV)/.dev: $(VENV)/.inference requirements/dev.txt
	@$(PIP) -r requirements/dev.txt
	@# trio-typing, which libp2p imports, carries stubs of an old trio that would hide trio's own types from mypy
	@$(BIN)/python -c 'import shutil, sysconfig; shutil.rmtree(sysconfig.get_path("purelib") + "/trio-stubs", True)'
	@touch $@

# Pins again from the .in files; the override avoids libp2p's source-only fastecdsa.
requirements: $(VENV)/.dev
	cd requirements && for name in base inference dev; do \
		../$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --override overrides.txt \
			--no-header --no-annotate $$name.in --output-file $$name.txt || exit 1; done

clean:
	rm -rf $(VENV) build/site .mypy_cache .ruff_cache .pytest_cache
