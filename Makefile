# Two commands matter: `make demo` shows what Menshen does, `make test` proves it. Both install what is missing first.
.PHONY: demo test setup check fmt lint bench-compare

demo: setup
	cargo run --locked --quiet -- demo $(if $(ONCE),--once)

test: setup
	cargo test --locked

setup:
	@bash .ci/setup

check:
	@bash .ci/run

fmt:
	cargo fmt

lint:
	cargo clippy --locked --all-targets -- -D warnings

# Needs PgBouncer besides; see tools/bench-compare --help for ARGS.
bench-compare: setup
	@command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || { echo "bench-compare: please install pgbouncer (apt-get install --no-install-recommends pgbouncer)" >&2; exit 1; }
	cargo build --release --locked --quiet --bin menshen --example forwarder
	tools/bench-compare $(ARGS)
