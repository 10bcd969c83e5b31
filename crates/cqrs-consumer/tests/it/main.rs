//! The consumer runtime and the inbox, with a scripted broker and a database in memory.
// The helpers are not `#[test]` functions, so the exception in clippy.toml does not reach them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod building;
mod dead_letters;
mod end_to_end;
mod inbox;
mod order;
mod receiving;
mod retries;
mod stopping;
mod support;
