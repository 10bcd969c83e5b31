use std::any::TypeId;
use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use super::assertions::{Emitted, Found, Published, Sent};
use super::clock::{FixedClock, FixedIds};
use super::record::{Entry, Keepers, Recorder};
use super::scripted::{Scripted, in_turn};
use crate::broker::memory::MemoryBroker;
use crate::codec::{Correlation, Encoder, IntoMessage};
use crate::context::Emit;
use crate::error::Result;
use crate::event::{DomainEvent, IntegrationEvent};
use crate::mediator::{
    Dispatch, Dispatched, EventEmitter, EventMap, EventMediator, RequestMap, RequestMediator, Sending,
    Streaming,
};
use crate::middleware::NoMiddleware;
use crate::request::{Reply, Request, StreamRequest};
use crate::send_options::SendOptions;

/// A mediator that records what was sent, emitted and published. Cheap to clone; all clones are one.
///
/// The [module](super) tells how to use it.
#[derive(Clone)]
pub struct TestMediator {
    requests: RequestMediator,
    recorder: Arc<Recorder>,
    encoder: Encoder,
    clock: FixedClock,
    ids: FixedIds,
}

impl TestMediator {
    /// To say what is under test, and what is scripted. By default nothing is bound, and integration events that are said
    /// outside of a transaction are recorded as published.
    pub fn builder() -> TestMediatorBuilder {
        TestMediatorBuilder {
            requests: RequestMap::new(),
            emitter: EventEmitter::default(),
            scripts: Vec::new(),
            scripted: HashSet::new(),
            keepers: Keepers::default(),
            is_direct: true,
            clock: FixedClock::default(),
            ids: FixedIds::default(),
            given: HashSet::new(),
            problems: Vec::new(),
        }
    }

    /// Sends a request, as [`RequestMediator::send`] does.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send<R: Request>(&self, request: R) -> Sending<'_, R> {
        self.requests.send(request)
    }

    /// The same with options, as [`RequestMediator::send_with`] does.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send_with<'a, R: Request>(&'a self, request: R, options: &'a SendOptions) -> Sending<'a, R> {
        self.requests.send_with(request, options)
    }

    /// The items of a streaming request, as [`RequestMediator::stream`] gives them.
    pub fn stream<R: StreamRequest>(&self, request: R) -> Streaming<'_, R> {
        self.requests.stream(request)
    }

    /// Says an event outside of any request, as [`EventMediator::emit`] does.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn emit<E: Emit>(&self, event: E) -> Result<()> {
        self.events().emit(event).await
    }

    /// Takes an event to the handlers that are subscribed to it, as a consumer would that received it: the bare event, an
    /// [`Envelope`](crate::Envelope) around one, or a [`Message`](crate::Message). It is encoded and decoded on the way.
    ///
    /// # Errors
    ///
    /// As for [`EventMediator::handle`], and if the event cannot be encoded.
    pub async fn receive(&self, event: impl IntoMessage) -> Result<Dispatched> {
        let message = event.into_message(&self.encoder, &Correlation::default())?;
        self.events().handle(message).await
    }

    /// The mediator itself, for code that wants one. It shares the record.
    pub fn requests(&self) -> &RequestMediator {
        &self.requests
    }

    /// The mediator of events, for code that wants one. It shares the record.
    pub fn events(&self) -> EventMediator {
        self.requests.events()
    }

    /// The requests of this type that were sent to their handler or script, also from within other handlers, and whether the
    /// middlewares around it let them through or not. A retry around a handler does not count again.
    ///
    /// A request for which nothing is bound, or that was refused because its time was up, was not sent.
    pub fn sent<R: Request>(&self) -> Found<'_, Sent<R>> {
        Found::sent(&self.recorder, R::name())
    }

    /// The same for a streaming request. It counts when its first item is asked for.
    pub fn streamed<R: StreamRequest>(&self) -> Found<'_, Sent<R>> {
        Found::sent(&self.recorder, R::name())
    }

    /// The domain events of this type that went to their handlers, be there any or not; those of a transaction, when it had
    /// committed. What a failed handler said is not among them.
    pub fn emitted<E: DomainEvent>(&self) -> Found<'_, Emitted<E>> {
        Found::emitted(&self.recorder)
    }

    /// The integration events with this type's name that went out: taken by the broker, or written into an outbox by a
    /// transactional handler and committed, whatever the database is. What a failed handler said is not among them, nor is
    /// a duplicate that the outbox left out.
    ///
    /// What is given to an outbox without a handler (its own `transaction` and `add`) does not come by here.
    pub fn published<E: IntegrationEvent>(&self) -> Found<'_, Published<E>> {
        Found::published(&self.recorder)
    }

    /// The names of all events, domain and integration, in the order in which they went out.
    ///
    /// What a transaction takes into the outbox goes out with its commit, and so before the domain events of its handler.
    pub fn said(&self) -> Vec<String> {
        let name = |entry: &Entry| match entry {
            Entry::Sent { .. } => None,
            Entry::Emitted { name, .. } => Some((*name).to_owned()),
            Entry::Published(outgoing) => Some(outgoing.message.name.clone()),
        };
        self.recorder.entries().iter().filter_map(name).collect()
    }

    /// All that happened, in its order, a line for each: what a failed assertion shows.
    pub fn journal(&self) -> Vec<String> {
        self.recorder.entries().iter().map(Entry::to_string).collect()
    }

    /// Forgets what was recorded, as when all that was only to prepare the test. Clock and ids go on.
    pub fn forget(&self) {
        self.recorder.forget();
    }

    /// Where events have their time from.
    pub fn clock(&self) -> &FixedClock {
        &self.clock
    }

    /// Where events have their ids from.
    pub fn ids(&self) -> &FixedIds {
        &self.ids
    }
}

