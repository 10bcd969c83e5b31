//! The examples of the cqrs toolkit.
