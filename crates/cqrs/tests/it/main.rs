//! Tests of the facade: what users meet first, and what they get wrong.

mod bad_input;
mod globs;
