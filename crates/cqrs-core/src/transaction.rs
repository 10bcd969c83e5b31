//! The port to databases: a transaction that takes a handler's writes and what it says, together.

use std::any::TypeId;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::codec::Encoder;
use crate::context::{AnyDomainEvent, Context, Said, Unsent};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{DomainEvent, Event};
use crate::mediator::Path;
use crate::message::MessageId;
use crate::outgoing::Outgoing;
#[cfg(doc)]
use crate::outgoing::WriteOptions;
use crate::recording::Written;
use crate::request::{Reply, Request, RequestHandler};

/// A kind of database, as a type: it names the transaction that handlers get.
pub trait Database: Send + Sync + 'static {
    /// An open transaction. Dropping it without [`Transaction::commit`] rolls it back.
    type Tx: Transaction;
}

/// What became of events that were given to an outbox.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// One for each, in the order in which they were given.
    pub events: Vec<AddedEvent>,
}

/// What became of one event that was given to an outbox.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedEvent {
    /// The id under which it is sent; of a duplicate, the id of the first one.
    pub id: MessageId,
    /// What was done.
    pub outcome: AddOutcome,
}

/// What an outbox did with an event.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddOutcome {
    /// It was written: it goes out when the transaction has committed.
    Written,
    /// It was written, to go out when its time has come.
    Scheduled,
    /// It was not written: another one has its deduplication key.
    Duplicate,
}

impl Added {
    /// All of these were written, whatever was asked for.
    pub fn all<'a>(written: impl IntoIterator<Item = &'a Outgoing>) -> Self {
        let ids = written.into_iter().filter_map(|outgoing| outgoing.message.id.clone());
        Self { events: ids.map(|id| AddedEvent::new(id, AddOutcome::Written)).collect() }
    }

    /// The ids under which the events are sent, in the order in which they were given.
    pub fn ids(&self) -> impl Iterator<Item = &MessageId> {
        self.events.iter().map(|event| &event.id)
    }

    /// What was done with each, in the order in which they were given.
    pub fn outcomes(&self) -> impl Iterator<Item = AddOutcome> {
        self.events.iter().map(|event| event.outcome)
    }
}

impl AddedEvent {
    /// An event, and what was done with it.
    pub fn new(id: MessageId, outcome: AddOutcome) -> Self {
        Self { id, outcome }
    }
}

/// What became of the wish to cancel or move a scheduled event.
#[must_use = "it may have been too late"]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScheduleChange {
    /// It was done; a rollback takes it back.
    Done,
    /// No event is scheduled under this id any more, or never was: its time has come, or it was cancelled before.
    TooLate,
}

