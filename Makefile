# The chores, each a few lines. `make test` is all that a change has to pass.

PYTHON := python3
VENV := .venv
PAGE := services/console/web
# What only the tests and the example peer need.
ZEEP := zeep==4.3.3
# Helm's own engine, and Kubernetes' schemas.
HELM := helm-python-sdk==0.2.2 kubernetes-validate==1.37.0 PyYAML
CARGO_DENY := 0.20.2
CARGO_FUZZ := 0.13.2
NODE_NEEDED = @npm --version >/dev/null 2>&1 || { echo "install Node.js 20 or newer: https://nodejs.org" >&2; exit 1; }
# Tests ask what lonja does, not how long this disk takes: lonja gives a service 2 s, and a disk
# that others use may stall for longer.
MEMORY := $(shell df -Pm /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 >= 4096 { print "TMPDIR=/dev/shm" }')

.PHONY: test page page-check proto test-browser test-helm test-containers helm-readme helm-examples lint advisories proto-lint bench soak fuzz clean

test: page-check lint advisories test-helm $(VENV)/made
	redis-server --version >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq redis-server; } \
	  || { echo "install Redis 7: apt-get install redis-server, or brew install redis" >&2; exit 1; }
	cargo test --workspace --no-run
	$(MEMORY) cargo test --workspace
	$(MAKE) test-browser

test-helm: $(VENV)/made
	$(VENV)/bin/python tests/helm/test_chart.py

# What is made from the chart and committed beside it.
helm-readme:
	$(PYTHON) helm/readme.py > helm/lonja/README.md
helm-examples: $(VENV)/made
	$(VENV)/bin/python tests/helm/test_chart.py examples

# The console's page, which every build embeds: what this makes is committed. Needs Node.
page:
	$(NODE_NEEDED)
	cd $(PAGE) && npm ci --no-audit --no-fund && npm run build

# Fails if the committed page is not what its sources make.
page-check:
	$(NODE_NEEDED)
	cd $(PAGE) && npm ci --no-audit --no-fund && npm run build -- --outDir $(CURDIR)/target/page --emptyOutDir
	diff -r $(PAGE)/dist target/page || { echo "the committed page is not what its sources make: run make page" >&2; exit 1; }

# The gRPC code that is generated from the protos and committed; a test compares the two.
proto:
	cargo run --package lonja-codegen

# The console in a real browser; pictures of each view are in tests/browser/screenshots.
test-browser:
	chromium --version >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq chromium; } \
	  || { echo "install Chromium: apt-get install chromium" >&2; exit 1; }
	cargo test --workspace --no-run
	cd tests/browser && npm ci --no-audit --no-fund && $(MEMORY) npm test

# The stack of docker-compose.yml, built and run by the container engine of this machine.
test-containers: $(VENV)/made
	cargo build --package lonja-testing
	cargo test --test containers -- --nocapture --test-threads 1

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny --version $(CARGO_DENY)
	cargo deny --all-features check licenses bans sources

# The database of advisories is fetched from github.com: without it this says so.
advisories:
	@if cargo deny fetch db; then cargo deny --all-features check advisories; \
	else echo "ADVISORIES NOT CHECKED: their database cannot be fetched from here" >&2; fi

# Needs Node.
proto-lint:
	npx --yes @bufbuild/buf@1.75.0 lint proto

$(VENV)/made: Makefile
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet $(ZEEP) $(HELM)
	touch $@

# Beside a bare server, on an otherwise idle machine. BENCH_ARGS="--only register" for less.
bench:
	cargo build --release --workspace
	target/release/lonja-bench compare $(BENCH_ARGS)
	target/release/lonja-bench services
	iperf3 --version >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq iperf3; }
	target/release/lonja-bench copy
	cd tests/browser && npm ci --no-audit --no-fund
	target/release/lonja-bench console
	target/release/lonja-bench held
	target/release/lonja-bench disk

# The crash test again and again, which `make test` runs once.
soak:
	for round in 1 2 3 4 5 6 7 8 9 10; do cargo test --test system crash:: || exit 1; done

# Needs a nightly toolchain. What it finds goes into the corpus and so into `make test`.
fuzz:
	cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz --version $(CARGO_FUZZ)
	cd crates/wire && cargo +nightly fuzz run decode -- -max_len=1044 -max_total_time=60

clean:
	cargo clean
	rm -rf $(VENV) $(PAGE)/node_modules tests/browser/node_modules
