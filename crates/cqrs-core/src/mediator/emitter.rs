use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryFutureExt;

use super::emission::go_out;
use super::event_map::EventMap;
use crate::broker::MessageBroker;
use crate::codec::Encoder;
use crate::context::{Context, Unsent};
use crate::error::Result;
use crate::middleware::NoMiddleware;
use crate::recording::Recording;

/// Takes what handlers said to the right place: domain events to the handlers of its [`EventMap`], integration events
/// straight to a broker if it was told to ([`direct`](Self::direct)).
///
/// The integration events of a [`TransactionalHandler`](crate::TransactionalHandler) do not come this way: they are in
/// the outbox when the transaction commits.
#[derive(Debug)]
#[must_use = "an emitter does nothing until a mediator is made with it"]
pub struct EventEmitter {
    events: EventMap,
    pub(super) direct: Option<Arc<dyn MessageBroker>>,
    pub(super) encoder: Encoder,
    confirm_timeout: Duration,
    max_events: usize,
    max_depth: usize,
    gives_correlation_ids: bool,
    on_failure: OnEventFailure,
    /// `None` is one after the other.
    concurrency: Option<NonZeroUsize>,
    pub(super) recording: Recording,
}

impl Default for EventEmitter {
    fn default() -> Self {
        Self::new(EventMap::new())
    }
}

impl EventEmitter {
    /// Events go to the handlers of this map; integration events need a transaction.
    pub fn new<S>(events: EventMap<S>) -> Self {
        let mut events = events.with_middleware(NoMiddleware);
        events.settle();
        Self {
            events,
            direct: None,
            encoder: Encoder::default(),
            confirm_timeout: Duration::from_secs(30),
            max_events: 10_000,
            max_depth: 20,
            gives_correlation_ids: false,
            on_failure: OnEventFailure::Stop,
            concurrency: None,
            recording: Recording::default(),
        }
    }

    /// Integration events that are said outside of a transaction go straight to this broker, after the handler.
    ///
    /// **At most once**: if the process dies or the broker fails between the handler and the confirm, they are lost.
    /// Say them in a transaction where that matters.
    pub fn direct(mut self, broker: Arc<dyn MessageBroker>) -> Self {
        self.direct = Some(broker);
        self
    }

    /// How long the direct publishes of a request may take together; zero is an error when the mediator is built. Default 30 s.
    pub fn with_confirm_timeout(mut self, timeout: Duration) -> Self {
        self.confirm_timeout = timeout;
        self
    }

    /// How many events one request may lead to before this is taken for a cycle; 0 is an error when the mediator is built. Default 10,000.
    pub fn with_max_events(mut self, max_events: usize) -> Self {
        self.max_events = max_events;
        self
    }

    /// How many requests may stand within one another: a handler sends one whose handler sends one, or says an event whose handler
    /// does. One more fails with [`ErrorKind::EventFlood`](crate::ErrorKind::EventFlood); 0 is an error when the mediator is built.
    /// Default 20.
    ///
    /// Each of them takes room on the stack of the thread, more with each middleware: for many, give the threads of the runtime
    /// more of it.
    pub fn with_max_depth(mut self, requests: usize) -> Self {
        self.max_depth = requests;
        self
    }

    /// What the failure of a domain event's handler does to the others. Default [`OnEventFailure::Stop`].
    pub fn with_on_failure(mut self, policy: OnEventFailure) -> Self {
        self.on_failure = policy;
        self
    }

