# `make run` and `make test` work from a fresh clone; both set up .venv first when it is missing or stale.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed-constraints
OUT    ?= runs
FLOORS := random popularity itemknn majority text-lookup item-prior

.DEFAULT_GOAL := help
.PHONY: help setup run test test-slow lint bench docs site clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## make .venv with everything at the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=24"
	# torch first and pinned: an open range would fetch the newest build. For a CPU build from PyTorch's own index,
	# set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

run: $(STAMP) ## judge floors and baselines on the embedded suite and show the board (minutes)
	$(BIN)/kpi-bench evaluate --suite kpi-mini --seeds 0 --device cpu --out $(OUT) \
	  --submission $(addprefix submissions/,$(FLOORS) text-classifier cf lightgcn kg-embedding pkgm mudok mulde metasd kgglm jplr)
	$(BIN)/kpi-bench leaderboard show $(OUT)/results --suite kpi-mini

# One process a core, one thread each: two processes whose threads want both cores get in each other's way.
test: $(STAMP) ## the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-slow: $(STAMP) ## only the tests marked slow
	$(BIN)/python -m pytest -m slow

lint: $(STAMP) ## ruff (lint, format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict --follow-imports=silent docs/_hooks/*.py

bench: $(STAMP) ## timing of the hot paths against peers and limits, one table (benchmarks/README.md)
	$(BIN)/kpi-bench bench

docs: $(STAMP) ## bring the generated parts of the documents up to date, build their site into build/docs
	$(BIN)/kpi-bench leaderboard update README.md --results leaderboard/results
	$(BIN)/kpi-bench leaderboard update docs/boards.md --results leaderboard/results
	$(BIN)/kpi-bench leaderboard picture kpi-open --tasks 4 --out docs/assets/kpi-open.svg
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

site: docs ## the board as static pages, with the documentation in it, in build/site
	$(BIN)/kpi-bench leaderboard build leaderboard/results --out build/site --docs docs/index.html
	cp -r build/docs build/site/docs

clean: ## remove runs and caches, not .venv
	rm -rf $(OUT) build .mypy_cache .ruff_cache .pytest_cache .benchmarks
