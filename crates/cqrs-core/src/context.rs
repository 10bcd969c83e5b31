//! What a handler has at hand.

use std::any::{Any, TypeId};
use std::fmt;
use std::future::Future;
use std::iter::successors;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures_util::future::{Either, select};
use smallvec::SmallVec;
use tokio_util::sync::CancellationToken;

use crate::codec::{Correlation, IntoMessage};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{DomainEvent, Envelope, Event, IntegrationEvent, kind};
use crate::mediator::{Core, Sending, Streaming};
use crate::message::Message;
use crate::outgoing::Outgoing;
use crate::recording::Held;
use crate::request::{Request, StreamRequest};
use crate::scope::Scope;
use crate::send_options::{SendOptions, cancelled, commit_cut_off, events_cut_off, too_deep, too_late};

/// What a handler has at hand: it says what happened ([`emit`](Self::emit)), sends further requests
/// ([`send`](Self::send)), and sees what led here.
///
/// What was said goes out in the order in which it was said, when the handler has succeeded; what a handler that
/// failed has said is dropped with its failure.
pub struct Context<'a> {
    core: &'a Core,
    origin: Origin<'a>,
    has_transaction: AtomicBool,
    /// Whether a request begins here, and not only a part of one.
    is_of_request: bool,
    /// Out of the way: most contexts hear nothing, and each is made, looked at and dropped.
    used: Mutex<Option<Box<Used>>>,
}

/// What a context has when something was said or kept in it. It stays where it is, in its box, until all of it went out.
#[derive(Default)]
pub(crate) struct Used {
    /// Most handlers say little.
    pub(crate) said: SmallVec<[Said; 2]>,
    scope: Option<Scope>,
}

/// Where a context comes from, and so what it inherits. Two words, so that it travels in registers.
#[derive(Clone, Copy)]
pub(crate) enum Origin<'a> {
    Root,
    Correlated(&'a Correlation),
    Received(&'a Received),
    Nested(&'a Context<'a>),
    Narrowed(&'a Narrowed<'a>),
}

/// A request from outside, or a part of what happens in a context, with options of its own.
pub(crate) struct Narrowed<'a> {
    parent: Option<&'a Context<'a>>,
    options: &'a SendOptions,
    /// A token that is cancelled by that of the options and by those around it.
    cancellation: Option<CancellationToken>,
    /// Commits in it that go on or are done: if its time is up now, nobody can tell what became of it.
    commits: AtomicUsize,
    /// Whether nobody knows of one of them.
    is_commit_unknown: AtomicBool,
    /// Whether a request in it has been carried out, and its events go out or have gone.
    is_carried_out: AtomicBool,
    /// Which [`ConcurrencyLimit`](crate::ConcurrencyLimit) it has a place of.
    place: Option<usize>,
}

impl<'a> Narrowed<'a> {
    pub(crate) fn new(parent: Option<&'a Context<'a>>, options: &'a SendOptions) -> Self {
        Self {
            parent,
            options,
            cancellation: options.cancellation.clone(),
            commits: AtomicUsize::new(0),
            is_commit_unknown: AtomicBool::new(false),
            is_carried_out: AtomicBool::new(false),
            place: None,
        }
    }

    pub(crate) fn with_place(mut self, limit: usize) -> Self {
        self.place = Some(limit);
        self
    }

    /// Whether its time is up.
    pub(crate) fn is_over(&self) -> bool {
        self.options.is_over()
    }

    /// Whether a commit goes on in it, or is done.
    pub(crate) fn has_commit_begun(&self) -> bool {
        self.commits.load(Ordering::Relaxed) > 0
    }

    /// Whether there is a commit in it of which nobody knows.
    pub(crate) fn is_commit_unknown(&self) -> bool {
        self.is_commit_unknown.load(Ordering::Relaxed)
    }

    /// Waits for the reply, but not for longer than until the deadline; not at all if the token is cancelled.
    pub(crate) async fn limit<T, E: From<Error>>(
        &self,
        request: &str,
        reply: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.begin(request)?;
        self.in_time(request, reply).await
    }

    /// Whether it may begin.
    pub(crate) fn begin(&self, request: &str) -> Result<()> {
        if self.options.is_cancelled() { Err(cancelled(request)) } else { Ok(()) }
    }

