//! Conformance suites for brokers and stores of the cqrs toolkit, and a history checker
