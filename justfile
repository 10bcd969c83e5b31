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

# The example of the README's first command
quickstart *arguments:
    cargo run --example quickstart -- {{ arguments }}

# What the mediator costs beside a direct call; the ratios are in benches/README.md
bench *arguments:
    cargo bench -p cqrs-benches {{ arguments }}

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