/// An open transaction with an outbox in it.
///
/// What an outbox need not have ([`lock_key`](Self::lock_key), [`cancel`](Self::cancel),
/// [`reschedule`](Self::reschedule)) is refused by default.
pub trait Transaction: Send + 'static {
    /// Writes messages into the outbox, in their order, as part of the transaction; or, if one of them is refused, none.
    /// A transaction that cannot honour what [is asked for](WriteOptions) refuses the message.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`]; [`ErrorKind::Conflict`] for a version that is not above the last one;
    /// [`ErrorKind::InvalidEvent`] for a key that is too long. Roll back.
    fn write(&mut self, messages: Vec<Outgoing>) -> impl Future<Output = Result<Added>> + Send;

    /// Keeps others that lock this key out until the transaction ends, so that what they write of the key comes behind what
    /// this one writes. Waits for them. Call it before the first event of the key is written. Within one transaction it
    /// may be called again.
    ///
    /// Of events of one key that two transactions write at the same time, either may go first, whichever commits first:
    /// their places are taken when they are written. That matters only where both may be at work at once.
    ///
    /// **Where it is not needed**, and that is the usual case: the transaction has locked the aggregate's own row (`SELECT
    /// .. FOR UPDATE`, or an `UPDATE` of it) before it writes the event. It is for keys that have no such row: a stream
    /// of inserts, say. Nor is it needed on SQLite, where one transaction writes at a time.
    ///
    /// Who locks several keys does so in the same order everywhere, or meets deadlocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`]: the lock was not to be had in time, or a deadlock; [`ErrorKind::InvalidEvent`]: the key is
    /// too long; by default [`ErrorKind::Configuration`]: this kind of transaction has no such locks.
    fn lock_key(&mut self, key: &[u8]) -> impl Future<Output = Result<()>> + Send {
        let _ = key;
        async { Err(unsupported("locks for keys")) }
    }

    /// Cancels a scheduled event, as part of the transaction: it is not sent, and its deduplication key is free for another one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`]; by default [`ErrorKind::Configuration`]: this kind of transaction schedules nothing.
    fn cancel(&mut self, event_id: Uuid) -> impl Future<Output = Result<ScheduleChange>> + Send {
        let _ = event_id;
        async { Err(unsupported("scheduled events")) }
    }

    /// Gives a scheduled event another time, as part of the transaction. One that is past is now.
    ///
    /// # Errors
    ///
    /// As for [`cancel`](Self::cancel); [`ErrorKind::InvalidEvent`] if the time is out of range.
    fn reschedule(
        &mut self,
        event_id: Uuid,
        at: DateTime<Utc>,
    ) -> impl Future<Output = Result<ScheduleChange>> + Send {
        let _ = (event_id, at);
        async { Err(unsupported("scheduled events")) }
    }

    /// Commits.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Transaction`] if nothing was committed; [`ErrorKind::CommitUnknown`] if the connection broke meanwhile, and it may
    /// be committed.
    fn commit(self) -> impl Future<Output = Result<()>> + Send;

    /// Rolls back.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Transaction`]; the database rolls back by itself, then, when the connection is closed.
    fn rollback(self) -> impl Future<Output = Result<()>> + Send;
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::Configuration, format!("this kind of transaction has no {what}"))
}

/// Opens transactions: an outbox.
#[async_trait]
pub trait BeginTransaction<D: Database>: Send + Sync + 'static {
    /// Opens a transaction.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] or [`ErrorKind::Transaction`].
    async fn begin(&self) -> Result<D::Tx>;

    /// How messages are made of the events that go into this outbox.
    fn encoder(&self) -> &Encoder;
}

/// Answers a request within a transaction that is opened for it and committed when it succeeds. Integration events that
/// it [says](Context::emit) are written to the outbox in that transaction.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle the request `{R}` in a transaction of `{D}`",
    label = "no `TransactionalHandler<{R}, {D}>` for this type",
    note = "write `impl TransactionalHandler<{R}, {D}> for {Self}`; its database must be that of the outbox",
    note = "a handler that needs no transaction implements `RequestHandler` and is registered with `.request(..)`"
)]
pub trait TransactionalHandler<R: Request, D: Database>: Send + Sync + 'static {
    /// Does the work. An error rolls everything back.
    ///
    /// # Cancel safety
    ///
    /// A dropped future rolls the transaction back.
    fn handle(&self, request: R, tx: &mut D::Tx, cx: &Context<'_>) -> impl Future<Output = Reply<R>> + Send;
}

/// Handles events within a transaction: a domain event within that of the request that said it, before its commit; a
/// received integration event within one that holds its inbox row, too.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle the event `{E}` in a transaction of `{D}`",
    label = "no `TransactionalEventHandler<{E}, {D}>` for this type",
    note = "write `impl TransactionalEventHandler<{E}, {D}> for {Self}`; its database must be that of the outbox or inbox"
)]
pub trait TransactionalEventHandler<E: Event, D: Database>: Send + Sync + 'static {
    /// Does what has to be done because of the event. An error rolls everything back.
    fn handle(&self, event: &E, tx: &mut D::Tx, cx: &Context<'_>) -> impl Future<Output = Result<()>> + Send;
}