    /// Waits for a part of it, but not for longer than until the deadline.
    pub(crate) async fn in_time<T, E: From<Error>>(
        &self,
        request: &str,
        reply: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let Some(deadline) = self.options.deadline else { return reply.await };
        if self.is_over() {
            return Err(too_late(request).into());
        }
        tokio::time::timeout_at(deadline.into(), reply).await.unwrap_or_else(|_| {
            Err(if self.has_commit_begun() {
                commit_cut_off(request).into()
            } else if self.is_carried_out.load(Ordering::Relaxed) {
                events_cut_off(request).into()
            } else {
                too_late(request).into()
            })
        })
    }
}

/// A received message, with what ties to it whatever is said because of it.
pub(crate) struct Received {
    pub(crate) message: Message,
    pub(crate) correlation: Correlation,
}

/// Something that was said. An event that cannot be published is kept as the error it is, and fails the request
/// before anything goes out.
pub(crate) enum Said {
    Domain(Held),
    Integration(Box<Outgoing>),
    Refused(Error),
}

impl Said {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Domain(event) => event.name(),
            Self::Integration(outgoing) => &outgoing.message.name,
            Self::Refused(_) => "?",
        }
    }
}

/// Waits for the reply, and meanwhile cancels the one token when the other one is.
async fn passing_on<T>(
    from: &CancellationToken,
    to: &CancellationToken,
    reply: impl Future<Output = T>,
) -> T {
    let mut reply = pin!(reply);
    match select(reply.as_mut(), pin!(from.cancelled())).await {
        Either::Left((reply, _)) => reply,
        Either::Right(_) => {
            to.cancel();
            reply.await
        }
    }
}

/// All but the scope.
#[inline]
fn take_said(used: &mut Option<Box<Used>>) -> Option<Box<Used>> {
    // Most contexts are not used.
    if used.is_none() { None } else { take_used(used) }
}

fn take_used(used: &mut Option<Box<Used>>) -> Option<Box<Used>> {
    let mut said = used.take()?;
    if said.scope.is_some() {
        *used = Some(Box::new(Used { scope: said.scope.take(), ..Used::default() }));
    }
    (!said.said.is_empty()).then_some(said)
}

impl Used {
    /// What was refused when it was said, if something was.
    pub(crate) fn check(self: Box<Self>) -> Result<Box<Self>> {
        match self.said.iter().position(|said| matches!(said, Said::Refused(_))) {
            Some(at) => Err(self.refusal(at)),
            None => Ok(self),
        }
    }

    fn refused(&self) -> Option<&Error> {
        self.said.iter().find_map(|said| match said {
            Said::Refused(error) => Some(error),
            _ => None,
        })
    }

    #[cold]
    fn refusal(mut self, at: usize) -> Error {
        match self.said.swap_remove(at) {
            Said::Refused(error) => error,
            // It was found there.
            said => Error::new(ErrorKind::InvalidEvent, format!("the event `{}` was refused", said.name())),
        }
    }
}

/// A domain event whose type is found again by its [`TypeId`].
pub(crate) trait AnyDomainEvent: Any + Send + Sync {
    fn name(&self) -> &'static str;
}

impl<E: DomainEvent> AnyDomainEvent for E {
    fn name(&self) -> &'static str {
        E::NAME
    }
}

impl dyn AnyDomainEvent {
    pub(crate) fn key(&self) -> TypeId {
        self.type_id()
    }
}

impl<'a> Context<'a> {
    pub(crate) fn new(core: &'a Core, origin: Origin<'a>) -> Self {
        Self::made(core, origin, false)
    }

    pub(crate) fn of_request(core: &'a Core, origin: Origin<'a>) -> Self {
        Self::made(core, origin, true)
    }

    #[inline(always)]
    fn made(core: &'a Core, origin: Origin<'a>, is_of_request: bool) -> Self {
        Self { core, origin, has_transaction: AtomicBool::new(false), is_of_request, used: Mutex::new(None) }
    }

    /// Says that something happened: a domain event, an integration event, or an [`Envelope`] around one.
    ///
    /// A domain event goes to the handlers that are bound to it. An integration event goes into the outbox, in the
    /// transaction of the handler, where a [`TransactionalHandler`](crate::TransactionalHandler) says it; elsewhere
    /// straight to the broker, at most once and after the handler, if the mediator was told so
    /// ([`EventEmitter::direct`](crate::EventEmitter::direct)).
    ///
    /// Nothing goes out before the handler has succeeded. An event that cannot be encoded, is too large, has nowhere to go,
    /// or asks for what only an outbox can do where there is none, fails the request then, as if the handler itself had failed: a transaction is rolled back and
    /// none of the request's events goes out.
    pub fn emit<E: Emit>(&self, event: E) {
        self.push(event.say(self));
    }

