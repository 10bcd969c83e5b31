//! Kafka for the `cqrs` toolkit, on [rdkafka]: a [`MessageBroker`](cqrs_core::MessageBroker) that
//! publishes with one idempotent producer and subscribes as members of consumer groups.
//!
//! ```no_run
//! use cqrs_broker_kafka::KafkaBroker;
//! use cqrs_core::broker::{MessageBroker, SubscribeOptions};
//! use cqrs_core::Message;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = KafkaBroker::connect("kafka://localhost:9092")?;
//!
//! let mut message = Message::new("rooms", r#"{"room":5}"#);
//! message.key = Some("5".into());
//! let receipt = broker.publish(message).await?;
//! println!("at {:?} of partition {:?}", receipt.offset, receipt.partition);
//!
//! let mut rooms = broker.subscribe(SubscribeOptions::new("billing", ["rooms"])).await?;
//! while let Some(delivery) = rooms.next().await? {
//!     println!("{:?}", delivery.message());
//!     delivery.ack().await?;
//! }
//! # Ok(()) }
//! ```
//!
//! Options of librdkafka go into the URL (`kafka://a:9092,b:9092?client.id=billing`) or the
//! [builder](KafkaBroker::builder).
//!
//! # What it can do
//!
//! | | |
//! |---|---|
//! | order by key | yes: keys go to partitions as the Java client takes them (`murmur2_random`) |
//! | replay | yes: a new group begins with the oldest message that is kept |
//! | durable | yes: `acks=all` and idempotence, always; how many replicas that is, the topic says (`min.insync.replicas`) |
//! | tombstones | yes |
//! | headers | yes: bytes, in order, repeated names too; the record's timestamp is the message's, in milliseconds |
//! | receipts | partition and offset |
//! | publish sessions | yes: a producer of their own each, with `enable.gapless.guarantee` |
//! | counts attempts | while the member holds the partition; from 1 again after a rebalance or a restart |
//!
//! # Publishing
//!
//! The client retries by itself within `message.timeout.ms` (6 s here, below the lease of an outbox relay), in
//! order. A full queue makes `enqueue` wait. What is not known to be refused is
//! [unknown](cqrs_core::ErrorClass::Unknown): a time-out, a cut, a purge; and what the client only concludes, for it takes a message
//! for appended when a later one of its partition was, and a broker may have taken that one without it. A topic that does not exist is an error of
//! class [destination](cqrs_core::ErrorClass::Destination) after about three seconds, if the cluster does not create
//! it. A producer that is beyond repair is replaced, and what was left in it is given up as unknown; so is one that has lost the
//! cluster for good while others reach it, as librdkafka's clients may when all brokers start anew. (That is found out by messages
//! that were not confirmed in time: with `message.timeout.ms=0` there are none.)
//!
//! # Receiving
//!
//! An acknowledgement stores the offset up to which *all* messages of the partition were handled; it is committed
//! every second, on a rebalance and on close. Kafka cannot take a single message back, so a released one stays in
//! the adapter's memory and is handed out again, before those behind it in its partition. Whoever releases a message
//! at once, again and again, holds up its partition: wait before you release.
//!
//! When a partition goes to another member, its deliveries are [lost](cqrs_core::broker::Delivery::lost) and their
//! acknowledgements answer [stale](cqrs_core::broker::Acknowledged::Stale). Rebalances are heard of in
//! [`next`](cqrs_core::broker::Subscription::next): call it again soon, at the latest after
//! `max.poll.interval.ms` (five minutes). A member that is full (`prefetch`) may wait in it for as long as it likes.
//!
//! An error of `next` says that somebody has to act: a topic is missing, the group is not allowed. Several that come at once
//! are told as one. What passes by itself is logged, and `next` waits: the brokers are away, the group has another
//! coordinator, the member was too slow and joins again. A member that has lost the cluster for good while others reach it is
//! replaced within a minute: its deliveries are lost, and what was not committed comes again.
//!
//! # Not guaranteed, and simple on purpose for now
//!
//! - A crash brings back what was handled since the last commit, up to a second's worth: use an inbox.
//! - [`StartFrom::Latest`](cqrs_core::broker::StartFrom::Latest) begins where the group's first assignment finds the
//!   end of the topic, which is after `subscribe` returns.
//! - A member that is closed before the cluster has answered that it joined leaves a placeholder in its group: the next
//!   rebalance waits for it, for `session.timeout.ms` at most (45 s unless set).
//! - A member that is closed in the midst of a rebalance, or after the cluster gave it up (it was silent for
//!   `session.timeout.ms`), may fail to commit: `close` then says so, and messages come again.
//! - No transactions, no TLS or SASL beyond what librdkafka was built with.
//! - More partitions for a topic take keys to other partitions: drain it first. A client that learns of more logs a
//!   warning (within `topic.metadata.refresh.interval.ms`, five minutes unless set).
//! - `check` asks for the metadata of all topics.

mod blocking;
mod broker;
mod config;
mod consumer;
mod error;
mod log;
mod producer;
mod record;
mod session;
mod trouble;
mod watch;
mod watermark;

pub use broker::{KafkaBroker, KafkaBrokerBuilder};
