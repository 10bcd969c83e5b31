//! Events, relays and statements that the tests look at.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cqrs_core::broker::{Capabilities, Confirm, Receipt, SubscribeOptions, Subscription};
use cqrs_core::{BrokerError, ErrorClass, Message, MessageBroker, NotificationEvent};
use cqrs_outbox::{Heartbeat, Lease, OutboxRow, OutboxStore, ReadRequest, RelayId, RelaySettings};
use diesel::connection::{Instrumentation, InstrumentationEvent};
use serde::Serialize;
use uuid::Uuid;

#[derive(Serialize, NotificationEvent)]
#[event(name = "room_closed", topic = "rooms", key = room)]
pub(crate) struct RoomClosed {
    pub(crate) room: String,
}

pub(crate) fn closed(room: impl fmt::Display) -> RoomClosed {
    RoomClosed { room: room.to_string() }
}

/// Everything that waits, as a relay reads it that owns everything and then leaves.
pub(crate) async fn read_all(store: &Arc<dyn OutboxStore>) -> Vec<OutboxRow> {
    let relay = RelayId { name: "reader".to_owned(), incarnation: Uuid::new_v4() };
    let leases = own_all(store, &relay).await;
    let request = ReadRequest { leases, known: Vec::new(), limit: 1_000_000, max_bytes: usize::MAX };
    let rows = store.read(&request).await.unwrap();
    store.leave(&relay).await.unwrap();
    rows
}

pub(crate) async fn own_all(store: &Arc<dyn OutboxStore>, relay: &RelayId) -> Vec<Lease> {
    let beat = Heartbeat { lease: Duration::from_secs(600), take: usize::MAX, release: Vec::new() };
    let ownership = store.heartbeat(relay, &beat).await.unwrap();
    assert_eq!(ownership.leases.len(), ownership.groups, "somebody else owns groups");
    ownership.leases
}

/// Settings that notice soon what happened.
pub(crate) fn quick() -> RelaySettings {
    let mut settings = RelaySettings::default();
    settings.poll_interval = Duration::from_millis(50);
    settings.backoff = Duration::from_millis(20);
    settings.max_backoff = Duration::from_millis(500);
    settings
}

/// A broker that keeps what it gets.
#[derive(Debug, Default)]
pub(crate) struct Sink(Mutex<Vec<Message>>);

impl Sink {
    pub(crate) fn messages(&self) -> Vec<Message> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn payloads(&self) -> Vec<Bytes> {
        self.messages().into_iter().filter_map(|message| message.payload).collect()
    }
}

#[async_trait]
impl MessageBroker for Sink {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new("sink")
    }

    async fn enqueue(&self, message: &Message) -> Result<Confirm, BrokerError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(message.clone());
        Ok(Confirm::ready(Ok(Receipt::new())))
    }

    async fn subscribe(&self, _options: SubscribeOptions) -> Result<Box<dyn Subscription>, BrokerError> {
        Err(BrokerError::new(ErrorClass::Destination, "a sink"))
    }

    async fn check(&self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), BrokerError> {
        Ok(())
    }
}

/// The statements of a test, as they are sent, with their parameters. To look through those of all tests takes seconds, in which
/// no other test could send one.
pub(crate) type Statements = Arc<Mutex<Vec<String>>>;

thread_local! {
    static STATEMENTS: RefCell<Statements> = RefCell::default();
}

/// From now on this thread's statements are recorded there.
pub(crate) fn record_in(statements: &Statements) {
    STATEMENTS.set(Arc::clone(statements));
}

fn recorded() -> Statements {
    STATEMENTS.with_borrow(Arc::clone)
}

struct Recorder;

impl Instrumentation for Recorder {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        if let InstrumentationEvent::StartQuery { query, .. } = event {
            let mut statement = Beginning(String::new());
            // An error says that the rest is left out.
            let _ = write!(statement, "{query}");
            recorded().lock().unwrap_or_else(PoisonError::into_inner).push(statement.0);
        }
    }
}

/// As much of a text as anybody looks at: a byte of a payload takes five of it.
struct Beginning(String);

impl fmt::Write for Beginning {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        if self.0.len() + part.len() > 1 << 20 {
            return Err(fmt::Error);
        }
        self.0.push_str(part);
        Ok(())
    }
}

pub(crate) fn record_statements() {
    diesel::connection::set_default_instrumentation(|| Some(Box::new(Recorder))).unwrap();
}

/// This test's statements so far that contain all of these.
pub(crate) fn statements_with(parts: &[&str]) -> Vec<String> {
    let recorded = recorded();
    let statements = recorded.lock().unwrap_or_else(PoisonError::into_inner);
    statements.iter().filter(|one| parts.iter().all(|part| one.contains(part))).cloned().collect()
}