/// The handlers of domain events that run within the transaction, before its commit.
#[must_use = "a map does nothing until a unit of work is made with it"]
pub struct BeforeCommit<D: Database> {
    handlers: HashMap<TypeId, Vec<Box<dyn CallInTransaction<D>>>>,
}

impl<D: Database> BeforeCommit<D> {
    /// No handlers.
    pub fn new() -> Self {
        Self { handlers: HashMap::new() }
    }

    /// Binds a handler, behind those that are bound to the event already.
    pub fn bind<E: DomainEvent>(mut self, handler: impl TransactionalEventHandler<E, D>) -> Self {
        self.handlers.entry(TypeId::of::<E>()).or_default().push(Box::new(Bound(handler, PhantomData)));
        self
    }

    fn handlers_of(&self, event: &dyn AnyDomainEvent) -> &[Box<dyn CallInTransaction<D>>] {
        self.handlers.get(&event.as_any().type_id()).map_or(&[], Vec::as_slice)
    }
}

impl<D: Database> Default for BeforeCommit<D> {
    fn default() -> Self {
        Self::new()
    }
}

impl<D: Database> fmt::Debug for BeforeCommit<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BeforeCommit").field("domain_events", &self.handlers.len()).finish()
    }
}

trait CallInTransaction<D: Database>: Send + Sync {
    fn call<'a>(
        &'a self,
        event: &'a dyn AnyDomainEvent,
        tx: &'a mut D::Tx,
        cx: &'a Context<'_>,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;
}

struct Bound<E, H>(H, PhantomData<fn(E)>);

impl<E: DomainEvent, D: Database, H: TransactionalEventHandler<E, D>> CallInTransaction<D> for Bound<E, H> {
    fn call<'a>(
        &'a self,
        event: &'a dyn AnyDomainEvent,
        tx: &'a mut D::Tx,
        cx: &'a Context<'_>,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>> {
        match event.as_any().downcast_ref::<E>() {
            Some(event) => Box::pin(self.0.handle(event, tx, cx)),
            // The map finds handlers by the event's type, so there is no other case.
            None => Box::pin(std::future::ready(Ok(()))),
        }
    }
}

/// Opens a transaction for a handler, writes what it said, and commits: what stands between a handler that wants a
/// transaction and the mediator.
pub struct UnitOfWork<D: Database> {
    source: Arc<dyn BeginTransaction<D>>,
    before_commit: Arc<BeforeCommit<D>>,
}

impl<D: Database> UnitOfWork<D> {
    /// Transactions come from `source`.
    pub fn new(source: Arc<dyn BeginTransaction<D>>, before_commit: BeforeCommit<D>) -> Self {
        Self { source, before_commit: Arc::new(before_commit) }
    }

    /// Opens a transaction; the integration events that are said from now on are its.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Transaction`] within another transaction; else those of [`BeginTransaction::begin`].
    pub async fn begin(&self, cx: &Context<'_>) -> Result<D::Tx> {
        if !cx.enter_transaction() {
            return Err(Error::new(
                ErrorKind::Transaction,
                "a transactional request was sent from within a transaction, and would wait for it or commit without it: \
                 do its work in a function that takes the open transaction, or send it from a handler that runs after the commit",
            ));
        }
        let waiting = cx.wait_for_transaction();
        let begun = self.source.begin().await;
        waiting.ends();
        if begun.is_err() {
            cx.leave_transaction();
        }
        begun
    }

