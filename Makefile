# Shoal: what one types. `make help` lists it.
SHELL := /bin/sh
PATH := $(CURDIR)/.venv/bin:$(PATH)
export PATH
PYTEST := .venv/bin/pytest
INTERFACE ?=
BENCH ?=
.DEFAULT_GOAL := help

.PHONY: help setup head lint test unit e2e soak bench demo images up down docs clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.stamp: requirements/dev.txt scripts/venv $(wildcard libs/*/pyproject.toml services/*/pyproject.toml)
	@scripts/venv

head: ## install what a head needs: Debian packages and .venv
	@scripts/packages head
	@scripts/venv

setup: ## install what head, tests and demo need
	@scripts/packages head test
	@scripts/venv

lint: .venv/.stamp ## ruff, mypy --strict, import rules, generated docs up to date
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy libs services tests scripts
	.venv/bin/python scripts/check_imports.py
	.venv/bin/python scripts/generate_docs.py --check
	.venv/bin/python scripts/schemas.py --check

unit: .venv/.stamp ## the tests that need neither root nor minutes
	$(PYTEST) tests/unit tests/contract

test: setup images ## every test but the long ones; boots at most six virtual nodes
	$(PYTEST) -m "not e2e and not soak"

e2e: setup images ## every boot
	$(PYTEST) -m "boot or e2e"

soak: setup ## fuzzing, faults and storms; long
	$(PYTEST) -m soak

bench: setup ## ours beside others on this machine: ratios, and build/bench.json; BENCH="storm.5000" for some
	@PYTHONPATH=tests .venv/bin/python -m lab.bench $(BENCH)

images: head ## build core and runtime into .cache/modules, where that is due
	@.venv/bin/shoal-image-builder build-module core --modules .cache/modules --if-changed
	@.venv/bin/shoal-image-builder build-runtime --modules .cache/modules --if-changed

demo: setup ## boot two virtual nodes over PXE, from nothing to a running systemd
	@PYTHONPATH=tests .venv/bin/python -m lab.demo

up: images ## run a head on INTERFACE in the foreground: make up INTERFACE=eth1
	@test -n "$(INTERFACE)" || { echo "say which interface the nodes boot from: make up INTERFACE=eth1" >&2; exit 2; }
	@SHOAL_MODULES=$(CURDIR)/.cache/modules exec .venv/bin/shoal up --interface $(INTERFACE)

down: ## stop the head that `make up` runs on this machine
	.venv/bin/shoal down

docs: .venv/.stamp ## write the pages that are generated from the code
	.venv/bin/python scripts/generate_docs.py
	.venv/bin/python scripts/schemas.py

clean: ## remove build results; caches and .venv stay
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis
