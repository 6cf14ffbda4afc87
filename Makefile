# The chores, each a line or two. `make test` is all that a change has to pass.

PYTHON := python3
VENV := .venv
# The Python packages that only tests and the example peer need.
ZEEP := zeep==4.3.3

.PHONY: test lint bench soak fuzz clean

test: lint $(VENV)
	cargo test --workspace

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	command -v cargo-deny >/dev/null || cargo install --locked cargo-deny --version 0.20.2
	cargo deny --all-features check advisories licenses bans sources

$(VENV): Makefile
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet $(ZEEP)
	touch $(VENV)
