# The two commands are `make run` and `make test`; the rest is for working on Sluice.
# Builds need cmake and a C++ compiler beside Rust; `tools` installs them where it may.

CARGO ?= cargo
DATA ?= data

.PHONY: run test lint build build-pgo bench bench-fresh bench-prompts bench-start race bench-context bench-scrub soak fuzz tools

run: tools
	$(CARGO) build --release --package sluice
	./target/release/sluice --data $(DATA) up --sample samples

test: tools
	$(CARGO) test --release --workspace
	$(CARGO) build --release --workspace
	tests/run

# In the profile of the tests, so that build scripts are compiled and run once.
lint: tools
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- --deny warnings
	tests/rules

# The binary as it ships: one codegen unit and fat LTO, in target/dist.
build: tools
	$(CARGO) build --profile dist --package sluice

# The same, optimised by what runs of it tell, as target/pgo/sluice: two builds and two runs, three quarters of an hour on two
# cores.
build-pgo: tools
	bench/pgo

bench: tools
	$(CARGO) build --profile dist --package sluice --package sluice-bench
	./target/dist/journey --sluice target/dist/sluice --floor target/dist/floor --corpus samples/knowledge/scifact/corpus.jsonl --queries samples/scifact/queries.jsonl --out target/bench/journey.json

# Quality and cost of retrieval; downloads Debian packages into target/bench the first time.
bench-context: tools
	$(CARGO) build --profile dist --package sluice --package sluice-bench
	bench/context

# The same work through nginx, LiteLLM and Portkey, which are installed below target/bench/race.
race: tools
	$(CARGO) build --profile dist --package sluice --package sluice-bench
	python3 bench/race.py

bench-scrub: tools
	$(CARGO) build --profile dist --package sluice-bench --bin scrub
	python3 -m venv target/bench/venv && target/bench/venv/bin/pip install --quiet --disable-pip-version-check datafog-core==0.4.4
	taskset -c 0 ./target/dist/scrub --corpus policies/scrub/tests/corpus/dev.jsonl --prose samples/knowledge/scifact/corpus.jsonl --code proxy policies config store --real proxy store /usr/share/doc /var/log/dpkg.log /usr/lib/python3 --python target/bench/venv/bin/python

# What a collection costs that is written to while it serves; after `bench-context`, which makes the documents.
bench-fresh: tools
	$(CARGO) build --profile dist --package sluice
	python3 bench/fresh.py --documents target/bench/debian-100000.jsonl

# How soon an edge answers after its start, and what it holds.
bench-start: tools
	$(CARGO) build --profile dist --package sluice
	python3 bench/start.py

# What ten thousand prompts cost.
bench-prompts: tools
	$(CARGO) build --profile dist --package sluice
	python3 bench/prompts.py

# Long runs: half an hour of an edge's memory, twenty edges, a million run records with edges killed meanwhile; then the fuzz targets, ten minutes each.
soak: tools
	$(CARGO) build --release --workspace
	SLUICE_EDGES=20 SLUICE_RUNS=1000000 tests/run -n 0 -s test_fleet.py -k "two_seconds or killed_edges" --timeout 3600
	python3 bench/soak.py --minutes 30
	tests/sanitized 600
	$(MAKE) fuzz

FUZZ_SECONDS ?= 600
fuzz:
	tests/fuzz/run $(FUZZ_SECONDS)

tools:
	@tests/tools
