//! What a handler has at hand.

mod at_work;
mod emit;
mod narrowed;
mod said;

use std::fmt;
use std::future::Future;
use std::iter::successors;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use futures_util::future::{Either, select};
use tokio_util::sync::CancellationToken;

use crate::codec::{Correlation, IntoMessage};
use crate::error::{Error, ErrorKind, Result};
use crate::event::DomainEvent;
use crate::mediator::{Core, EventEmitter, Sending, Streaming};
use crate::message::Message;
use crate::outgoing::Outgoing;
use crate::request::{Request, StreamRequest};
use crate::scope::Scope;
use crate::send_options::{SendOptions, cancelled, too_deep, too_late};

use at_work::AtWork;
pub use emit::{Emit, SayAs};
pub(crate) use narrowed::Narrowed;
pub(crate) use said::{AnyDomainEvent, Call, Said, Unsent};

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
    unsent: Mutex<Option<Box<Unsent>>>,
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

/// A received message, and what ties to it whatever is said because of it: most handlers do not ask.
pub(crate) struct Received {
    pub(crate) message: Message,
    correlation: OnceLock<Correlation>,
    pub(crate) at_work: AtWork,
}

impl Received {
    pub(crate) fn new(message: Message) -> Self {
        Self { message, correlation: OnceLock::new(), at_work: AtWork::default() }
    }

    fn correlation(&self, emitter: &EventEmitter) -> Correlation {
        let caused = || {
            let mut correlation = Correlation::caused_by(&self.message);
            correlation.correlation_id =
                correlation.correlation_id.or_else(|| emitter.correlation_ids().map(|new| new()));
            correlation
        };
        self.correlation.get_or_init(caused).clone()
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

/// A context as each send makes one, for the benchmarks.
pub fn nested<'a>(cx: &'a Context<'_>) -> Context<'a> {
    cx.nested()
}

/// All but what is kept.
#[inline]
fn take_said(unsent: &mut Option<Box<Unsent>>) -> Option<Box<Unsent>> {
    // Most contexts hear nothing.
    if unsent.is_none() { None } else { take_unsent(unsent) }
}

fn take_unsent(unsent: &mut Option<Box<Unsent>>) -> Option<Box<Unsent>> {
    let mut said = unsent.take()?;
    if let Some(kept) = said.take_kept() {
        *unsent.get_or_insert_with(Unsent::nothing).kept() = kept;
    }
    (!said.is_empty()).then_some(said)
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
        Self {
            core,
            origin,
            has_transaction: AtomicBool::new(false),
            is_of_request,
            unsent: Mutex::new(None),
        }
    }

    /// Says that something happened: a domain event, an integration event, or an [`Envelope`](crate::Envelope) around one.
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
        event.say(self);
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
            (None, None) => {
                let mut unsent = self.unsent();
                unsent.get_or_insert_with(Unsent::nothing).kept().scope.get_or_insert_default().clone()
            }
        }
    }

    /// The message that led here, if a consumer received one.
    pub fn message(&self) -> Option<&Message> {
        self.outwards().find_map(|cx| match cx.origin {
            Origin::Received(received) => Some(&received.message),
            Origin::Narrowed(narrowed) => narrowed.received.map(|received| &received.message),
            _ => None,
        })
    }

    /// What ties the messages that are said here to those before them.
    pub fn correlation(&self) -> Correlation {
        let mut correlation = self.given_correlation();
        correlation.correlation_id = correlation.correlation_id.or_else(|| self.own_correlation_id());
        correlation
    }

    fn given_correlation(&self) -> Correlation {
        match self.origin {
            Origin::Root => Correlation::default(),
            Origin::Correlated(correlation) => correlation.clone(),
            Origin::Received(received) => received.correlation(self.core.emitter()),
            Origin::Nested(parent) => parent.given_correlation(),
            Origin::Narrowed(Narrowed {
                options: SendOptions { correlation: Some(given), .. },
                received,
                ..
            }) => {
                // What was not given is that of the message.
                let caused = received.map(|received| received.correlation(self.core.emitter()));
                let caused = caused.unwrap_or_default();
                Correlation {
                    correlation_id: given.correlation_id.clone().or(caused.correlation_id),
                    causation_id: given.causation_id.clone().or(caused.causation_id),
                    traceparent: given.traceparent.clone().or(caused.traceparent),
                }
            }
            Origin::Narrowed(Narrowed { received: Some(received), .. }) => {
                received.correlation(self.core.emitter())
            }
            Origin::Narrowed(narrowed) => narrowed.parent.map(Context::given_correlation).unwrap_or_default(),
        }
    }

    /// The one that the emitter gives to what has none, if it was told to. The outermost context keeps it for all that it leads to.
    fn own_correlation_id(&self) -> Option<Arc<str>> {
        let new = self.core.emitter().correlation_ids()?;
        let mut unsent = self.outwards().last()?.unsent();
        Some(unsent.get_or_insert_with(Unsent::nothing).kept().correlation_id.get_or_insert_with(new).clone())
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
        self.outwards().skip(1).find_map(|cx| cx.unsent().as_ref()?.refused().map(Error::copied))
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

    #[inline]
    fn say_domain(&self, event: impl DomainEvent) {
        let said = Unsent::domain(event);
        match &mut *self.unsent() {
            Some(unsent) => unsent.push(Said::Domain(said)),
            none => *none = Some(said),
        }
    }

    pub(crate) fn push(&self, said: Said) {
        self.unsent().get_or_insert_with(Unsent::nothing).push(said);
    }

    pub(crate) fn extend(&self, said: Box<Unsent>) {
        match &mut *self.unsent() {
            Some(unsent) => said.into_all().for_each(|said| unsent.push(said)),
            none => *none = Some(said),
        }
    }

    /// What was said there was said here.
    pub(crate) fn extend_by(&self, part: &mut Context<'_>) {
        if let Some(said) = part.take_own_said() {
            self.extend(said);
        }
    }

    /// Takes what was said, if something was.
    pub(crate) fn take_said(&self) -> Option<Box<Unsent>> {
        take_said(&mut self.unsent())
    }

    /// The same without touching the lock: nobody else has the context.
    #[inline]
    pub(crate) fn take_own_said(&mut self) -> Option<Box<Unsent>> {
        take_said(self.unsent.get_mut().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets go out what was said here.
    pub(crate) async fn send_out(&mut self) -> Result<()> {
        match self.take_own_said() {
            Some(said) => self.core.emitter().emit(self, said).await,
            None => Ok(()),
        }
    }

    fn unsent(&self) -> MutexGuard<'_, Option<Box<Unsent>>> {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say_integration(&self, event: impl IntoMessage, name: &str) {
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
        self.push(encoded.map_or_else(Said::Refused, |outgoing| Said::Integration(Box::new(outgoing))));
    }
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("in_transaction", &self.is_in_transaction())
            .field("correlation", &self.given_correlation())
            .finish_non_exhaustive()
    }
}
