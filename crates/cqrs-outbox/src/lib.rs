//! The transactional outbox of the cqrs toolkit: the store port, the relay and its engine
