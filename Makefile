# make demo   set up and run the main job: certify three real recipes of a real model on this CPU
# make test   set up and run the tests
# make check  lint, types, layers, docs
# make matrix run the numeric tests under other instruction sets, by hand (docs/performance.md)
# make fuzz   ten minutes of damaged files and replies for each reader, by hand
# make docs   write the generated blocks of the documents
# make site   build the documents as a site in build/site, every link checked
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
.DELETE_ON_ERROR:
.PHONY: demo test check matrix fuzz docs site format clean help

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

$(VENV)/.run: pyproject.toml constraints.txt
	@echo "setting up $(VENV) (Python packages only; torch is the large one)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip
	$(PIP) install --constraint constraints.txt --editable '.[modelopt,plots]'
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) install --constraint constraints.txt --editable '.[modelopt,llama,plots,sign,history,ray,remote]' --group dev
	touch $@

$(VENV)/.site: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip
	$(PIP) install --constraint constraints.txt --group docs
	touch $@

demo: $(VENV)/.run
	@$(BIN)/evalkit certify examples/cpu-demo.yaml; code=$$?; \
	case $$code in \
	  0|1|3|4) echo "exit code $$code: a verdict, explained in docs/demo.md (0 certified, 1 rejected, 3 inconclusive, 4 invalid)";; \
	  *) exit $$code;; \
	esac

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

matrix: $(VENV)/.dev
	$(BIN)/python benchmarks/matrix.py

fuzz: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python tests/properties/test_reader_fuzz.py --seconds 600

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/build.py --check

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev
	$(BIN)/python docs/build.py

site: $(VENV)/.site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "build/site/index.html; with search: $(PYTHON) -m http.server --directory build/site"

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
