# The chores, each a few lines. `make test` is all that a change has to pass.

PYTHON := python3
VENV := .venv
PAGE := services/console/web
# What only tests and the example peer need, in a Python environment of its own.
ZEEP := zeep==4.3.3
# Helm's own engine, and Kubernetes' schemas.
HELM := helm-python-sdk==0.2.2 kubernetes-validate==1.37.0 PyYAML
TYPOS := typos==1.52.0
CARGO_DENY := 0.20.2
CARGO_DEB := 3.8.0
CARGO_FUZZ := 0.13.2
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# Tests ask what lonja does, not how long this disk takes: lonja gives a service 2 s, and a disk
# that others use may stall for longer.
MEMORY := $(shell df -Pm /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 >= 4096 { print "TMPDIR=/dev/shm" }')

# $(call debian,COMMAND,PACKAGE): installs the package of a command that is missing.
debian = @command -v $(1) >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq $(2) >/dev/null; } \
  || { echo "install $(1): apt-get install $(2), or the package of your system" >&2; exit 1; }
# $(call needed,COMMAND,WHERE FROM): says what to install by hand.
needed = @command -v $(1) >/dev/null || { echo "install $(2)" >&2; exit 1; }

.PHONY: setup test test-alerts test-browser test-helm test-newcomer test-containers test-kubernetes test-cluster \
  lint advisories proto-lint page page-check proto helm-readme helm-examples dist bench \
  simulate planted soak fuzz clean

