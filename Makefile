# Everything is set up by these targets themselves, below this folder: the machine's packages stay as they are. What
# has to be there is python3 (3.11 or later, with venv) and make; tests need root.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: help demo test test-wasmtime fuzz e2e k8s compare upgrades chaos soak bench bench-peers roots roots-packages lint format protos constraints deb wheel node-image install clean

# Minutes of processor time for each target of the fuzzer, and its other options, such as FUZZ="--jobs 2 config seccomp"
MINUTES ?= 1
FUZZ ?=

# Cluster tests, such as K8S=tests/k8s/test_workloads.py
K8S ?= tests/k8s

# Of the chaos run, and of the soak: 500,000 take hours
SECONDS ?= 120
SEED ?= 1
LIFECYCLES ?= 50000

# Options of the benchmark, such as BENCH="--only density"
BENCH ?=
# Options of the fresh systems' tests, such as ROOTS="--suite bookworm --make demo"
ROOTS ?=

DESTDIR ?=
prefix ?= /usr/local

help: ## What there is to make
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.ready ## Run a pod of WASM containers on a private sandboxer, and show how each ended
	$(RUN) -m tests.demo

test: $(VENV)/.ready ## All tests (real forks, real libwasmedge; needs root)
	$(RUN) -m pytest

# What `make test` runs with one engine: longer tests about guests in general. "never" needs an interpreter.
test-wasmtime: $(VENV)/.ready ## Tests that make test runs with WasmEdge alone, with Wasmtime (needs root)
	SANDBOXER_TEST_ENGINE=wasmtime $(RUN) -m pytest tests/integration/faults tests/integration/cgroups \
		tests/integration/test_empty_root.py tests/integration/test_filled_folders.py tests/integration/test_given_up.py \
		tests/integration/test_grpc_tasks.py tests/integration/test_large_specs.py tests/integration/test_isulad.py \
		-m 'not engines'

fuzz: $(VENV)/.ready ## All that parses bytes of others, coverage-guided: MINUTES=n for each target (needs root)
	$(RUN) -m tests.fuzz --minutes $(MINUTES) $(FUZZ)

e2e: $(VENV)/.ready ## The real containerd through CRI, fetched into .cache (needs root)
	$(RUN) -m pytest tests/e2e

# A kubelet wants namespaces of its own; whatever is left in them ends with them.
k8s: $(VENV)/.ready ## A real cluster of one node: kubelet, control plane, newest containerd (needs root and Go; slow at first)
	$(RUN) -m tests.k8s.programs
	unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private \
		env WASM_SANDBOXER_K8S=1 $(RUN) -m pytest $(K8S)

compare: $(VENV)/.ready ## CRI operations beside crun with WasmEdge, on one containerd (needs root)
	$(RUN) -m tests.e2e.compare 20

roots: ## Demo and tests in fresh Debian 12 and 13, which stay as they were; half an hour (needs root)
	$(PYTHON) -m tests.roots $(ROOTS)

roots-packages: $(VENV)/.ready ## Packages and wheel: installed, upgraded, removed, purged in fresh Debian 12 and 13 (needs root)
	$(RUN) -c 'from tests.harness.guests import guest; guest("sleep"), guest("hello")'
	$(RUN) -m tests.roots.packages $(SUITES)

upgrades: $(VENV)/.ready ## To a next version of this tree and back, with 1,000 instances (needs root)
	UPGRADE_INSTANCES=1000 $(RUN) -m pytest tests/upgrades

chaos: $(VENV)/.ready ## Kill any part at any moment under load; nothing may be lost (needs root)
	$(RUN) -m tests.chaos.run --seconds $(SECONDS) --seed $(SEED)

soak: $(VENV)/.bench ## LIFECYCLES=50000 short lives on one daemon; nothing may grow; plots in .cache (needs root)
	$(RUN) -m tests.chaos.soak --lifecycles $(LIFECYCLES)

bench: $(VENV)/.bench ## Speed and density beside the peers: tables, JSON and pictures (needs root)
	$(RUN) -m tests.bench $(BENCH)

bench-peers: $(VENV)/.ready ## Fetch into .cache what the benchmark is compared with, and real programs
	packaging/fetch-containerd.sh --peers .cache/containerd
	$(RUN) -m tests.bench.programs

lint: $(VENV)/.ready ## Style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.ready ## Put the code into shape
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

protos: $(VENV)/.ready ## Generate the message code again
	$(RUN) -m tests.protos

# Of Atheris the newest that has a wheel for the oldest Python: others are built from source, with all of LLVM.
constraints: ## Take the newest versions of what is installed, and pin them in constraints.txt
	rm -rf .cache/constraints
	$(PYTHON) -m venv .cache/constraints
	.cache/constraints/bin/python -m pip download --quiet --disable-pip-version-check --no-deps \
		--only-binary :all: --python-version 3.11 --dest .cache/constraints/oldest atheris
	.cache/constraints/bin/python -m pip install --quiet --disable-pip-version-check --only-binary atheris \
		'.[test,lint,bench,wasmtime]' "atheris==$$(ls .cache/constraints/oldest | cut -d - -f 2)"
	.cache/constraints/bin/python -m pip freeze --exclude wasm-sandboxer > .cache/constraints.txt
	mv .cache/constraints.txt constraints.txt
	rm -rf .cache/constraints

SUITES ?= bookworm trixie

deb: $(VENV)/.ready ## Packages for Debian 12 and 13 in dist
	for suite in $(SUITES); do packaging/deb/build.sh $$suite dist || exit 1; done

wheel: $(VENV)/.ready ## A wheel in dist, for any virtual environment
	packaging/build-wheel.sh dist

PYTHONS ?= 3.11 3.12 3.13

node-image: $(VENV)/.ready ## The image of packaging/kubernetes' DaemonSets in dist, for nodes with these PYTHONS
	mkdir -p dist
	packaging/kubernetes/build-image.sh dist/wasm-sandboxer-node.tar $(PYTHONS)

install: $(VENV)/.ready ## Install below $(DESTDIR)$(prefix), for packagers: DESTDIR=/tmp/root prefix=/usr
	packaging/install.sh "$(DESTDIR)" "$(prefix)"

clean: ## Remove what was made here
	rm -rf $(VENV) .cache build dist *.egg-info

$(VENV)/.bench: $(VENV)/.ready
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

$(VENV)/.ready: pyproject.toml constraints.txt packaging/install-wasmedge.sh packaging/private-apt.sh packaging/make-venv.sh
	packaging/make-venv.sh $(PYTHON) $(VENV)
	packaging/install-wasmedge.sh $(VENV)/wasmedge $(VENV)/bin/python
	touch $@
