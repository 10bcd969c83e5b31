//! Runs the example as people do: as a process.
// The helpers are not `#[test]` functions, so the exception in clippy.toml does not reach them.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod bench;
mod databases;
mod dependencies;
mod input;
mod restart;
mod summary;
