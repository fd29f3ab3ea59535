# Two commands matter: `make demo` shows what Menshen does, `make test` proves it. Both install what is missing first.
.PHONY: demo test setup check fmt lint

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
