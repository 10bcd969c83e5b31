//! Handlers made of closures, a journal, a broker that records, a database that is a list.

use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cqrs_core::broker::{Capabilities, Confirm, Receipt, SubscribeOptions, Subscription};
use cqrs_core::*;
use futures_util::future::BoxFuture;
use serde::Serialize;

/// What happened, in its order. Leaked, so that the closures of a test can all have it.
#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<Vec<String>>);

impl Journal {
    pub(crate) fn new() -> &'static Self {
        Box::leak(Box::default())
    }

    pub(crate) fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    pub(crate) fn entries(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

/// A closure as a handler of requests.
pub(crate) struct OnRequest<R, F>(F, PhantomData<fn(R)>);

pub(crate) fn on_request<R: Request, F>(handler: F) -> OnRequest<R, F>
where
    F: for<'a> Fn(R, &'a Context<'a>) -> BoxFuture<'a, Reply<R>> + Send + Sync + 'static,
{
    OnRequest(handler, PhantomData)
}

impl<R: Request, F> RequestHandler<R> for OnRequest<R, F>
where
    F: for<'a> Fn(R, &'a Context<'a>) -> BoxFuture<'a, Reply<R>> + Send + Sync + 'static,
{
    async fn handle(&self, request: R, cx: &Context<'_>) -> Reply<R> {
        (self.0)(request, cx).await
    }
}

/// A closure as a handler of events.
pub(crate) struct OnEvent<E, F>(F, PhantomData<fn(E)>);

pub(crate) fn on_event<E: Event, F>(handler: F) -> OnEvent<E, F>
where
    F: for<'a> Fn(&'a E, &'a Context<'a>) -> BoxFuture<'a, Result<()>> + Send + Sync + 'static,
{
    OnEvent(handler, PhantomData)
}

impl<E: Event, F> EventHandler<E> for OnEvent<E, F>
where
    F: for<'a> Fn(&'a E, &'a Context<'a>) -> BoxFuture<'a, Result<()>> + Send + Sync + 'static,
{
    async fn handle(&self, event: &E, cx: &Context<'_>) -> Result<()> {
        (self.0)(event, cx).await
    }
}

/// A closure as a handler of requests that wants a transaction.
pub(crate) struct InTransaction<R, F>(F, PhantomData<fn(R)>);

pub(crate) fn in_transaction<R: Request, F>(handler: F) -> InTransaction<R, F>
where
    F: for<'a> Fn(R, &'a mut FakeTx, &'a Context<'a>) -> BoxFuture<'a, Reply<R>> + Send + Sync + 'static,
{
    InTransaction(handler, PhantomData)
}

impl<R: Request, F> TransactionalHandler<R, FakeDb> for InTransaction<R, F>
where
    F: for<'a> Fn(R, &'a mut FakeTx, &'a Context<'a>) -> BoxFuture<'a, Reply<R>> + Send + Sync + 'static,
{
    async fn handle(&self, request: R, tx: &mut FakeTx, cx: &Context<'_>) -> Reply<R> {
        (self.0)(request, tx, cx).await
    }
}

/// A closure as a handler of events before the commit.
pub(crate) struct BeforeTheCommit<E, F>(F, PhantomData<fn(E)>);

pub(crate) fn before_the_commit<E: Event, F>(handler: F) -> BeforeTheCommit<E, F>
where
    F: for<'a> Fn(&'a E, &'a mut FakeTx, &'a Context<'a>) -> BoxFuture<'a, Result<()>>
        + Send
        + Sync
        + 'static,
{
    BeforeTheCommit(handler, PhantomData)
}

impl<E: Event, F> TransactionalEventHandler<E, FakeDb> for BeforeTheCommit<E, F>
where
    F: for<'a> Fn(&'a E, &'a mut FakeTx, &'a Context<'a>) -> BoxFuture<'a, Result<()>>
        + Send
        + Sync
        + 'static,
{
    async fn handle(&self, event: &E, tx: &mut FakeTx, cx: &Context<'_>) -> Result<()> {
        (self.0)(event, tx, cx).await
    }
}

/// A domain event with a number, to see the order of many.
#[derive(Debug, DomainEvent)]
pub(crate) struct Happened(pub(crate) u32);

/// An integration event with a number, and the number as its key.
#[derive(Debug, Serialize, serde::Deserialize, NotificationEvent)]
#[event(topic = "told", key = 0)]
pub(crate) struct Told(pub(crate) u32);

/// An integration event that cannot be serialised.
#[derive(Debug, NotificationEvent)]
#[event(topic = "told")]
pub(crate) struct Unspeakable;

impl Serialize for Unspeakable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it has no words"))
    }
}

/// Integration events that are refused when they are said, each with a piece of the error's text.
pub(crate) type Refused = (&'static str, fn(&Context<'_>));

pub(crate) const REFUSED: [Refused; 5] = [
    ("the event `unspeakable` cannot be serialised: it has no words", |cx| cx.emit(Unspeakable)),
    ("the event `told` has no topic", |cx| cx.emit(Envelope::new(Told(9)).with_topic(""))),
    ("has the topic \"a\\0b\"", |cx| cx.emit(Envelope::new(Told(9)).with_topic("a\0b"))),
    ("a header with the unusable name \"\"", |cx| cx.emit(Envelope::new(Told(9)).with_header("", "x"))),
    ("and the limit is 1000000", |cx| cx.emit(Envelope::new(Told(9)).with_key(vec![b'k'; 1_000_000]))),
];

/// Records what is published. The events with a name in `refused` fail when they are enqueued, those in `unconfirmed`
/// afterwards; those in `mute` are never confirmed.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) refused: HashSet<&'static str>,
    pub(crate) unconfirmed: HashSet<&'static str>,
    pub(crate) mute: HashSet<&'static str>,
    pub(crate) journal: Option<&'static Journal>,
    pub(crate) published: Mutex<Vec<Message>>,
}

