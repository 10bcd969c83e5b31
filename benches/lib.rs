//! The benchmarks of the cqrs toolkit; see the README beside this file.
