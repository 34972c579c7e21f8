# SPDX-License-Identifier: GPL-2.0-or-later
# make run: set up and show the main job.  make test: set up and pass the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := build_native.py $(shell find guest bpf native linux/loads -type f)

.DEFAULT_GOAL := help
.PHONY: help run test check bench fuzz mutants native site wheels clean

help:
	@echo "make run    set up and compare a lock with and without PV-lock"
	@echo "make test   set up and run the tests"
	@echo "make check  lint, strict types, layers"
	@echo "make bench  measure; writes docs/benchmarks.md; needs root, and what the lab needs"
	@echo "make fuzz   run hostile guests, 10 million operations; FUZZ='--seed 7' and so on"
	@echo "make mutants judge wrong hypervisors that are derived from the code; half an hour of a CPU"
	@echo "make native compile the guests and the helper again after a change"
	@echo "make wheels build wheels for x86_64 and aarch64 into dist"
	@echo "make site   write the documents as a site to build/site"

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "pvlock needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "pvlock needs Python's venv module; on Debian: apt-get install python3-venv"; exit 1; }
	@touch $@

# Of what pip says, what tells that it goes on: what is fetched, and what build_native.py compiles.
# All of it is shown if it fails.
define install
rm -f $(VENV)/failed; { $(BIN)/pip install --verbose --no-color --progress-bar off \
	--disable-pip-version-check --editable '$(1)' 2>&1 || touch $(VENV)/failed; } \
	| tee $(VENV)/pip.log | sed -u -n -e 's/^ *Collecting \([A-Za-z0-9_.-]*\).*/  fetching \1/p' \
	-e 's/^ *pvlock: compiling/  compiling/p' \
	-e 's/^ *Installing collected packages.*/  installing/p'; \
	test ! -e $(VENV)/failed || { tail -n 40 $(VENV)/pip.log; exit 1; }
endef

# Editable, so that a change of the Python code needs no new installation.
$(VENV)/installed: $(VENV)/made pyproject.toml bin/pvlock $(NATIVE)
	@echo "setting up $(VENV): a minute or two, once"
	@$(call install,.)
	@touch $@

$(VENV)/developed: $(VENV)/installed
	@echo "setting up $(VENV) for tests: a minute or two, once"
	@$(call install,.[dev])
	@touch $@

run: $(VENV)/installed
	@$(BIN)/pvlock run

test: $(VENV)/developed
	@$(BIN)/pytest

check: $(VENV)/developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/developed
	$(BIN)/python benchmarks/gain.py
	$(BIN)/python benchmarks/trace_cost.py
	$(BIN)/python benchmarks/explain.py
	$(BIN)/python benchmarks/speed.py --write
	$(BIN)/python benchmarks/publisher.py --write
	$(BIN)/python benchmarks/top_cost.py --write
	$(BIN)/python benchmarks/boot.py --lab --write
	$(BIN)/python benchmarks/linux_loads.py --write

fuzz: $(VENV)/installed
	@$(BIN)/pvlock fuzz --operations 10000000 --jobs 2 $(FUZZ)

# Either machine builds both: zig crosses. The conformance guest goes beside them.
wheels: $(VENV)/developed
	@rm -rf dist
	@for machine in x86_64 aarch64; do PVLOCK_WHEEL_FOR=$$machine \
		$(BIN)/python -m hatchling build -t wheel -d dist || exit 1; done
	@cp src/pvlock/conformance/guest.Image dist/
	@ls dist

mutants: $(VENV)/developed
	cd tests && PYTHONPATH=.:.. ../$(BIN)/python -m mutants mutants/results.jsonl $(MUTANTS)

site: $(VENV)/made
	@$(BIN)/pip install --quiet --disable-pip-version-check -r site/requirements.txt
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --config-file site/mkdocs.yml
	@echo "build/site/index.html"

native: $(VENV)/developed
	$(BIN)/python build_native.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
