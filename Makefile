# make demo   the whole path on synthetic data: train, slim, fine-tune, evaluate
# make test   all tests; one file or test: make test ARGS="tests/test_layers.py -k arrows"
# make lint   ruff and mypy
# make env    the shared step: .venv with the pinned packages; run again, it does nothing
# make clean  remove caches and the demo's output; .venv stays

.PHONY: demo test lint env clean
.DEFAULT_GOAL := test

PY := .venv/bin/python
ARGS ?=

env:
	@tools/env.sh

demo: env
	$(PY) tools/demo.py $(ARGS)

# Two processes with one thread each: two cores run more tests than they run threads. A file stays in one process;
# slow ones go first.
test: env
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: env
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache build dist projects/*.egg-info demo_output
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
