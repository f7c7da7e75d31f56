# make setup | demo | test | test-models | test-server | check | crash | fuzz | proto | client | dist | sbom | audit | clean
# Every target sets itself up; PYTHON names the interpreter that builds .venv (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PROTOS := proto/gmvaluator/v1/attribution.proto proto/gmvaluator/v1/royalty.proto

.PHONY: setup browser promtool demo test test-models test-server check crash bench soak fuzz lint types imports protocol proto client dist sbom audit clean

setup: $(STAMP)

# The stamp is written last, so an interrupted installation is taken up again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gmvaluator needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

# Tests of the dashboard look at it with Chromium: installed where that can be done, else they say that it is missing.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	} || echo "no Chromium: the dashboard's browser tests will be skipped; install it by apt-get install chromium"

# Tests of the alerts run Prometheus' own checker; only that program is taken out of Debian's package, nothing is installed.
promtool: $(STAMP)
	@command -v promtool >/dev/null || test -x $(BIN)/promtool || { \
		mkdir -p build/promtool && cd build/promtool && command -v apt-get >/dev/null && \
		{ [ "$$(id -u)" != 0 ] || apt-get update -qq; } && \
		apt-get -qq -o APT::Sandbox::User=root download prometheus && dpkg-deb -x prometheus_*.deb . && \
		install -m 755 usr/bin/promtool ../../$(BIN)/promtool && cd ../.. && rm -rf build/promtool; \
	} || echo "no promtool: the tests of the alerts will be skipped; it is in Debian's package prometheus"

demo: setup
	$(BIN)/gmvaluator demo

# Files in order of their names, so that the few long ones, in tests/acceptance, begin first and not last. Of two workers on
# two cores each has one thread: with two, small networks take twice the processor time to train.
test: setup browser promtool
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 10

# Models of full size with seeded weights, and indexing by Ray: about 6 GB of memory and fifteen minutes.
test-models: setup
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[ray]'
	$(BIN)/python -m pytest -m models tests/models

# The suites of the index on a Qdrant server: one of your own at QDRANT_URL (key in QDRANT_API_KEY), which keeps none of their
# collections, or one started from the program at GMVALUATOR_QDRANT_BINARY. Without either they are skipped and say so.
test-server: setup
	$(BIN)/python -m pytest -m server -r s tests/contract tests/integration tests/acceptance

# The ledger under 1,000 kills, 500 power losses and 100,000 cases against an oracle, 200 histories of concurrent decisions
# against another, then the attributor ended 300 times under load: about an hour.
crash: setup
	$(BIN)/python -m tests.crash ledger --output docs/results/ledger-crash.json
	$(BIN)/python -m tests.crash decisions --output docs/results/ledger-decisions.json
	$(BIN)/python -m tests.crash serving --keep build/serving-crash --output docs/results/serving-crash.json
	rm -rf build/serving-crash
	$(BIN)/python -m tests.crash index --output docs/results/index-crash.json

# Every section of `gmvaluator bench serve`: about twelve minutes on a quiet machine.
bench: setup
	$(BIN)/gmvaluator bench serve --json > docs/results/bench-serve.json.new
	mv docs/results/bench-serve.json.new docs/results/bench-serve.json

# 200,000 requests to stub models: about an hour.
soak: setup
	$(BIN)/python -m evaluation.bench.serving.soak --output docs/results/soak.json

# One million cases each of the image decoder and the request parser; a crash, a hang or another error names its case.
fuzz: setup
	$(BIN)/python -m tests.fuzz decode request --output docs/results/fuzz.json

check: lint types imports protocol

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

# Imports point one way, and light modules stay light.
imports: setup
	$(BIN)/python -m pytest --quiet tests/checks/test_architecture.py

# The wire contract: style, no break against the committed image, generated code up to date.
protocol: setup
	cd proto && ../$(BIN)/buf lint && ../$(BIN)/buf breaking --against baseline.binpb
	mkdir -p build/protocol
	$(call generate,build/protocol)
	diff --recursive --exclude=__init__.py --exclude=__pycache__ gmvaluator/v1 build/protocol/gmvaluator/v1

proto: setup
	$(call generate,.)

# The blocking client, gmvaluator/client/sync.py, from the asyncio one.
client: setup
	$(BIN)/python -m tests.checks.sync_client

define generate
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I proto --python_out=$(1) \
		--grpc_python_out=$(1) --mypy_out=$(1) --mypy_grpc_out=$(1) $(PROTOS)
endef

# Wheel and sdist, then what is in them; docs/guide/release.md.
dist: setup
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist

sbom: setup
	$(BIN)/python -m deploy.release.sbom --output dist/gmvaluator.cdx.json

# Dependencies: whether they fit, are pinned, have licences that are allowed, and known vulnerabilities if a service answers.
audit: setup
	$(BIN)/python -m deploy.release.audit

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache
