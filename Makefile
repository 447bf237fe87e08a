# The project's commands. `make demo` and `make test` need only Python 3.11 or newer, and make.
#   make demo         install, and prove on 5,000 real images that nothing is lost and nothing is repeated
#   make test         the tests, on SQLite and a real Redis: every promise of the README
#   make test-all     the rest: the same promises in many more ways, what takes long, and properties with more examples
#   make chaos        1,000 faults on jobs of several ranks, and the proof from their logs; CHAOS_ARGS="--seed 7 --faults 100"
#   make test-torch   the tests of bucketline.torch, in its own venv with torch (large)
#   make test-ray     the scan over Ray, in its own venv with Ray (large)
#   make lint         ruff, mypy, import-linter
#   make bench        the benchmarks
#   make bench-cost   what a measured cost is worth, on a small transformer, in the venv with torch
#   make bench-large  100,000,000 images through the service; LARGE_ARGS="--num 1e9 --kills 0.2,0.7" for more
#   make fuzz         call the API with valid and invalid requests for a long time; FUZZ_ARGS="--examples 1000" for more
#   make bench-peers  bucketline beside other planners, in its own venv; PEERS_ARGS="--sizes 1e5,1e6" for less
#   make pictures     draw the pictures of docs/concepts/mathematics.md and docs/how-to again
#   make site         docs/ as a site, in build/site; a broken link is an error
#   make image-check  build the Dockerfile without Docker, run it on a read-only root as its user (root, Debian)
#   make audit        known vulnerabilities of the pinned packages; AUDIT_ARGS=--strict fails when no source answers
#   make constraints  renew the pins in constraints.txt
#   make clean        remove everything that the other targets created

PYTHON ?= python3
PYTEST_ARGS ?= -n 2 --dist loadfile
TEST_ALL_ARGS ?= -n 2 --dist loadfile
TEST_ALL_EXAMPLES ?= 100
TORCH_ARGS ?= -n 2 --dist loadfile
PEERS_ARGS ?=
CHAOS_ARGS ?= --seed 1 --faults 1000

VENV := .venv
PEERS_VENV := .venv-peers
TORCH_VENV := .venv-torch
RAY_VENV := .venv-ray
BIN := $(VENV)/bin
SERVICE := $(VENV)/.installed-service
DEV := $(VENV)/.installed-dev
DOCS := $(VENV)/.installed-docs
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test test-all test-torch test-ray chaos lint fuzz bench bench-cost bench-large bench-peers pictures site image-check audit constraints clean check-python
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

demo: $(SERVICE)
	$(BIN)/bucketline demo

test: $(DEV)
	$(BIN)/pytest -m "not exhaustive" $(PYTEST_ARGS)

test-all: $(DEV)
	BUCKETLINE_TEST_EXAMPLES=$(TEST_ALL_EXAMPLES) $(BIN)/pytest -m "exhaustive or hypothesis" $(TEST_ALL_ARGS)

chaos: $(DEV)
	$(BIN)/python -m tests.faults.run $(CHAOS_ARGS)

test-torch: $(TORCH_VENV)/.installed
	$(TORCH_VENV)/bin/python -m pytest tests/torch $(TORCH_ARGS)

test-ray: $(RAY_VENV)/.installed
	$(RAY_VENV)/bin/python -m pytest tests/scan/test_ray.py

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEV)
	@set -e; for file in $(filter-out benchmarks/cost.py benchmarks/large.py benchmarks/peers.py,$(wildcard benchmarks/[a-z]*.py)); do echo "== $$file"; $(BIN)/python $$file; done

bench-cost: $(TORCH_VENV)/.installed
	$(TORCH_VENV)/bin/python benchmarks/cost.py

bench-large: $(DEV)
	$(BIN)/python benchmarks/large.py $(LARGE_ARGS)

fuzz: $(DEV)
	$(BIN)/python -m tests.security.fuzz $(FUZZ_ARGS)

bench-peers: $(PEERS_VENV)/.installed
	$(PEERS_VENV)/bin/python benchmarks/peers.py --out .benchmarks/peers.json $(PEERS_ARGS)

pictures: $(DOCS)
	$(BIN)/python -m docs.pictures.make

site: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --clean
	@echo "build/site/index.html, or with its search: $(BIN)/python -m http.server -d build/site"

image-check:
	scripts/image-check

audit: $(DEV)
	$(BIN)/python scripts/audit.py $(AUDIT_ARGS)

constraints:
	$(PYTHON) scripts/update-constraints.py

clean:
	rm -rf $(VENV) $(PEERS_VENV) $(TORCH_VENV) $(RAY_VENV) build dist .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp records what is installed; it is out of date when the requirements have changed.
$(SERVICE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing bucketline and its service into $(VENV) (once)"
	@$(PIP_INSTALL) -e '.[service]'
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing bucketline, its service and its development tools into $(VENV) (once)"
	@$(PIP_INSTALL) -e '.[service,dev]'
	@touch $(SERVICE) $@

$(DOCS): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing bucketline, its service, its development tools and what its documentation needs into $(VENV) (once)"
	@$(PIP_INSTALL) -e '.[service,dev,docs]'
	@touch $(SERVICE) $(DEV) $@

$(PEERS_VENV)/.installed: pyproject.toml benchmarks/peers-requirements.txt | check-python
	@echo "installing bucketline, its service and the peers into $(PEERS_VENV) (once; takes some minutes)"
	@$(PYTHON) -m venv $(PEERS_VENV)
	@$(PEERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[service]' -r benchmarks/peers-requirements.txt
	@touch $@

$(TORCH_VENV)/.installed: pyproject.toml constraints.txt tests/torch/requirements.txt | check-python
	@echo "installing bucketline, its service, torch and its relatives into $(TORCH_VENV) (once; takes some minutes)"
	@$(PYTHON) -m venv $(TORCH_VENV)
	@$(TORCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[service,scan]' -r tests/torch/requirements.txt
	@touch $@

$(RAY_VENV)/.installed: pyproject.toml constraints.txt | check-python
	@echo "installing bucketline, its service and Ray into $(RAY_VENV) (once; takes some minutes)"
	@$(PYTHON) -m venv $(RAY_VENV)
	@$(RAY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[service,scan-ray]' pytest
	@touch $@

$(BIN)/python: | check-python
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

check-python:
	@command -v $(PYTHON) >/dev/null || { echo "bucketline: no '$(PYTHON)' on PATH. Install Python 3.11 or newer, or: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "bucketline: needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "bucketline: '$(PYTHON)' cannot make virtual environments. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
