# Everything a fresh clone needs: `make run` and `make test` set themselves up in .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
JOBS ?= 2
MINUTES ?= 10
# A file's tests share what they set up, so they stay together. In the order of the files: the slow come early.
PYTEST = $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
# All that load the protocol or start programs that do; the rest would only be run again.
COMPILED_TESTS = $(addprefix tests/,tunnel_wire fuzz tunnel_server tunnel_agent tunnel_daemon tunnelctl deploy/test_wheel.py e2e)
SOURCES = $(filter-out %.pyc,$(foreach package,tunnel_wire tunnel_server tunnel_agent tunnel_daemon tunnelctl certs, \
	$(wildcard $(package)/*.* $(package)/*/*.*)))

export PIP_DISABLE_PIP_VERSION_CHECK = 1
unexport EDGE_TUNNEL_COMPILE    # where something is to be compiled, the rule says so

.DEFAULT_GOAL := help
.PHONY: help run test test-compiled compiled e2e test-long soak cluster test-cluster manifests bench lint format lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.installed-runtime ## the demo: an edge behind NAT answers at its own address (ARGS=--once checks itself and ends)
	@$(BIN)/tunnelctl demo $(ARGS)

# Thousands of tests with real programs and real clocks, two at once, on a machine that may have other work: what
# failed is tried once more, alone, and its second result counts. Only where the run came to its end and tests failed
# in it (pytest's code 1): a run that broke off, or skipped what CI wants to see, has failed.
TRIED_TWICE = $(PYTEST) $(1) $(ARGS) || { code=$$?; [ $$code -eq 1 ] || exit $$code; \
	echo "make: tests have failed, see above; each is tried once more, alone, and that result counts:"; \
	$(BIN)/pytest $(1) $(ARGS) -n 0 --exitfirst --last-failed --last-failed-no-failures none; }

test: $(VENV)/.installed-dev ## all tests; those that need root or a program that is missing say so (ARGS= goes to pytest; two at once: JOBS=0 for one after another)
	@$(call TRIED_TWICE)

# As a wheel has it, installed beside the tree: what is edited here never runs as it was compiled before.
compiled: build/compiled/.made ## what setup.py compiles, in build/compiled: a minute, a C compiler, Python's headers

test-compiled: $(VENV)/.installed-dev build/compiled/.made ## the tests of what runs there, on the compiled modules
	@export TEST_BUILD=build/compiled; $(call TRIED_TWICE,$(COMPILED_TESTS))

e2e: $(VENV)/.installed-dev ## only the end-to-end tests: real programs in network namespaces (root)
	@$(PYTEST) tests/e2e $(ARGS)

test-long: $(VENV)/.installed-dev ## what takes a minute or more each, and `make test` leaves out (root)
	@$(BIN)/pytest -m long tests/e2e $(ARGS)

soak: $(VENV)/.installed-dev ## mixed load, faults at random, and nothing lost or left: MINUTES=10 of it (root; ARGS=--seed=N repeats a run)
	@$(BIN)/python -m tests.soak --minutes $(MINUTES) $(ARGS)

cluster: $(VENV)/.installed-dev ## build the Kubernetes that test-cluster runs: once, about 10 minutes (Go 1.24 or newer)
	@$(BIN)/python -m tests.e2e.cluster.components

test-cluster: cluster ## the tests on a real Kubernetes, which `make test` leaves out (root; etcd, containerd and others)
	@$(BIN)/pytest -n $(JOBS) --no-loadscope-reorder tests/e2e/cluster $(ARGS)

manifests: $(VENV)/.installed-dev ## render deploy/chart as the plain YAML of deploy/kubernetes and of tunnelctl install (ARGS=--check)
	@$(BIN)/python -m deploy.render $(ARGS)

# Without a compiler it measures what is interpreted, and the suite's own table says which build it was.
bench: $(VENV)/.installed-bench ## this tunnel beside others, and none (root for all of it; ARGS=--help; ARGS=--quick only sees that it works)
	@$(if $(filter --show% --help,$(ARGS)),,$(MAKE) --no-print-directory compiled || \
		echo "make: not compiled, see above: only the interpreted build is measured")
	@$(BIN)/python -m bench $(ARGS)

lint: $(VENV)/.installed-dev ## ruff, formatting, types, who may import whom
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## let ruff format and sort
	@$(BIN)/ruff check --fix --select I
	@$(BIN)/ruff format

# Locks are made with the oldest Python we support: what it needs, newer ones need at most.
# `make lock ARGS=--upgrade` takes newer releases.
COMPILE = CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --generate-hashes --strip-extras \
	--allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options $(ARGS)

lock: $(VENV)/.installed-dev ## write requirements/*.txt anew from pyproject.toml (ARGS=--upgrade)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "make lock: needs a .venv made with Python 3.11")'
	@$(COMPILE) --extra agent --extra server --build-deps-for editable -o requirements/runtime.txt pyproject.toml
	@$(COMPILE) --extra agent --extra server --extra dev --build-deps-for editable -c requirements/runtime.txt \
		-o requirements/dev.txt pyproject.toml
	@$(COMPILE) --extra agent --extra server --extra bench --build-deps-for editable -c requirements/dev.txt \
		-o requirements/bench.txt pyproject.toml
	@EDGE_TUNNEL_COMPILE=1 $(COMPILE) --only-build-deps --build-deps-for wheel -c requirements/dev.txt \
		-o requirements/compile.txt pyproject.toml

clean: ## remove .venv and every cache
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

build/compiled/.made: $(VENV)/.installed-compile setup.py pyproject.toml $(SOURCES)
	@echo "make: compiling (a minute)"
	@rm -rf build/compiled && mkdir -p build && touch build/.began
	@EDGE_TUNNEL_COMPILE=1 $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --no-index --target build/compiled .
	@mv build/.began $@ # older than what is edited meanwhile

# A venv whose pip does not start is half made, or its Python is gone: that one is made anew.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "make: Python 3.11 or newer is needed, $(PYTHON) is %d.%d; name another: make PYTHON=python3.12" % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		$(PYTHON) -c 'import sys; sys.exit("make: this Python cannot make a venv: apt-get install python%d.%d-venv" % sys.version_info[:2])'; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		echo "make: setting up $(VENV) (once)" && $(PYTHON) -m venv --clear $(VENV); }
	@touch $@

# The package itself comes last, editable, with nothing fetched for it: its build tool is in the lock
# (which warns, whenever it is asked for an editable install, that the folder matters).
$(VENV)/.installed-%: requirements/%.txt pyproject.toml $(VENV)/.made
	@echo "make: installing the locked dependencies ($*)"
	@$(BIN)/python -m pip install --quiet --require-hashes -r $<
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --no-index -e .
	@touch $@
