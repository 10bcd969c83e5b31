# Every recipe is one command that also works without `just`.

# Lists the recipes
_default:
    @just --list --unsorted

# Everything that has to hold before a change is merged
ci:
    .ci/run

# All tests, with the servers they need; arguments go to cargo test: `just test -p cqrs-core`
test *arguments:
    scripts/test -- {{ arguments }}

# More worlds of the relay's simulation than the tests look at; `CQRS_SIM_SEED=17 just simulate` traces one
simulate seeds="300000":
    CQRS_SIM_SEEDS={{ seeds }} cargo test -p cqrs-outbox --test it promises_hold -- --nocapture

# The scopes of the relay's model that take too long for the tests: a quarter of an hour, 10 GiB of memory
model:
    cargo test -p cqrs-outbox --test it scopes_for_the_night -- --ignored --nocapture

# Each decoder is given what libFuzzer makes up, a minute each; `just fuzz 600 python_cqrs` takes one, for ten
fuzz *arguments:
    scripts/fuzz {{ arguments }}

# Relays, broker and database are killed while 100,000 transactions are written, on each pair of them; a quarter of an hour
chaos cells="chaos_" rows="100000":
    CQRS_CHAOS_ROWS={{ rows }} scripts/with-services cargo test -p cqrs-cli --test e2e {{ cells }} -- --nocapture

# The outbox's promises are broken on purpose, one after the other, and their tests have to fail; an hour. `just mutants P3` takes some
mutants *names:
    scripts/with-services scripts/mutants {{ names }}

# The example of the README's first command
quickstart *arguments:
    cargo run --example quickstart -- {{ arguments }}

# What the mediator costs beside a direct call; the ratios are in benches/README.md
bench *arguments:
    cargo bench -p cqrs-benches {{ arguments }}

# The same dispatch by other mediators, each used as it says itself; they are built apart, with a lock file of their own
bench-peers:
    cargo bench --locked --manifest-path benches/peers/dispatch/Cargo.toml

# What the relay takes to a broker in a second, beside the bare clients it stands on; an argument chooses lines
bench-relay *arguments:
    scripts/with-services cargo bench -p cqrs-benches --features servers --bench relay -- {{ arguments }}

# The documentation of all crates, with all features
docs:
    .ci/run docs

# Whether code is formatted and clippy is content; changes nothing
lint:
    .ci/run format lint

# Formats all code
fmt:
    cargo fmt --all

# Every published crate with each of its features alone, and what they want of Rust
features:
    .ci/run features rust-version

# Licences, sources and banned crates of the dependencies
deny:
    .ci/run deny
