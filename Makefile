# `make PY=python check` uses the environment at hand instead of .venv.
PY ?= .venv/bin/python
OWN = $(filter .venv/bin/python,$(PY))

.PHONY: check format test

check: | $(OWN)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: | $(OWN)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

test:
	./launch.sh test

# installs what is missing, then only prints a version
.venv/bin/python:
	./launch.sh test --version
