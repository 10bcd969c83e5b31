#![cfg_attr(all(feature = "macros", feature = "bootstrap", feature = "sqlite"), doc = include_str!("../../../README.md"))]
#![cfg_attr(
    not(all(feature = "macros", feature = "bootstrap", feature = "sqlite")),
    doc = "CQRS for Rust services: mediators, events and handlers, and with their features an outbox, consumers, brokers and the bootstrap. \
With `macros`, `bootstrap` and `sqlite` this page shows an application."
)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub use cqrs_core::*;

#[cfg(feature = "bootstrap")]
#[doc(no_inline)]
pub use cqrs_bootstrap::bootstrap;

/// From registrations and configuration to a running application.
#[cfg(feature = "bootstrap")]
pub mod app {
    pub use cqrs_bootstrap::*;
}

/// The consumer runtime, and the port to inboxes.
#[cfg(feature = "consumer")]
pub mod consumer {
    pub use cqrs_consumer::*;
}

/// The transactional outbox: the relay, the port to databases, an outbox in memory.
#[cfg(feature = "outbox")]
pub mod outbox {
    pub use cqrs_outbox::*;
}

/// Outbox and inbox in an SQL database, on diesel and diesel-async.
// Not called `diesel`: `use cqrs::*` would hide the crate of that name.
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub mod sql {
    pub use cqrs_outbox_diesel::*;
}

/// The Kafka broker.
#[cfg(feature = "kafka")]
pub mod kafka {
    pub use cqrs_broker_kafka::*;
}

/// The AMQP 0-9-1 (RabbitMQ) broker.
#[cfg(feature = "amqp")]
pub mod amqp {
    pub use cqrs_broker_amqp::*;
}
