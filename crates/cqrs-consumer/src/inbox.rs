use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cqrs_core::codec::decode_payload;
use cqrs_core::{
    BeginTransaction, Context, Database, Error, ErrorKind, Handled, IntegrationEvent, Message,
    MessageHandler, MessageId, Result, TransactionalEventHandler, UnitOfWork,
};
use serde::de::DeserializeOwned;

/// Remembers which consumer has handled which message, in the database of the handler and within its transaction: the
/// port that database adapters implement.
///
/// # What an implementation keeps to
///
/// - The row is written **in `tx`**, and nowhere else: it is there if and only if `tx` commits.
/// - One row for each pair of `consumer` and `id`. Both are **compared as bytes**: ids that differ in case or in a
///   trailing blank are different ids, and an id that is not UTF-8 is an id. A column of a type that collates is
///   therefore not good enough.
/// - While another open transaction has written the same pair, `admit` **waits** until that one ends: `false` if it
///   committed, and `true` if it rolled back. A unique index does that.
/// - `false` leaves `tx` fit to be rolled back; the caller does nothing else with it.
/// - Rows are kept for as long as the broker may deliver a message again. Once a row is purged its message is admitted
///   anew.
#[async_trait]
pub trait Inbox<D: Database>: BeginTransaction<D> {
    /// Writes the row of `id` for `consumer`: `true` if it was not there, `false` if the message is a duplicate.
    ///
    /// `consumer` is the identity of one handler in one group (see [`Inboxed`]), so that two handlers of a message
    /// are each admitted once.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`]; the transaction is rolled back then, and the message tried again.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it unknown whether the row is in `tx`: roll it back.
    async fn admit(&self, tx: &mut D::Tx, consumer: &str, id: &MessageId) -> Result<bool>;

    /// Removes the rows of messages that were handled longer ago than this, by the inbox's clock; says how many. In short
    /// transactions; several at once share the work.
    ///
    /// By default nothing is removed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`]; what was removed before stays removed.
    ///
    /// # Cancel safety
    ///
    /// Safe: it goes on where it was when it is called again.
    async fn purge(&self, older_than: Duration) -> Result<u64> {
        let _ = older_than;
        Ok(0)
    }
}

/// What happens to a message without an id (an empty one is none) at a handler with an inbox.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingId {
    /// It is refused with an error of kind [`ErrorKind::Decode`], which leads to the dead letters without a retry.
    #[default]
    Reject,
    /// It is handled without an inbox row: again each time it is delivered again.
    Accept,
}

/// A [`TransactionalEventHandler`] behind an [`Inbox`]: for each message, its effects are committed once, however often
/// the message is delivered.
///
/// The inbox row, what the handler writes and the integration events that it says stand in one transaction. If the
/// handler fails, nothing of it remains, and the message is handled when it comes again.
///
/// # Identity
///
/// The row belongs to `group/handler`, where the handler is by default [`std::any::type_name`] of its type. That name
/// changes when the type is renamed or moved to another module, and then **messages that were handled before and are
/// delivered again are handled again**. Set a name that stays ([`with_name`](Self::with_name)) in whatever lives longer
/// than a few deployments; two handlers of one type in one group need two names, or one of them would take the
/// other's messages for duplicates.
///
/// # Not covered
///
/// Effects outside of the transaction (a call to another service) happen again if it is rolled back. Domain events of
/// the handler that are handled *after* the commit are handled at most once: if one of their handlers fails, the
/// message is tried again and the inbox knows it by then.
///
/// ```
/// use std::sync::Arc;
/// use cqrs_consumer::{Inbox, Inboxed};
/// use cqrs_core::{BeforeCommit, Database, EventMap, IntegrationEvent, Result, TransactionalEventHandler, UnitOfWork};
/// use serde::de::DeserializeOwned;
///
/// /// Binds a handler that handles each message of `E` once, with transactions of the outbox `store`.
/// fn subscribe_once<D, S, E, H>(map: EventMap, store: Arc<S>, handler: H) -> EventMap
/// where
///     D: Database,
///     S: Inbox<D>,
///     E: IntegrationEvent + DeserializeOwned,
///     H: TransactionalEventHandler<E, D>,
/// {
///     let unit = UnitOfWork::new(store.clone(), BeforeCommit::new());
///     let once = Inboxed::<D, E, H>::new("billing", handler, unit, store).with_name("charge-room");
///     map.subscribe_messages(E::TOPIC, E::NAME, Arc::new(once))
/// }
/// ```
#[must_use = "a handler does nothing until it is subscribed with `EventMap::subscribe_messages`"]
pub struct Inboxed<D: Database, E, H> {
    handler: H,
    unit: UnitOfWork<D>,
    inbox: Arc<dyn Inbox<D>>,
    group: String,
    consumer: String,
    missing_id: MissingId,
    event: PhantomData<fn(E)>,
}

