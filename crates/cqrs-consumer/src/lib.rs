//! The consumer runtime and the inbox port of the cqrs toolkit
