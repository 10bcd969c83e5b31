//! Receives messages from a [`MessageBroker`](cqrs_core::MessageBroker) and takes them to the handlers that are
//! subscribed to them: many keys at once, one key in order, with retries, dead letters, and a clean stop. With an
//! [`Inbox`], a message that comes twice has one effect.
//!
//! ```
//! use std::sync::Arc;
//! use cqrs_consumer::Consumer;
//! use cqrs_core::broker::memory::MemoryBroker;
//! use cqrs_core::{Context, EventEmitter, EventHandler, EventMap, EventMediator, NotificationEvent, Result};
//! # use cqrs_core::{Correlation, Encoder, Envelope, MessageBroker};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize, NotificationEvent)]
//! #[event(topic = "meeting_room_notifications", key = room)]
//! struct MeetingRoomClosed { room: u32 }
//!
//! struct SendInvoice;
//!
//! impl EventHandler<MeetingRoomClosed> for SendInvoice {
//!     async fn handle(&self, event: &MeetingRoomClosed, cx: &Context<'_>) -> Result<()> {
//!         println!("an invoice for room {}, because of message {:?}", event.room, cx.message().map(|m| &m.id));
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
//! let map = EventMap::new().subscribe::<MeetingRoomClosed>("meeting_room_notifications", SendInvoice);
//! let events = EventMediator::new(EventEmitter::new(map))?;
//!
//! let broker = Arc::new(MemoryBroker::new());
//! let consumer = Consumer::builder(broker.clone(), "billing").events(events).concurrency(32).build()?;
//! # let said = Envelope::new(MeetingRoomClosed { room: 5 });
//! # broker.publish(Encoder::default().encode(said, &Correlation::default())?).await?;
//! # let shutdown = async { while consumer.stats().handled == 0 { tokio::task::yield_now().await } };
//! # #[cfg(any())]
//! let shutdown = tokio::signal::ctrl_c();
//! consumer.run_until(shutdown).await?;
//! # assert_eq!(consumer.stats().handled, 1);
//! # Ok(()) }
//! ```
//!
//! # What happens to a message
//!
//! | its handlers | then |
//! |---|---|
//! | succeed, or an inbox knows the message | it is acknowledged |
//! | fail, panic, or take longer than the [time-out](ConsumerBuilder::handler_timeout) | it is tried again after a delay ([`RetryPolicy`]), all its handlers with it. They see until when they have time ([`Context::deadline`](cqrs_core::Context::deadline)) |
//! | fail because the database or a broker is away (a retryable error of kind `Store`, `Transaction` or `Broker`), or nobody knows what became of a commit whose answer was lost (`CommitUnknown`) | it is tried until that is back, however long; no attempt is the last |
//! | have failed at the last attempt, or it cannot be decoded ([`ErrorKind::Decode`](cqrs_core::ErrorKind::Decode)) | [`OnFailure`]: it is published to the dead-letter topic, and then acknowledged; or it is tried for ever |
//! | do not exist | [`Unhandled`]: it is acknowledged and counted, or becomes a dead letter |
//!
//! A query of the handler's own that meets a connection which has just died is a failure as any other, and an attempt: the next one has
//! another connection, or waits for the database. Where such a failure is not to count, the handler says so with an error of those kinds.
//!
//! A message whose connection or assignment is [lost](cqrs_core::broker::Delivery::lost) is left where it stands: its
//! handlers are cancelled, and the broker gives it to the next member.
//!
//! # What is guaranteed
//!
//! - **At least once.** A message is acknowledged only when its handlers have succeeded, when the broker has confirmed its
//!   dead letter, or when nobody handles it and the policy says so.
//! - **Order per key.** Within one run, the messages of one key are handled one after the other, in the order in which
//!   the broker delivered them, whatever their topics; the next begins when the one before it is acknowledged. An empty
//!   key is a key.
//! - **Keys do not wait for each other**: neither for a handler that is slow, as far as the
//!   [concurrency](ConsumerBuilder::concurrency) reaches, nor for a message that waits for a retry, as far as the
//!   [prefetch](ConsumerBuilder::prefetch) reaches. Messages without a key wait for nothing.
//! - **Once, with an inbox.** What a handler behind [`Inboxed`] writes and says in its transaction is committed once for
//!   each message id, as long as the inbox keeps the id.
//! - **Bounded memory**: of each run, what is delivered and not yet acknowledged is at most the prefetch, and at most
//!   twice that after a reconnect.
//!
//! # What is not
//!
//! - A handler *without* an inbox runs again when a message comes again: after a crash, a rebalance, a time-out, or when
//!   another handler of the same message failed.
//! - A dead letter may be published twice, with the same id, if the confirm or the acknowledgement got lost. Whoever
//!   replays it brings it back behind the later messages of its key.
//! - Order *across members* is the broker's: it holds where a key belongs to one member at a time.
//! - The attempts are counted in this process. A message that kills the process is delivered again for as long as the
//!   broker does so.
//! - A handler that blocks its thread without yielding can be neither timed out nor cancelled; use
//!   `tokio::task::spawn_blocking` for such work. What a handler spawned lives on when it is cancelled.

mod consumer;
mod dead_letter;
mod inbox;
mod lanes;
mod seen;
mod settings;
mod source;
mod stats;
mod worker;

pub use consumer::Consumer;
pub use cqrs_core::RetryPolicy;
pub use dead_letter::header;
pub use inbox::{Inbox, Inboxed, MissingId};
pub use settings::{ConsumerBuilder, OnFailure, Unhandled};
pub use stats::ConsumerStats;