    /// Sends a request to its handler, from within a handler. It belongs to the same conversation.
    ///
    /// What the inner handler says goes out when it has succeeded; within a transaction, with that transaction.
    ///
    /// A task that is spawned and outlives the handler cannot take the context along. Where one has to send, give the handler an
    /// `Arc<OnceLock<RequestMediator>>`, and fill it when the mediator is made.
    ///
    /// # Errors
    ///
    /// The handler's own; [`ErrorKind::MissingHandler`]; [`ErrorKind::Transaction`] if a transactional request is
    /// sent from within a transaction; [`ErrorKind::EventFlood`] if too many requests stand within one another
    /// ([`EventEmitter::with_max_depth`](crate::EventEmitter::with_max_depth)); [`ErrorKind::Timeout`] and [`ErrorKind::Cancelled`] if the
    /// [deadline](Self::deadline) has passed or the [token](Self::cancellation) is cancelled before it begins.
    pub fn send<R: Request>(&'a self, request: R) -> Sending<'a, R> {
        match self.ended(R::name()) {
            Ok(()) => self.core.send(request, Origin::Nested(self)),
            Err(error) => Sending::refused(error),
        }
    }

    /// The same with a time or a token of its own, within those that there are.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and [`ErrorKind::Timeout`] if the time of the options is up.
    pub fn send_with<R: Request>(&'a self, request: R, options: &'a SendOptions) -> Sending<'a, R> {
        Sending::running(Box::pin(async move {
            self.ended(R::name())?;
            let mut narrowed = Narrowed::new(Some(self), options);
            let outer = self.given_cancellation();
            if let (Some(token), Some(_)) = (&mut narrowed.cancellation, outer) {
                // Its own, so that it can be cancelled from here without those who gave it.
                *token = token.child_token();
            }
            let token = narrowed.cancellation.clone();
            let reply = narrowed.limit(R::name(), self.core.send(request, Origin::Narrowed(&narrowed)));
            match (outer, token) {
                (Some(outer), Some(token)) => passing_on(outer, &token, reply).await,
                _ => reply.await,
            }
        }))
    }

    /// The results of a streaming request, from within a handler; see
    /// [`RequestMediator::stream`](crate::RequestMediator::stream).
    pub fn stream<R: StreamRequest>(&'a self, request: R) -> Streaming<'a, R> {
        match self.ended(R::name()) {
            Ok(()) => self.core.stream(request, Origin::Nested(self)),
            Err(error) => Streaming::refused(error),
        }
    }

    /// By when the request that led here has to be answered: the earliest that was asked for on the way
    /// ([`SendOptions`], or a [`Timeout`](crate::Timeout) around a handler).
    ///
    /// Whoever asked for it drops the handler then. It is for those who would pass it on, to a database or another service.
    pub fn deadline(&self) -> Option<Instant> {
        self.outwards().filter_map(|cx| cx.options()?.deadline).min()
    }

    /// Cancelled when the request that led here is not wanted any more; one that nobody cancels, where no one was given
    /// ([`SendOptions::with_cancellation`]).
    ///
    /// It asks, it does not force: a handler that would rather end early looks at it, or waits for it beside its work.
    /// Nothing is sent any more from a context whose token is cancelled.
    pub fn cancellation(&self) -> CancellationToken {
        self.given_cancellation().cloned().unwrap_or_default()
    }

    /// What is kept for the time of the request that came from outside, the events that it leads to, and all requests within
    /// it.
    pub fn scope(&self) -> Scope {
        match (self.parent(), self.options().and_then(|options| options.scope.as_ref())) {
            (Some(parent), _) => parent.scope(),
            (None, Some(given)) => given.clone(),
            (None, None) => self.used().get_or_insert_default().scope.get_or_insert_default().clone(),
        }
    }

    /// The message that led here, if a consumer received one.
    pub fn message(&self) -> Option<&Message> {
        self.outwards().find_map(|cx| match cx.origin {
            Origin::Received(received) => Some(&received.message),
            _ => None,
        })
    }

    /// What ties the messages that are said here to those before them.
    pub fn correlation(&self) -> Correlation {
        match self.origin {
            Origin::Root => Correlation::default(),
            Origin::Correlated(correlation) => correlation.clone(),
            Origin::Received(received) => received.correlation.clone(),
            Origin::Nested(parent) => parent.correlation(),
            Origin::Narrowed(Narrowed { options: SendOptions { correlation: Some(given), .. }, .. }) => {
                given.clone()
            }
            Origin::Narrowed(narrowed) => narrowed.parent.map(Context::correlation).unwrap_or_default(),
        }
    }

    /// Whether a transaction takes the integration events that are said here.
    pub fn is_in_transaction(&self) -> bool {
        self.outwards().any(|cx| cx.has_transaction.load(Ordering::Relaxed))
    }

    /// The context in which this one is a part.
    pub(crate) fn parent(&self) -> Option<&'a Context<'a>> {
        match self.origin {
            Origin::Nested(parent) => Some(parent),
            Origin::Narrowed(narrowed) => narrowed.parent,
            Origin::Root | Origin::Correlated(_) | Origin::Received(_) => None,
        }
    }

    /// This one, and those that it is a part of.
    fn outwards(&self) -> impl Iterator<Item = &Context<'_>> {
        successors(Some(self), |cx| cx.parent())
    }