impl<R: Request> Dispatch<R> for TestMediator {
    fn send(&self, request: R) -> impl Future<Output = Reply<R>> + Send {
        TestMediator::send(self, request)
    }
}

impl fmt::Debug for TestMediator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestMediator").field("recorder", &self.recorder).finish_non_exhaustive()
    }
}

type Script = Box<dyn FnOnce(&mut RequestMap, &Arc<Recorder>)>;

/// Says what is under test, and what is scripted. Made by [`TestMediator::builder`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct TestMediatorBuilder {
    requests: RequestMap,
    emitter: EventEmitter,
    scripts: Vec<Script>,
    scripted: HashSet<TypeId>,
    keepers: Keepers,
    is_direct: bool,
    clock: FixedClock,
    ids: FixedIds,
    /// Which of the maps was given.
    given: HashSet<&'static str>,
    problems: Vec<String>,
}

impl TestMediatorBuilder {
    /// The handlers of requests, as the application binds them, with their middlewares.
    pub fn requests<S, V>(mut self, requests: RequestMap<S, V>) -> Self {
        self.give_once("`requests` was", "bind all handlers to one map");
        self.requests = requests.with_middleware(NoMiddleware).with_stream_middleware(NoMiddleware);
        self
    }

    /// The handlers of events, as the application binds them.
    pub fn events<S>(self, events: EventMap<S>) -> Self {
        self.emitter(EventEmitter::new(events))
    }

    /// The handlers of events with the emitter's settings, as the application has them. A direct target of its own is kept, and
    /// so are a clock and ids that its [`Encoder`] has.
    pub fn emitter(mut self, emitter: EventEmitter) -> Self {
        self.give_once("`events` or `emitter` was", "an emitter has the map of events");
        self.emitter = emitter;
        self
    }

    fn give_once(&mut self, what: &'static str, remedy: &str) {
        if !self.given.insert(what) {
            self.problems.push(format!("{what} called twice: {remedy}"));
        }
    }