impl<D: Database, E, H> Inboxed<D, E, H> {
    /// The handler as a member of `group`, with transactions from `unit` and its rows in `inbox`, which are to be of
    /// one database.
    pub fn new(group: impl Into<String>, handler: H, unit: UnitOfWork<D>, inbox: Arc<dyn Inbox<D>>) -> Self {
        let group = group.into();
        let consumer = identity(&group, std::any::type_name::<H>());
        Self { handler, unit, inbox, group, consumer, missing_id: MissingId::default(), event: PhantomData }
    }

    /// Sets the handler's part of the identity: a name of your own that no other handler of the group has, and that
    /// stays when the type is renamed. Default: the name of the type.
    pub fn with_name(mut self, name: impl AsRef<str>) -> Self {
        self.consumer = identity(&self.group, name.as_ref());
        self
    }

    /// Sets what happens to a message without an id. Default [`MissingId::Reject`].
    pub fn with_missing_id(mut self, policy: MissingId) -> Self {
        self.missing_id = policy;
        self
    }

    /// The id to admit; `None` if the message is to be handled without.
    fn id<'m>(&self, message: &'m Message) -> Result<Option<&'m MessageId>> {
        match message.id.as_ref().filter(|id| !id.as_bytes().is_empty()) {
            None if self.missing_id == MissingId::Reject => Err(Error::new(
                ErrorKind::Decode,
                format!(
                    "the message `{}` from topic `{}` has no id, and `{}` tells duplicates by it: have the publisher \
                     set one, or accept such messages with `MissingId::Accept`",
                    message.name, message.topic, self.consumer
                ),
            )),
            id => Ok(id),
        }
    }
}

fn identity(group: &str, handler: &str) -> String {
    format!("{group}/{handler}")
}

/// Why a transaction is rolled back.
enum Stop {
    Duplicate,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl<D, E, H> Inboxed<D, E, H>
where
    D: Database,
    E: IntegrationEvent,
    H: TransactionalEventHandler<E, D>,
{
    async fn admit_and_handle(
        &self,
        id: Option<&MessageId>,
        event: &E,
        tx: &mut D::Tx,
        cx: &Context<'_>,
    ) -> Result<(), Stop> {
        if let Some(id) = id
            && !self.inbox.admit(tx, &self.consumer, id).await?
        {
            return Err(Stop::Duplicate);
        }
        Ok(self.handler.handle(event, tx, cx).await?)
    }
}

#[async_trait]
impl<D, E, H> MessageHandler for Inboxed<D, E, H>
where
    D: Database,
    E: IntegrationEvent + DeserializeOwned,
    H: TransactionalEventHandler<E, D>,
{
    fn name(&self) -> &str {
        &self.consumer
    }

    fn identity(&self) -> Option<&str> {
        Some(&self.consumer)
    }

    async fn handle(&self, message: &Message, cx: &Context<'_>) -> Result<Handled> {
        // Before the transaction: what cannot be read needs none.
        let id = self.id(message)?;
        let event = decode_payload::<E>(message)?;
        let mut tx = self.unit.begin(cx).await?;
        let outcome = self.admit_and_handle(id, &event, &mut tx, cx).await;
        match self.unit.complete(tx, cx, outcome).await {
            Ok(()) => Ok(Handled::Done),
            Err(Stop::Duplicate) => Ok(Handled::Duplicate),
            Err(Stop::Failed(error)) => Err(error),
        }
    }
}

impl<D: Database, E, H> fmt::Debug for Inboxed<D, E, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inboxed")
            .field("consumer", &self.consumer)
            .field("missing_id", &self.missing_id)
            .finish_non_exhaustive()
    }
}