    fn as_narrowed(&self) -> Option<&'a Narrowed<'a>> {
        match self.origin {
            Origin::Narrowed(narrowed) => Some(narrowed),
            _ => None,
        }
    }

    fn options(&self) -> Option<&'a SendOptions> {
        self.as_narrowed().map(|narrowed| narrowed.options)
    }

    fn given_cancellation(&self) -> Option<&CancellationToken> {
        self.outwards().find_map(|cx| cx.as_narrowed()?.cancellation.as_ref())
    }

    /// Whether a further request may begin here.
    fn ended(&self, request: &str) -> Result<()> {
        let (mut depth, mut is_over) = (0, false);
        for cx in self.outwards() {
            depth += usize::from(cx.is_of_request);
            if let Some(options) = cx.options() {
                if options.is_cancelled() {
                    return Err(cancelled(request));
                }
                is_over |= options.is_over();
            }
        }
        if depth >= self.core.emitter().max_depth() {
            return Err(too_deep(request, depth));
        }
        if is_over { Err(too_late(request)) } else { Ok(()) }
    }

    /// From now on nobody who gives up on this one can tell whether it happened.
    pub(crate) fn begin_commit(&self) {
        self.around(|narrowed| {
            narrowed.commits.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// What was done here is done, and its events go out.
    pub(crate) fn carry_out(&self) {
        self.around(|narrowed| narrowed.is_carried_out.store(true, Ordering::Relaxed));
    }

    /// Nothing was committed, for certain.
    pub(crate) fn fail_commit(&self) {
        self.around(|narrowed| {
            narrowed.commits.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// It may be committed, or not.
    pub(crate) fn lose_commit(&self) {
        self.around(|narrowed| narrowed.is_commit_unknown.store(true, Ordering::Relaxed));
    }

    fn around(&self, each: impl Fn(&Narrowed<'_>)) {
        self.outwards().filter_map(Context::as_narrowed).for_each(each);
    }

    /// What was refused around this one, as by a middleware: it would fail the request when its transaction has been committed.
    pub(crate) fn refused_around(&self) -> Option<Error> {
        self.outwards().skip(1).find_map(|cx| cx.used().as_ref()?.refused().map(Error::copied))
    }

    /// Whether it stands behind this limit already.
    pub(crate) fn has_place(&self, limit: usize) -> bool {
        self.outwards().filter_map(Context::as_narrowed).any(|narrowed| narrowed.place == Some(limit))
    }

    /// A context for a part of what happens here, with options of its own.
    pub(crate) fn narrowed<'b>(&'b self, narrowed: &'b Narrowed<'b>) -> Context<'b> {
        Context::new(self.core, Origin::Narrowed(narrowed))
    }

    /// A context for a part of what happens here.
    pub(crate) fn nested(&self) -> Context<'_> {
        Context::new(self.core, Origin::Nested(self))
    }

    pub(crate) fn core(&self) -> &'a Core {
        self.core
    }

    /// Claims the context for one transaction; `false` if it stands in one already.
    pub(crate) fn enter_transaction(&self) -> bool {
        !self.is_in_transaction() && !self.has_transaction.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn leave_transaction(&self) {
        self.has_transaction.store(false, Ordering::Relaxed);
    }

    pub(crate) fn push(&self, said: Said) {
        self.used().get_or_insert_default().said.push(said);
    }

    pub(crate) fn extend(&self, said: impl IntoIterator<Item = Said>) {
        self.used().get_or_insert_default().said.extend(said);
    }

    /// What was said there was said here.
    pub(crate) fn extend_by(&self, part: &mut Context<'_>) {
        if let Some(said) = part.take_own_said() {
            self.extend(said.said);
        }
    }

    /// Takes what was said, if something was.
    pub(crate) fn take_said(&self) -> Option<Box<Used>> {
        take_said(&mut self.used())
    }

    /// The same without touching the lock: nobody else has the context.
    #[inline]
    pub(crate) fn take_own_said(&mut self) -> Option<Box<Used>> {
        take_said(self.used.get_mut().unwrap_or_else(PoisonError::into_inner))
    }

    fn used(&self) -> MutexGuard<'_, Option<Box<Used>>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say_integration(&self, event: impl IntoMessage, name: &str) -> Said {
        let emitter = self.core.emitter();
        let encoded = if self.is_in_transaction() {
            event.into_outgoing(emitter.encoder(), &self.correlation())
        } else if emitter.is_direct() {
            event.into_message(emitter.encoder(), &self.correlation()).map(Outgoing::from)
        } else {
            Err(Error::new(
                ErrorKind::NoTarget,
                format!(
                    "the integration event `{name}` was said with no transaction and no direct target: \
                     make its handler a `TransactionalHandler`, publish it with `outbox.transaction(..)`, \
                     or accept at-most-once delivery with `EventEmitter::direct(broker)`, or `.direct()` of the bootstrap"
                ),
            ))
        };
        encoded.map_or_else(Said::Refused, |outgoing| Said::Integration(Box::new(outgoing)))
    }
}

/// What can be said with [`Context::emit`]: every event, an [`Envelope`] around an integration event, and a [`Message`] of one's own
/// making.
///
/// It is implemented here only.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be emitted",
    label = "not an event",
    note = "derive one of `DomainEvent`, `NotificationEvent`, `EcstEvent`; an integration event needs `serde::Serialize`, too"
)]
pub trait Emit: sealed::Emit {}

