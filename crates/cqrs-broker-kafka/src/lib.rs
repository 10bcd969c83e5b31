//! The Kafka broker of the cqrs toolkit, on rdkafka