# What the tests need beside Rust, a C compiler, Python, Node.js and npm.
setup: $(VENV)/made
	$(call needed,npm,Node.js 20 or newer: https://nodejs.org)
	$(call debian,redis-server,redis-server)
	$(call debian,chromium,chromium)
	cargo deny --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-deny --version $(CARGO_DENY)
	cd tests/browser && npm ci --silent --no-audit --no-fund

$(VENV)/made: Makefile
	$(PYTHON) -m venv $(VENV) || { echo "install Python 3 with venv: apt-get install python3-venv" >&2; exit 1; }
	$(VENV)/bin/pip install --quiet $(ZEEP) $(HELM) $(TYPOS)
	touch $@

test: setup page-check lint advisories test-helm
	cargo test --workspace --no-run
	$(MEMORY) cargo test --workspace
	$(MAKE) test-alerts test-browser test-newcomer

# The console in a real browser; pictures of each view are in tests/browser/screenshots.
test-browser: setup
	cargo build --workspace
	cd tests/browser && $(MEMORY) npm test

test-helm: setup
	$(VENV)/bin/python tests/helm/test_chart.py

# Alerts and dashboard. promtool is in Debian's package of Prometheus, which is unpacked and not installed: it
# would start a server.
PROMTOOL := $(or $(shell command -v promtool),$(CURDIR)/target/tools/usr/bin/promtool)
test-alerts: $(PROMTOOL)
	PROMTOOL=$(PROMTOOL) $(PYTHON) tests/observability/test_observability.py

$(CURDIR)/target/tools/usr/bin/promtool:
	mkdir -p target/tools
	cd target/tools && apt-get download -qq prometheus && dpkg -x prometheus_*.deb . && touch $@ \
	  || { echo "install promtool: https://prometheus.io/download" >&2; exit 1; }

# The commands of the README as they stand, in a clone of what is committed.
test-newcomer: setup
	$(PYTHON) tests/newcomer/walk.py

# The stack of docker-compose.yml and the packages, by the container engine of this machine.
test-containers: $(VENV)/made dist
	cargo test --test containers -- --nocapture --test-threads 1

# The chart on the cluster of the current context, if LONJA_TEST_CONTEXT names that context:
# tests/kubernetes/README.md.
test-kubernetes: $(VENV)/made
	$(call needed,kubectl,kubectl: https://kubernetes.io/docs/tasks/tools)
	$(call needed,helm,Helm 4: https://helm.sh)
	@context=$$(kubectl config current-context 2>/dev/null) \
	  || { echo "no cluster: tests/kubernetes/README.md says how to get one" >&2; exit 1; }; \
	[ "$$context" = "$$LONJA_TEST_CONTEXT" ] \
	  || { echo "the current context is $$context: to test on that cluster, set LONJA_TEST_CONTEXT=$$context" >&2; exit 1; }
	cargo test --test kubernetes -- --nocapture

# The command that makes a cluster where no registry can be reached. Needs root.
test-cluster:
	$(PYTHON) tests/kubernetes/test_cluster.py

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --quiet
	$(VENV)/bin/typos
	cargo deny --all-features check licenses bans sources

# The database of advisories is fetched from github.com: without it this says so.
advisories: setup
	@if cargo deny fetch db; then cargo deny --all-features check advisories; \
	else echo "ADVISORIES NOT CHECKED: their database cannot be fetched from here" >&2; fi

proto-lint:
	npx --yes @bufbuild/buf@1.75.0 lint proto

# The console's page, which every build embeds: what this makes is committed.
page:
	$(call needed,npm,Node.js 20 or newer: https://nodejs.org)
	cd $(PAGE) && npm ci --silent --no-audit --no-fund && npm run build

# Fails if the committed page is not what its sources make.
page-check:
	$(call needed,npm,Node.js 20 or newer: https://nodejs.org)
	cd $(PAGE) && npm ci --silent --no-audit --no-fund && npm run build -- --outDir $(CURDIR)/target/page --emptyOutDir
	diff -rq $(PAGE)/dist target/page || { echo "the committed page is not what its sources make: run make page" >&2; exit 1; }

# The gRPC code that is generated from the protos and committed; a test compares the two.
proto:
	cargo run --package lonja-codegen

# What is made from the chart and committed beside it.
helm-readme:
	$(PYTHON) helm/readme.py > helm/lonja/README.md
helm-examples: $(VENV)/made
	$(VENV)/bin/python tests/helm/test_chart.py examples

# What is shipped, in target/packages: a tarball and a Debian package.
dist:
	cargo deb --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-deb --version $(CARGO_DEB)
	cargo build --profile dist --locked --package lonja
	rm -rf target/packages
	cargo run --quiet --package lonja-packaging -- target/packages
	name=lonja-$$(cargo pkgid --package lonja | sed 's/.*[#@]//')-$$(uname -m)-linux && cd target/packages \
	  && mkdir -p $$name/bin $$name/lib/systemd/system && cp -r share $$name/ \
	  && strip --strip-debug -o $$name/bin/lonja ../dist/lonja \
	  && cp ../../packaging/lonja.service $$name/lib/systemd/system/ \
	  && cp ../../README.md ../../CHANGELOG.md ../../LICENSE-MIT ../../LICENSE-APACHE $$name/ \
	  && tar -czf $$name.tar.gz $$name && rm -r $$name
	cargo deb --quiet --no-build --profile dist --package lonja --output target/packages/

# Beside a bare server, the kernel alone, opentracker and a bare chain, on an otherwise idle machine.
# BENCH_ARGS="--only register" for less.
bench:
	$(call debian,iperf3,iperf3)
	cargo build --profile dist --workspace
	target/dist/lonja-bench compare $(BENCH_ARGS)
	target/dist/lonja-bench compare --limit
	$(call debian,opentracker,opentracker)
	target/dist/lonja-bench compare --opentracker opentracker --only register
	target/dist/lonja-bench services
	target/dist/lonja-bench copy
	cd tests/browser && npm ci --silent --no-audit --no-fund
	target/dist/lonja-bench console
	target/dist/lonja-bench held
	target/dist/lonja-bench disk
	target/dist/lonja-bench transfer
	target/dist/lonja-bench capacity

# 20,000 power cuts of a simulated disk, and 10,000 simulated worlds of each shape: docs/testing.md.
simulate:
	LONJA_CUTS=20000 cargo test --release --package lonja-journal --lib simulation -- --nocapture
	LONJA_WORLDS=10000 cargo test --release --package lonja-simulation --lib -- --nocapture

# Bugs are planted in a copy, and the simulations must find each of them.
planted:
	$(PYTHON) tests/simulation/planted.py

# Real processes, killed, paused, with a full disk and a clock that jumps: for an hour, or as many seconds as
# SOAK_SECONDS says. The page it leaves is target/soak.md. Mounts a small disk, which needs root.
SOAK_SECONDS := 3600
SOAK_DISK := target/soak
soak: setup
	$(call debian,faketime,faketime)
	mkdir -p $(SOAK_DISK)
	cargo test --release --test system --no-run
	mountpoint -q $(SOAK_DISK) || $(SUDO) mount -t tmpfs -o size=128m,mode=1777 lonja-soak $(SOAK_DISK) || exit 1; \
	trap '$(SUDO) umount $(SOAK_DISK)' EXIT; trap 'exit 130' INT TERM; \
	LONJA_SOAK_DISK=$(CURDIR)/$(SOAK_DISK) LONJA_SOAK_SECONDS=$(SOAK_SECONDS) \
	  LONJA_FAKETIME=$$(ls /usr/lib/*/faketime/libfaketimeMT.so.1 | head -1) \
	  cargo test --release --test system soak:: -- --ignored --nocapture

# Each target for a minute, with the number of its runs. Needs a nightly toolchain. What is found goes into
# the corpus, which `make test` reads.
FUZZ_SECONDS := 60
fuzz:
	cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz --version $(CARGO_FUZZ)
	cd tests/fuzz && for target in $$(ls targets/corpus); do \
	  echo "$$target:"; log=$$(mktemp); \
	  cargo +nightly fuzz run --fuzz-dir targets $$target -- -max_len=4096 -max_total_time=$(FUZZ_SECONDS) \
	    -print_final_stats=1 >$$log 2>&1 || { tail -40 $$log; exit 1; }; \
	  grep -E 'number_of_executed_units|average_exec_per_sec' $$log; rm $$log; done

clean:
	cargo clean
	rm -rf $(VENV) $(PAGE)/node_modules tests/browser/node_modules
