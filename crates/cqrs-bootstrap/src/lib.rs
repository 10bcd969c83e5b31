//! From registrations and configuration to a running application: mediators, the relay of the outbox, consumers, and a
//! clean stop.
//!
//! ```
//! use std::sync::Arc;
//! use cqrs_bootstrap::bootstrap;
//! use cqrs_core::broker::memory::MemoryBroker;
//! use cqrs_core::{Context, EventHandler, NotificationEvent, Request, Result, TransactionalHandler};
//! use cqrs_outbox::MemoryOutbox;
//! use cqrs_outbox::memory::{Memory, MemoryTx};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Request)]
//! struct CloseRoom { room: u32 }
//!
//! #[derive(Serialize, Deserialize, NotificationEvent)]
//! #[event(topic = "meeting_room_notifications", key = room)]
//! struct MeetingRoomClosed { room: u32 }
//!
//! struct CloseRoomHandler;
//!
//! impl TransactionalHandler<CloseRoom, Memory> for CloseRoomHandler {
//!     async fn handle(&self, command: CloseRoom, _tx: &mut MemoryTx, cx: &Context<'_>) -> Result<()> {
//!         cx.emit(MeetingRoomClosed { room: command.room }); // into the outbox, with the commit
//!         Ok(())
//!     }
//! }
//!
//! struct ProjectRooms;
//!
//! impl EventHandler<MeetingRoomClosed> for ProjectRooms {
//!     async fn handle(&self, event: &MeetingRoomClosed, _cx: &Context<'_>) -> Result<()> {
//!         println!("room {} is closed", event.room);
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
//! let app = bootstrap()
//!     .outbox(MemoryOutbox::new())
//!     .transactional::<CloseRoom>(CloseRoomHandler)
//!     .group("rooms")
//!     .subscribe::<MeetingRoomClosed>("meeting_room_notifications", ProjectRooms)
//!     .broker(Arc::new(MemoryBroker::new()))
//!     .build()
//!     .await?;
//!
//! app.requests().send(CloseRoom { room: 5 }).await?;
//! # let shutdown = async { while app.consumer_stats().handled < 1 { tokio::task::yield_now().await } };
//! app.run_until(shutdown).await?; // the relay and the consumer
//! # Ok(()) }
//! ```

mod app;
mod broker;
mod builder;
mod purging;

pub use app::App;
pub use broker::{BrokerSource, connect_broker};
pub use builder::{Builder, HasDatabase, NoDatabase, OnDatabase, bootstrap};
