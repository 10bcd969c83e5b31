//! CQRS for Rust services: mediators, a transactional outbox with a relay, brokers and consumers