    /// How many handlers of one domain event run at the same time. Default 1: one after the other, in the order of their
    /// binding.
    ///
    /// The events themselves still go one after the other, and what handlers say goes out in the order of their binding. Each
    /// request has this limit for itself, and so has each that a handler sends: none waits for a place that another
    /// one holds. 0 is taken for 1.
    pub fn with_concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = NonZeroUsize::new(handlers).filter(|handlers| handlers.get() > 1);
        self
    }

    /// Gives messages a correlation id where the request, event or message from outside that led to them has none; all that one leads
    /// to shares it. By default such messages have none either, but for those that a message with an id leads to: that one begins a
    /// conversation.
    ///
    /// It is made when the first of them is said, or when a handler asks for it ([`Context::correlation`]), as the ids of events are
    /// ([`Encoder::with_ids`]).
    pub fn with_correlation_ids(mut self) -> Self {
        self.gives_correlation_ids = true;
        self
    }

    /// How messages are made of events.
    pub fn with_encoder(mut self, encoder: Encoder) -> Self {
        self.encoder = encoder;
        self
    }

    pub(crate) fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Where new ones come from, if it was told to give them.
    pub(crate) fn correlation_ids(&self) -> Option<impl Fn() -> Arc<str>> {
        self.gives_correlation_ids.then_some(|| self.encoder.stamps.id().to_string().into())
    }

    pub(crate) fn recording(&self) -> &Recording {
        &self.recording
    }

    pub(super) fn events(&self) -> &EventMap {
        &self.events
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    pub(crate) fn max_events(&self) -> usize {
        self.max_events
    }

    pub(crate) fn max_depth(&self) -> usize {
        self.max_depth
    }

    pub(super) fn on_failure(&self) -> OnEventFailure {
        self.on_failure
    }

    pub(super) fn concurrency(&self) -> Option<NonZeroUsize> {
        self.concurrency
    }

    pub(super) fn is_concurrent(&self) -> bool {
        self.concurrency.is_some()
    }

    pub(super) fn direct_target(&self) -> Option<&Arc<dyn MessageBroker>> {
        self.direct.as_ref()
    }

    pub(super) fn confirm_timeout(&self) -> Duration {
        self.confirm_timeout
    }

    /// What is wrong with its map, and with what it was told: one text for each.
    pub(super) fn problems(&self) -> Vec<String> {
        let own = [
            (
                self.confirm_timeout.is_zero(),
                "the confirm timeout of the `EventEmitter` is zero, and no broker could confirm a direct publish in time: raise its \
                 `with_confirm_timeout`",
            ),
            (
                self.max_events == 0,
                "the `EventEmitter` lets a request lead to 0 events: raise its `with_max_events` to 1 at least",
            ),
            (
                self.max_depth == 0,
                "the `EventEmitter` lets 0 requests stand within one another, and the first one counts: raise its `with_max_depth` to \
                 1 at least",
            ),
        ];
        let own = own.into_iter().filter_map(|(wrong, problem)| wrong.then_some(problem));
        let own = own.chain(self.encoder.problem()).map(str::to_owned);
        self.events.problems().iter().cloned().chain(own).collect()
    }

    /// Takes out what a request said that has been carried out. So it is not to be sent again, whatever failed here.
    pub(crate) fn emit_of_request(
        &self,
        cx: &Context<'_>,
        said: Box<Unsent>,
    ) -> impl Future<Output = Result<()>> + Send {
        cx.carry_out();
        self.emit(cx, said).map_err(|error| error.with_retryable(false))
    }

    /// Takes out what was said in this context.
    pub(crate) async fn emit(&self, cx: &Context<'_>, mut said: Box<Unsent>) -> Result<()> {
        said.check()?;
        match cx.parent() {
            // It happened only if the outer transaction commits.
            Some(parent) if parent.is_in_transaction() => {
                parent.extend(said);
                Ok(())
            }
            _ => {
                let (first, rest) = said.split();
                go_out(self, cx, first, rest).await
            }
        }
    }
}

/// What the failure of a domain event's handler does to the others. Integration events go out in any case, and the request itself
/// has been carried out.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnEventFailure {
    /// No further handler begins, neither for this event nor for those behind it, and the request fails with the error.
    #[default]
    Stop,
    /// All others run, and what they say goes out; then the request fails with the error, or, where several failed, with all of
    /// them ([`EventErrors`](crate::EventErrors)). What a failed handler said is dropped.
    RunAll,
    /// The same, but the error is only logged, as an error, and the request does not fail.
    Log,
}