    /// Answers the requests of a type: each time they are sent, in place of the handler and its middlewares if there is one. They
    /// are kept, so that the test can look into them.
    ///
    /// ```
    /// # use cqrs_core::testing::TestMediator;
    /// # use cqrs_core::{Error, Request, Result};
    /// #[derive(Request)]
    /// #[request(response = String)]
    /// struct ReadMeeting { meeting: u32 }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
    /// let test = TestMediator::builder()
    ///     .answer::<ReadMeeting>(|query| match query.meeting {
    ///         7 => Ok("https://meet.example/7".to_owned()),
    ///         other => Err(Error::handler(format!("there is no meeting {other}"))),
    ///     })
    ///     .build();
    ///
    /// assert_eq!(test.send(ReadMeeting { meeting: 7 }).await?, "https://meet.example/7");
    /// test.sent::<ReadMeeting>().once().matching(|query| query.meeting == 7);
    /// # Ok(()) }
    /// ```
    pub fn answer<R: Request>(mut self, answer: impl Fn(&R) -> Reply<R> + Send + Sync + 'static) -> Self {
        self.script_once::<R>(R::name());
        self.scripts.push(Box::new(move |requests, recorder| {
            requests.set::<R>(Scripted { recorder: Arc::clone(recorder), answer });
        }));
        self
    }

    /// The same with one reply after the other. If it is sent once more, the send fails, with an error of kind
    /// [`MissingHandler`](crate::ErrorKind::MissingHandler).
    pub fn answer_in_turn<R: Request>(self, replies: impl IntoIterator<Item = Reply<R>>) -> Self {
        self.answer::<R>(in_turn::<R>(replies))
    }

    /// Answers the streaming requests of a type with all that the closure gives.
    pub fn answer_stream<R, I>(mut self, answer: impl Fn(&R) -> I + Send + Sync + 'static) -> Self
    where
        R: StreamRequest,
        I: IntoIterator<Item = Result<R::Item, R::Error>, IntoIter: Send> + 'static,
    {
        self.script_once::<R>(R::name());
        self.scripts.push(Box::new(move |requests, recorder| {
            requests.set_stream::<R>(Scripted { recorder: Arc::clone(recorder), answer });
        }));
        self
    }

    fn script_once<R: 'static>(&mut self, name: &str) {
        if !self.scripted.insert(TypeId::of::<R>()) {
            self.problems
                .push(format!("the request `{name}` is answered twice: say all of it in one closure"));
        }
    }

    /// Keeps clones of the requests of a type that go to a real handler, so that the test can look into them. Else they are only
    /// counted; those that are scripted are kept in any case.
    pub fn keep<R: Clone + Send + 'static>(mut self) -> Self {
        self.keepers.add::<R>();
        self
    }

    /// As in an application whose emitter has no direct target: an integration event that is said outside of a transaction is
    /// refused, and fails its request. Say so where the application has an outbox and nothing else.
    pub fn without_direct(mut self) -> Self {
        self.is_direct = false;
        self
    }

    /// Where events have their time from; handlers under test may have the same. Default: midnight of 2000-01-01.
    pub fn clock(mut self, clock: &FixedClock) -> Self {
        self.clock = clock.clone();
        self
    }

    /// Where events have their ids from. Default: 1, 2, 3 and so on.
    pub fn ids(mut self, ids: &FixedIds) -> Self {
        self.ids = ids.clone();
        self
    }

    /// Puts it together.
    ///
    /// # Panics
    ///
    /// If something is wrong with it, as with the maps of [`RequestMediator::new`]; the panic names all of it.
    #[track_caller]
    pub fn build(self) -> TestMediator {
        let Self { mut requests, mut emitter, scripts, keepers, is_direct, clock, ids, problems, .. } = self;
        let recorder = Arc::new(Recorder::new(keepers, emitter.encoder().clone()));
        // What is put in place of a handler records by itself.
        requests.record(&recorder);
        scripts.into_iter().for_each(|script| script(&mut requests, &recorder));
        emitter.record(&recorder);
        emitter.stamp(&clock, &ids);
        if is_direct {
            emitter.direct_or(MemoryBroker::new());
        }
        let encoder = emitter.encoder().clone();
        let mut problems = problems.join("\n");
        match RequestMediator::new(requests, emitter) {
            Ok(requests) if problems.is_empty() => TestMediator { requests, recorder, encoder, clock, ids },
            built => {
                if let Err(error) = built {
                    problems = format!("{problems}\n{error}");
                }
                panic!("the mediator of the test cannot be built: {}", problems.trim_start())
            }
        }
    }
}

impl fmt::Debug for TestMediatorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestMediatorBuilder")
            .field("requests", &self.requests)
            .field("emitter", &self.emitter)
            .field("scripts", &self.scripts.len())
            .field("problems", &self.problems)
            .finish_non_exhaustive()
    }
}