    /// Ends the transaction as the handler ended: runs the handlers that stand before the commit, writes what was said
    /// and commits; or rolls back, and drops what was said.
    ///
    /// # Errors
    ///
    /// The handler's own; that of a handler before the commit; that of an event that was refused; those of
    /// [`Transaction::write`] and [`Transaction::commit`].
    pub async fn complete<T, E: From<Error>>(
        &self,
        mut tx: D::Tx,
        cx: &Context<'_>,
        outcome: Result<T, E>,
    ) -> Result<T, E> {
        let value = match outcome {
            Ok(value) => value,
            Err(error) => {
                self.abandon(tx, cx).await;
                return Err(error);
            }
        };
        let (after_commit, written) = match self.write(&mut tx, cx).await {
            Ok(done) => done,
            Err(error) => {
                self.abandon(tx, cx).await;
                return Err(error.into());
            }
        };
        cx.begin_commit();
        let committed = tx.commit().await;
        cx.leave_transaction();
        if let Err(error) = committed {
            if error.kind() == ErrorKind::CommitUnknown {
                cx.lose_commit();
            } else {
                cx.fail_commit();
            }
            return Err(error.into());
        }
        cx.core().emitter().recording().committed(written);
        after_commit.into_iter().for_each(|said| cx.push(said));
        Ok(value)
    }

    /// What is left to say after the commit, and what a recording keeps of what is in the outbox then.
    async fn write(&self, tx: &mut D::Tx, cx: &Context<'_>) -> Result<(Vec<Said>, Written)> {
        let emitter = cx.core().emitter();
        let max_events = emitter.max_events();
        let (mut messages, mut after_commit) = (Vec::new(), Vec::new());
        let mut path = Path::default();
        let mut queue: VecDeque<_> =
            cx.take_said().into_iter().flat_map(Unsent::into_all).map(|said| (said, None)).collect();
        while let Some((said, because_of)) = queue.pop_front() {
            if messages.len() + after_commit.len() >= max_events {
                return Err(path.flood(said.name(), because_of, max_events));
            }
            match said {
                Said::Refused(error) => return Err(error),
                Said::Integration(message) => messages.push(*message),
                Said::Domain(unsent) => {
                    let event = &unsent.event;
                    for handler in self.before_commit.handlers_of(event) {
                        handler.call(event, tx, cx).await?;
                        if let Some(more) = cx.take_said() {
                            let because_of = Some(path.step(event.name(), because_of));
                            queue.extend(more.into_all().map(|said| (said, because_of)));
                        }
                    }
                    after_commit.push(Said::Domain(unsent));
                }
            }
        }
        if let Some(error) = cx.refused_around() {
            return Err(error);
        }
        let mut written = emitter.recording().writing(&messages);
        if !messages.is_empty() {
            written.retain(&tx.write(messages).await?);
        }
        Ok((after_commit, written))
    }

    async fn abandon(&self, tx: D::Tx, cx: &Context<'_>) {
        if let Err(error) = tx.rollback().await {
            tracing::warn!(%error, "the rollback failed; the database rolls back when the connection is closed");
        }
        cx.take_said();
        cx.leave_transaction();
    }
}

impl<D: Database> Clone for UnitOfWork<D> {
    fn clone(&self) -> Self {
        Self { source: Arc::clone(&self.source), before_commit: Arc::clone(&self.before_commit) }
    }
}

impl<D: Database> fmt::Debug for UnitOfWork<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnitOfWork").field("before_commit", &self.before_commit).finish_non_exhaustive()
    }
}

/// A [`TransactionalHandler`] as the [`RequestHandler`] that the mediator knows.
#[derive(Debug)]
pub struct Transactional<D: Database, H> {
    unit: UnitOfWork<D>,
    handler: H,
}

impl<D: Database, H> Transactional<D, H> {
    /// The handler, with transactions from `unit`.
    pub fn new(unit: UnitOfWork<D>, handler: H) -> Self {
        Self { unit, handler }
    }
}

impl<R: Request, D: Database, H: TransactionalHandler<R, D>> RequestHandler<R> for Transactional<D, H> {
    async fn handle(&self, request: R, cx: &Context<'_>) -> Reply<R> {
        let mut tx = self.unit.begin(cx).await?;
        let outcome = self.handler.handle(request, &mut tx, cx).await;
        self.unit.complete(tx, cx, outcome).await
    }
}
