//! RabbitMQ for the `cqrs` toolkit, on [lapin]: a [`MessageBroker`](cqrs_core::MessageBroker) over AMQP 0-9-1
//! with publisher confirms.
//!
//! ```no_run
//! use cqrs_broker_amqp::AmqpBroker;
//! use cqrs_core::broker::{MessageBroker, SubscribeOptions};
//! use cqrs_core::Message;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = AmqpBroker::connect("amqp://guest:guest@localhost:5672")?;
//!
//! // The queue of a group comes into being with its first subscription, and gets what is published from then on.
//! let mut rooms = broker.subscribe(SubscribeOptions::new("billing", ["rooms"])).await?;
//!
//! let mut message = Message::new("rooms", r#"{"room":5}"#);
//! message.name = "room_closed".into();
//! broker.publish(message).await?;
//!
//! while let Some(delivery) = rooms.next().await? {
//!     println!("{:?}", delivery.message());
//!     delivery.ack().await?;
//! }
//! # Ok(()) }
//! ```
//!
//! # Topology
//!
//! A topic is a durable *fanout* exchange of its name, and a group has for each topic a durable queue
//! `<group>.<topic>`, bound to it. Of each message every group gets one copy, and the members of a group share their
//! queue: what [`SubscribeOptions`](cqrs_core::broker::SubscribeOptions) says, with nothing to configure. Publisher
//! and consumer both declare the exchange, so that either may come first. A fanout exchange leaves the routing key
//! free: it is the event's name, for those who look at traces or bind exchanges of their own behind it.
//!
//! An exchange or queue of that name with other properties is an error of class
//! [destination](cqrs_core::ErrorClass::Destination). Where others have declared things in their own way, a
//! [`Topology`] says as data what there is and whether it is declared, only looked for, or left alone.
//!
//! # What it can do
//!
//! | | |
//! |---|---|
//! | order by key | not by itself: see below |
//! | replay | no: a group gets what is published after its queue was declared, and [`StartFrom`](cqrs_core::broker::StartFrom) makes no difference |
//! | durable | yes: persistent messages, durable exchanges and queues |
//! | tombstones | yes, by the header `cqrs-tombstone` |
//! | key | yes, any bytes, by the header `cqrs-key` |
//! | headers | yes: bytes, repeated names too; between different names no order is kept; not `CC` and `BCC`, which mean routing to RabbitMQ |
//! | properties | `message_id`, `type`, `timestamp` (seconds), `content_type`, `content_encoding`, `correlation_id` |
//! | receipts | that the broker has it; not where |
//! | counts attempts | with [`quorum_queues`](AmqpBrokerBuilder::quorum_queues); on classic queues "again" counts as the second |
//!
//! # Order
//!
//! A queue hands out its messages in the order in which they were published, whatever their keys. So long as one
//! consumer takes from it, they reach it in that order: run one member in the group, or set
//! [`single_active_consumer`](AmqpBrokerBuilder::single_active_consumer), which keeps the others standing by. A
//! released message goes back to its place in the queue, but behind those that were delivered already: with a
//! `prefetch` of 1 there are none, and the order holds through releases, too. Because all this is up to each
//! subscription, [`orders_by_key`](cqrs_core::broker::Capabilities::orders_by_key) is `false`.
//!
//! # Publishing
//!
//! One connection, on which messages are written in the order of `enqueue` and confirmed as the broker likes. A
//! message that no queue takes is returned: an error of class [destination](cqrs_core::ErrorClass::Destination), never
//! a success. While there is no connection, publishing is an [outage](cqrs_core::ErrorClass::Outage) at once; it is
//! made again in the background, after 0.1 to 10 seconds. What was written and not confirmed when a connection was lost,
//! and what a queue refused, is [unknown](cqrs_core::ErrorClass::Unknown). A confirmation that does not come within
//! [`confirm_timeout`](AmqpBrokerBuilder::confirm_timeout) is such a loss.
//!
//! # Receiving
//!
//! A connection for each subscription. When it is lost, its deliveries are
//! [lost](cqrs_core::broker::Delivery::lost), their acknowledgements answer
//! [stale](cqrs_core::broker::Acknowledged::Stale), and [`next`](cqrs_core::broker::Subscription::next) connects
//! again; it reports each attempt that fails, and the next call waits before another. With several topics each of them
//! has its share of `prefetch`.
//!
//! # Not guaranteed, and simple on purpose for now
//!
//! - AMQP does not confirm acknowledgements: one that was written to a connection which then broke is answered `Done`,
//!   and the message comes again. Use an inbox.
//! - Messages published before any queue is bound are refused, not kept.
//! - The server's `max_message_size` is not known to the client: see
//!   [`max_message_bytes`](AmqpBrokerBuilder::max_message_bytes).
//! - No TLS. One topology for all topics of a broker: where two are wanted, make two.
//! - A queue outlives its group: delete it when the group is gone, or it fills up.

mod backoff;
mod broker;
mod config;
mod declare;
mod error;
mod options;
mod publisher;
mod subscription;
mod topology;
mod wire;

pub use broker::{AmqpBroker, AmqpBrokerBuilder};
pub use topology::{Arguments, Binding, Declare, Exchange, NamedBinding, Queue, Topology};