mod sealed {
    use super::{Context, Said};

    pub trait Emit {
        #[allow(private_interfaces)]
        fn say(self, cx: &Context<'_>) -> Said;
    }
}

/// How an event of this kind is said.
#[diagnostic::on_unimplemented(
    message = "`{E}` cannot be emitted as it is",
    note = "an integration event implements `IntegrationEvent` and `serde::Serialize`, a domain event `DomainEvent`"
)]
pub trait SayAs<E>: sealed_kind::SayAs<E> {}

mod sealed_kind {
    use super::{Context, Said};

    pub trait SayAs<E> {
        #[allow(private_interfaces)]
        fn say(event: E, cx: &Context<'_>) -> Said;
    }
}

impl<E: Event> Emit for E where E::Kind: SayAs<E> {}

impl<E: Event> sealed::Emit for E
where
    E::Kind: SayAs<E>,
{
    #[allow(private_interfaces)]
    fn say(self, cx: &Context<'_>) -> Said {
        <E::Kind as sealed_kind::SayAs<E>>::say(self, cx)
    }
}

impl<E: IntegrationEvent> Emit for Envelope<E> {}

impl<E: IntegrationEvent> sealed::Emit for Envelope<E> {
    #[allow(private_interfaces)]
    fn say(self, cx: &Context<'_>) -> Said {
        cx.say_integration(self, E::NAME)
    }
}

/// A message of one's own making, as an integration event: bytes for [`codec::Raw`](crate::codec::Raw), or a
/// [tombstone](Message::tombstone).
impl Emit for Message {}

impl sealed::Emit for Message {
    #[allow(private_interfaces)]
    fn say(self, cx: &Context<'_>) -> Said {
        let name = self.name.clone();
        cx.say_integration(self, &name)
    }
}

impl Emit for Outgoing {}

impl sealed::Emit for Outgoing {
    #[allow(private_interfaces)]
    fn say(self, cx: &Context<'_>) -> Said {
        let name = self.message.name.clone();
        cx.say_integration(self, &name)
    }
}

impl<E: DomainEvent> SayAs<E> for kind::Domain {}

impl<E: DomainEvent> sealed_kind::SayAs<E> for kind::Domain {
    #[allow(private_interfaces)]
    fn say(event: E, _cx: &Context<'_>) -> Said {
        Said::Domain(Held::new(event))
    }
}

macro_rules! said_as_integration {
    ($($kind:ident)*) => {$(
        impl<E: IntegrationEvent> SayAs<E> for kind::$kind {}

        impl<E: IntegrationEvent> sealed_kind::SayAs<E> for kind::$kind {
            #[allow(private_interfaces)]
            fn say(event: E, cx: &Context<'_>) -> Said {
                cx.say_integration(event, E::NAME)
            }
        }
    )*};
}

said_as_integration!(Notification Ecst);

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("in_transaction", &self.is_in_transaction())
            .field("correlation", &self.correlation())
            .finish_non_exhaustive()
    }
}