impl Recorder {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn noting(journal: &'static Journal) -> Arc<Self> {
        Arc::new(Self { journal: Some(journal), ..Self::default() })
    }

    pub(crate) fn messages(&self) -> Vec<Message> {
        self.published.lock().unwrap().clone()
    }

    /// The payloads, as text.
    pub(crate) fn payloads(&self) -> Vec<String> {
        payloads(&self.messages())
    }
}

pub(crate) fn payloads(messages: &[Message]) -> Vec<String> {
    messages
        .iter()
        .map(|message| String::from_utf8(message.payload.as_deref().unwrap_or_default().to_vec()).unwrap())
        .collect()
}

#[async_trait]
impl MessageBroker for Recorder {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new("recorder")
    }

    async fn enqueue(&self, message: &Message) -> Result<Confirm, BrokerError> {
        let name = message.name.clone();
        if self.refused.contains(&*name) {
            return Err(BrokerError::new(ErrorClass::Destination, format!("nobody takes `{name}`")));
        }
        if let Some(journal) = self.journal {
            journal.note(format!("published {}", payloads(std::slice::from_ref(message)).concat()));
        }
        self.published.lock().unwrap().push(message.clone());
        Ok(if self.unconfirmed.contains(&*name) {
            Confirm::ready(Err(BrokerError::new(ErrorClass::Unknown, format!("cut off behind `{name}`"))))
        } else if self.mute.contains(&*name) {
            Confirm::new(std::future::pending())
        } else {
            Confirm::ready(Ok(Receipt::new()))
        })
    }

    async fn subscribe(&self, _: SubscribeOptions) -> Result<Box<dyn Subscription>, BrokerError> {
        Err(BrokerError::new(ErrorClass::Destination, "a recorder has no subscribers"))
    }

    async fn check(&self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), BrokerError> {
        Ok(())
    }
}

/// A database that is a list of what was committed, and a journal of how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FakeDb(&'static State);

#[derive(Debug, Default)]
struct State {
    journal: Journal,
    committed: Mutex<(Vec<String>, Vec<Outgoing>)>,
    failing: Mutex<HashMap<&'static str, Error>>,
    encoder: Encoder,
}

impl FakeDb {
    pub(crate) fn new() -> Self {
        Self(Box::leak(Box::default()))
    }

    /// `begin`, `write`, `commit` or `rollback` fails, the next time.
    pub(crate) fn fail(&self, what: &'static str, kind: ErrorKind) {
        let error = Error::new(kind, format!("{what} failed"));
        self.0.failing.lock().unwrap().insert(what, error);
    }

    /// What was done, in its order.
    pub(crate) fn journal(&self) -> &'static Journal {
        &self.0.journal
    }

    /// The rows that were committed.
    pub(crate) fn rows(&self) -> Vec<String> {
        self.0.committed.lock().unwrap().0.clone()
    }

    /// The messages that were committed to the outbox.
    pub(crate) fn outbox(&self) -> Vec<Message> {
        self.outgoing().into_iter().map(|outgoing| outgoing.message).collect()
    }

    /// As they were given to the outbox.
    pub(crate) fn outgoing(&self) -> Vec<Outgoing> {
        self.0.committed.lock().unwrap().1.clone()
    }

    pub(crate) fn unit(&self) -> UnitOfWork<Self> {
        self.unit_with(BeforeCommit::new())
    }

    pub(crate) fn unit_with(&self, before_commit: BeforeCommit<Self>) -> UnitOfWork<Self> {
        UnitOfWork::new(Arc::new(*self), before_commit)
    }

    fn step(&self, what: &'static str) -> Result<()> {
        self.0.journal.note(what);
        self.0.failing.lock().unwrap().remove(what).map_or(Ok(()), Err)
    }
}

impl Database for FakeDb {
    type Tx = FakeTx;
}

#[async_trait]
impl BeginTransaction<FakeDb> for FakeDb {
    async fn begin(&self) -> Result<FakeTx> {
        tokio::task::yield_now().await;
        self.step("begin")?;
        Ok(FakeTx { db: *self, rows: Vec::new(), messages: Vec::new(), open: true })
    }

    fn encoder(&self) -> &Encoder {
        &self.0.encoder
    }
}

#[derive(Debug)]
pub(crate) struct FakeTx {
    db: FakeDb,
    rows: Vec<String>,
    messages: Vec<Outgoing>,
    open: bool,
}

impl FakeTx {
    /// What a handler does with its transaction.
    pub(crate) fn insert(&mut self, row: impl Into<String>) {
        let row = row.into();
        self.db.0.journal.note(format!("insert {row}"));
        self.rows.push(row);
    }
}

impl Transaction for FakeTx {
    async fn write(&mut self, messages: Vec<Outgoing>) -> Result<Added> {
        let added = Added::all(&messages);
        tokio::task::yield_now().await;
        self.db.step("write")?;
        self.messages.extend(messages);
        Ok(added)
    }

    async fn commit(mut self) -> Result<()> {
        tokio::task::yield_now().await;
        self.db.step("commit")?;
        self.open = false;
        let mut committed = self.db.0.committed.lock().unwrap();
        committed.0.append(&mut self.rows);
        committed.1.append(&mut self.messages);
        Ok(())
    }

    async fn rollback(mut self) -> Result<()> {
        tokio::task::yield_now().await;
        self.db.step("rollback")?;
        self.open = false;
        Ok(())
    }
}

impl Drop for FakeTx {
    fn drop(&mut self) {
        if self.open {
            self.db.0.journal.note("dropped");
        }
    }
}
