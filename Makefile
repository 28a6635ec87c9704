# The one way to check Towline, the same on a laptop and in CI. `make help` lists the targets.

CARGO ?= cargo
# An unexpected warning is a failure here, and only here: while you work it is a hint.
STRICT = -D warnings

# The agent that can be made to fail stays in a place of its own: nobody takes it for the ordinary one.
FAILING = -p towline-agent --locked --features failpoints --target-dir target/failpoints

.PHONY: help bench fuzz test test-real soak nats-server netns-tools docker openssh build lint fmt doc clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: build nats-server netns-tools docker ## unit tests, property tests, batteries, a real nats-server, a real Docker engine, the real binaries
	$(CARGO) test --workspace --locked
	TOWLINE_KILLS=50 $(CARGO) test $(FAILING) --test crashes -- --skip on_docker
	TOWLINE_KILLS=10 $(CARGO) test $(FAILING) --test crashes -- on_docker

test-real: build docker openssh ## engines behind a real SSH server and behind TLS
	@# As of the whole workspace: of one package, the same libraries would be built again with fewer features.
	$(CARGO) test --workspace --locked --test remote -- --ignored

soak: nats-server docker ## ten times as many simulated races and engines as `make test`, and a thousand kills of an agent
	TOWLINE_SEEDS=10000 $(CARGO) test -p towline-bus --locked --test simulation -- --nocapture
	TOWLINE_SEEDS=2000 $(CARGO) test -p towline-agent --locked --lib simulation
	TOWLINE_KILLS=1000 $(CARGO) test $(FAILING) --test crashes -- --skip on_docker
	TOWLINE_KILLS=200 $(CARGO) test $(FAILING) --test crashes -- on_docker

FUZZ_SECONDS ?= 60
fuzz: ## look for inputs that break a decoder, FUZZ_SECONDS (60) for each; takes a C++ compiler
	fuzz/run $(FUZZ_SECONDS)

nats-server:
	scripts/nats-server

netns-tools:
	scripts/netns-tools

docker:
	scripts/docker

openssh:
	scripts/openssh

build:
	$(CARGO) build --workspace --bins --locked

bench: nats-server docker ## figures, one JSON object a line; on a machine that does nothing else
	$(CARGO) build --release --workspace --bins --locked
	target/release/towline-bench $(BENCH)

lint: ## formatting, clippy and documentation, all without warnings
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- $(STRICT)
	$(CARGO) clippy -p towline-agent --features failpoints --all-targets --locked -- $(STRICT)
	RUSTDOCFLAGS="$(STRICT)" $(CARGO) doc --workspace --no-deps --locked --document-private-items

fmt: ## format everything
	$(CARGO) fmt --all

doc: ## the API documentation, to read
	$(CARGO) doc --workspace --no-deps --open

clean: ## forget what was built
	$(CARGO) clean
