PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: serve test lint coverage docs settings protos bench statistical image clean

$(STAMP): pyproject.toml client/pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock ./client -e '.[dev,evaluate,docs]'
	rm -rf client/build client/*.egg-info
	touch $(STAMP)

serve: $(STAMP)
	$(BIN)/qshower serve

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry --no-ansi sampler model service client
	$(BIN)/deptry --no-ansi evaluation --optional-dependencies-dev-groups dev,docs --ignore DEP002
	$(BIN)/deptry --no-ansi tests benchmarks docs --exclude __pycache__ --ignore DEP002,DEP004
	$(BIN)/hadolint Dockerfile

# The documentation as a site, site/index.html; any warning fails.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Two processes, one thread each in the numerical libraries. A test that waits for the other's core should not spin.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist worksteal --durations=20

test: lint
	$(PYTEST)

# All tests again with the lines that ran counted; fails below the floor in pyproject.toml.
coverage: $(STAMP)
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/coverage run -m pytest -n 2 --dist worksteal
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered

# The tables of the settings' page, from the settings.
settings: $(STAMP)
	$(BIN)/python -m qshower.service.settings_page docs/settings.md

protos: $(STAMP)
	$(BIN)/python -m tests.protos

bench: $(STAMP)
	$(BIN)/python -m benchmarks.bench

# The statistical suite with other seeds: 20 runs of 2 to 3 minutes each.
SEEDS ?= $(shell seq 1 20)
statistical: $(STAMP)
	for seed in $(SEEDS); do \
		echo "seed $$seed" && QSHOWER_TEST_SEED=$$seed $(BIN)/python -m pytest -q tests/statistical || exit 1; \
	done

# TARGET=gpu makes qshower:gpu, for an NVIDIA GPU.
TARGET ?= cpu
image:
	docker build --target $(TARGET) -t qshower$(if $(filter gpu,$(TARGET)),:gpu) $(if $(TORCH_INDEX),--build-arg TORCH_INDEX=$(TORCH_INDEX)) .

clean:
	rm -rf $(VENV) build dist site *.egg-info
