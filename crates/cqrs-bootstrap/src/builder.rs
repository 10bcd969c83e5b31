use std::fmt;
use std::sync::Arc;

use cqrs_consumer::{Consumer, ConsumerBuilder, Inbox, Inboxed};
use cqrs_core::{
    BeforeCommit, BeginTransaction, Database, DomainEvent, Encoder, Error, ErrorKind, EventEmitter,
    EventFamily, EventHandler, EventMap, EventMiddlewareStack, IntegrationEvent, MessageBroker, Middleware,
    MiddlewareStack, NoMiddleware, Request, RequestHandler, RequestMap, RequestMediator, Result, Stacked,
    StreamHandler, StreamMiddlewareStack, StreamRequest, Transactional, TransactionalEventHandler,
    TransactionalHandler, UnitOfWork,
};
use cqrs_outbox::{OutboxRelay, OutboxStore, RelaySettings, Retention, StoreError};
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::broker::{BrokerSource, Source};
use crate::purging::Purging;

/// Begins an application.
pub fn bootstrap() -> Builder {
    let rest = Rest {
        requests: RequestMap::new(),
        events: EventMap::new(),
        subscribed: false,
        broker: None,
        direct: false,
        group: None,
        encoder: None,
        relay: Relaying::Default,
        retention: None,
        emitter: Box::new(|emitter| emitter),
        consumer: None,
    };
    Builder { rest, database: NoDatabase }
}

/// Collects what an application consists of; nothing is checked before [`build`](Self::build), which then tells
/// everything that is wrong.
///
/// A middleware stands around the requests that are registered after it. Handlers that want a transaction are registered
/// after the [`outbox`](Self::outbox) or [`inbox`](Self::inbox) that opens it.
#[must_use = "an application does nothing until it is built and run"]
pub struct Builder<S = NoMiddleware, D = NoDatabase, V = NoMiddleware, T = NoMiddleware> {
    rest: Rest<RequestMap<S, T>, EventMap<V>>,
    database: D,
}

/// No outbox and no inbox so far: handlers that want a transaction cannot be registered yet.
#[derive(Clone, Copy, Debug)]
pub struct NoDatabase;

/// The outbox, the inbox, and the handlers that want their transactions.
pub struct OnDatabase<D: Database> {
    source: Arc<dyn BeginTransaction<D>>,
    store: Option<Arc<dyn OutboxStore>>,
    inbox: Option<Arc<dyn Inbox<D>>>,
    before_commit: BeforeCommit<D>,
    requests: Vec<Box<Register<D, RequestMap>>>,
    events: Vec<Box<Register<D, EventMap>>>,
    inbox_wanted: bool,
    problems: Vec<String>,
}

/// A builder that has an outbox or an inbox. It is implemented here only.
#[diagnostic::on_unimplemented(
    message = "there is no outbox or inbox yet that could open a transaction",
    label = "this wants a transaction",
    note = "call `.outbox(..)` or `.inbox(..)` before it"
)]
pub trait HasDatabase {
    /// The kind of database.
    type Database: Database;

    #[doc(hidden)]
    fn on_database(&mut self) -> &mut OnDatabase<Self::Database>;
}

impl<D: Database> HasDatabase for OnDatabase<D> {
    type Database = D;

    fn on_database(&mut self) -> &mut Self {
        self
    }
}

type Register<D, M> = dyn FnOnce(M, &Registering<'_, D>) -> M + Send;

/// What is known when the handlers are bound.
struct Registering<'a, D: Database> {
    unit: &'a UnitOfWork<D>,
    inbox: Option<&'a Arc<dyn Inbox<D>>>,
    group: &'a str,
}

impl<S, D, V, T> Builder<S, D, V, T> {
    /// Puts a middleware around the requests that are registered from now on, within those that are there already.
    pub fn middleware<M>(self, middleware: M) -> Builder<Stacked<S, M>, D, V, T> {
        Builder {
            rest: self.rest.map_requests(|requests| requests.middleware(middleware)),
            database: self.database,
        }
    }

    /// Puts a middleware around the handlers of events that are registered from now on, within those that are there already; not
    /// around those that run in a transaction ([`before_commit`](Builder::before_commit),
    /// [`subscribe_transactional`](Builder::subscribe_transactional)).
    pub fn event_middleware<M>(self, middleware: M) -> Builder<S, D, Stacked<V, M>, T> {
        Builder {
            rest: self.rest.map_events(|events| events.middleware(middleware)),
            database: self.database,
        }
    }

    /// Puts a middleware around the streaming requests that are registered from now on, within those that are there already.
    pub fn stream_middleware<M>(self, middleware: M) -> Builder<S, D, V, Stacked<T, M>> {
        Builder {
            rest: self.rest.map_requests(|requests| requests.stream_middleware(middleware)),
            database: self.database,
        }
    }

    /// Registers the handler of a request.
    pub fn request<R: Request>(mut self, handler: impl RequestHandler<R>) -> Self
    where
        S: MiddlewareStack<R>,
    {
        self.rest.requests = self.rest.requests.bind::<R>(handler);
        self
    }

    /// Registers the handler of a request with a middleware of its own.
    pub fn request_with<R: Request>(
        mut self,
        middleware: impl Middleware<R>,
        handler: impl RequestHandler<R>,
    ) -> Self
    where
        S: MiddlewareStack<R>,
    {
        self.rest.requests = self.rest.requests.bind_with::<R>(middleware, handler);
        self
    }

    /// Registers the handler of a streaming request. Around it stand the middlewares of streaming requests
    /// ([`stream_middleware`](Self::stream_middleware)), and no others.
    pub fn stream<R: StreamRequest>(mut self, handler: impl StreamHandler<R>) -> Self
    where
        T: StreamMiddlewareStack<R>,
    {
        self.rest.requests = self.rest.requests.bind_stream::<R>(handler);
        self
    }

    /// Registers a handler of a domain event: it runs after the request has succeeded and its transaction, if it has one,
    /// is committed.
    pub fn domain_event<E: DomainEvent>(mut self, handler: impl EventHandler<E>) -> Self
    where
        V: EventMiddlewareStack<E>,
    {
        self.rest.events = self.rest.events.bind::<E>(handler);
        self
    }

    /// Registers one handler of several domain events: a tuple of their types.
    pub fn domain_events<F: EventFamily<V, H>, H>(mut self, handler: H) -> Self {
        self.rest.events = self.rest.events.bind_family::<F, H>(handler);
        self
    }

    /// Registers a handler of an integration event that is received from `topic`.
    ///
    /// It runs again when a message is delivered again. Where that must have no second effect, register it with
    /// [`subscribe_transactional`](Builder::subscribe_transactional).
    pub fn subscribe<E: IntegrationEvent + DeserializeOwned>(
        mut self,
        topic: impl Into<String>,
        handler: impl EventHandler<E>,
    ) -> Self
    where
        V: EventMiddlewareStack<E>,
    {
        self.rest.events = self.rest.events.subscribe::<E>(topic, handler);
        self.rest.subscribed = true;
        self
    }

    /// Registers the handler of a request that gets a transaction, which is committed when it succeeds, with what it said.
    pub fn transactional<R: Request>(mut self, handler: impl TransactionalHandler<R, D::Database>) -> Self
    where
        S: MiddlewareStack<R>,
        D: HasDatabase,
    {
        let middleware = self.rest.requests.current_middleware().clone();
        self.database.on_database().requests.push(Box::new(move |requests, registering| {
            let handler = Transactional::new(registering.unit.clone(), handler);
            requests.with_middleware(middleware).bind::<R>(handler).with_middleware(NoMiddleware)
        }));
        self
    }

    /// Registers a handler of a domain event that runs in the transaction of the request, before its commit.
    pub fn before_commit<E: DomainEvent>(
        mut self,
        handler: impl TransactionalEventHandler<E, D::Database>,
    ) -> Self
    where
        D: HasDatabase,
    {
        let database = self.database.on_database();
        database.before_commit = std::mem::take(&mut database.before_commit).bind::<E>(handler);
        self
    }

    /// Registers a handler of an integration event that gets a transaction with an inbox row in it: a message that is
    /// delivered again has no second effect.
    ///
    /// `name` tells this handler's effects from those of others of the group. It stands in the database: keep it when the
    /// code moves. An empty one is an error.
    pub fn subscribe_transactional<E: IntegrationEvent + DeserializeOwned>(
        mut self,
        topic: impl Into<String>,
        name: impl Into<String>,
        handler: impl TransactionalEventHandler<E, D::Database>,
    ) -> Self
    where
        D: HasDatabase,
    {
        let (topic, name) = (topic.into(), name.into());
        self.rest.subscribed = true;
        let database = self.database.on_database();
        database.inbox_wanted = true;
        if name.is_empty() {
            database.problems.push(format!(
                "a handler of `{}` from the topic `{topic}` has an empty name: give `subscribe_transactional` one that tells it from \
                 the others of its group",
                E::NAME
            ));
        }
        database.events.push(Box::new(move |events, registering| {
            let Some(inbox) = registering.inbox else { return events };
            let handler = Inboxed::<D::Database, E, _>::new(
                registering.group,
                handler,
                registering.unit.clone(),
                Arc::clone(inbox),
            );
            events.subscribe_messages(topic, E::NAME, Arc::new(handler.with_name(name)))
        }));
        self
    }

    /// Sets the broker: a URL, whose scheme picks one that is compiled in (`kafka://`, `amqp://`, `memory://`), or a broker.
    pub fn broker(mut self, broker: impl Into<BrokerSource>) -> Self {
        self.rest.broker = Some(broker.into().0);
        self
    }

    /// Sets the consumer group: the name of this service, as its brokers and its inbox know it. Wanted as soon as
    /// something is subscribed.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.rest.group = Some(group.into());
        self
    }

    /// Integration events that are said outside of a transaction go straight to the broker, **at most once**.
    pub fn direct(mut self) -> Self {
        self.rest.direct = true;
        self
    }

    /// Sets the wire format and size limit of what is said. Default: those of the outbox.
    pub fn encoder(mut self, encoder: Encoder) -> Self {
        self.rest.encoder = Some(encoder);
        self
    }

    /// Sets what the failure of an event's handler does to the others, how many of them run at the same time, and the like.
    /// Broker and encoder are set by the builder itself ([`direct`](Self::direct), [`encoder`](Self::encoder)).
    ///
    /// ```
    /// # use cqrs_bootstrap::bootstrap;
    /// # use cqrs_core::OnEventFailure;
    /// let builder = bootstrap().emitter(|emitter| emitter.with_on_failure(OnEventFailure::RunAll).with_concurrency(4));
    /// ```
    pub fn emitter(mut self, settings: impl FnOnce(EventEmitter) -> EventEmitter + Send + 'static) -> Self {
        self.rest.emitter = Box::new(settings);
        self
    }

    /// Sets the settings of the relay. There is one as soon as there is an outbox; settings without are an error.
    pub fn relay(mut self, settings: RelaySettings) -> Self {
        self.rest.relay = Relaying::By(Box::new(settings));
        self
    }

    /// Runs no relay: a stand-alone one takes the events of the outbox to the broker.
    pub fn without_relay(mut self) -> Self {
        self.rest.relay = Relaying::Elsewhere;
        self
    }

    /// Sets for how long what is kept for a time only is kept: what was sent, the inbox, requests that are done, deduplication
    /// keys. While the application runs it removes what has passed its time, now and then; what fails is said in the log, and
    /// tried again. Any number of processes may do so.
    ///
    /// Default: [`Retention::default`]. [`Retention::for_ever`] removes nothing. Without an outbox or an inbox it is an error.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.rest.retention = Some(retention);
        self
    }

    /// Sets the settings of the consumer. There is one as soon as something is subscribed; settings without are an error.
    ///
    /// ```
    /// # use cqrs_bootstrap::bootstrap;
    /// let builder = bootstrap().consumer(|consumer| consumer.concurrency(64));
    /// ```
    pub fn consumer(
        mut self,
        settings: impl FnOnce(ConsumerBuilder) -> ConsumerBuilder + Send + 'static,
    ) -> Self {
        self.rest.consumer = Some(Box::new(settings));
        self
    }
}

impl<S, V, T> Builder<S, NoDatabase, V, T> {
    /// Sets the outbox: it opens the transactions of handlers, and a relay takes its events to the broker.
    pub fn outbox<D, O>(self, outbox: O) -> Builder<S, OnDatabase<D>, V, T>
    where
        D: Database,
        O: BeginTransaction<D> + OutboxStore,
    {
        let outbox = Arc::new(outbox);
        let database = OnDatabase { store: Some(outbox.clone()), ..OnDatabase::new(outbox) };
        Builder { rest: self.rest, database }
    }

    /// Sets the inbox of a service that has no outbox here: it opens the transactions of handlers. What they say goes into
    /// the outbox of the same database, and a relay elsewhere takes it to the broker.
    pub fn inbox<D, I>(self, inbox: I) -> Builder<S, OnDatabase<D>, V, T>
    where
        D: Database,
        I: Inbox<D>,
    {
        let inbox = Arc::new(inbox);
        let database = OnDatabase { inbox: Some(inbox.clone()), ..OnDatabase::new(inbox) };
        Builder { rest: self.rest, database }
    }

    /// Checks everything.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`], naming everything that is wrong; [`ErrorKind::Broker`] if the broker's URL is.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn build(self) -> Result<App> {
        let mut problems = Vec::new();
        if self.rest.retention.is_some() {
            problems.push(
                "there is a retention, and neither an outbox nor an inbox whose rows it would remove: add `.outbox(..)` or \
                 `.inbox(..)`, or leave `.retention(..)` out"
                    .to_owned(),
            );
        }
        let purging = Purging::new(self.rest.retention.clone().unwrap_or_default());
        self.rest.build(None, purging, problems).await
    }
}

impl<S, D: Database, V, T> Builder<S, OnDatabase<D>, V, T> {
    /// Sets the outbox, beside the inbox: most often the same value. It opens the transactions of all handlers, also of those that
    /// are registered already. There is one outbox; a second one is an error.
    pub fn outbox(mut self, outbox: impl BeginTransaction<D> + OutboxStore) -> Self {
        if self.database.store.is_some() {
            self.database.problems.push(
                "there are two outboxes, and transactions are opened by one: leave one `.outbox(..)` out, or build an application of \
                 its own for it"
                    .to_owned(),
            );
        }
        let outbox = Arc::new(outbox);
        self.database.store = Some(outbox.clone());
        self.database.source = outbox;
        self
    }

    /// Sets the inbox, beside the outbox: most often the same value. There is one inbox; a second one is an error.
    pub fn inbox(mut self, inbox: impl Inbox<D>) -> Self {
        if self.database.inbox.is_some() {
            self.database.problems.push(
                "there are two inboxes, and a message is noted in one: leave one `.inbox(..)` out, or build an application of its own \
                 for it"
                    .to_owned(),
            );
        }
        self.database.inbox = Some(Arc::new(inbox));
        self
    }

    /// Checks everything, and looks whether the outbox's tables are there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`], naming everything that is wrong; [`ErrorKind::Broker`] if the broker's URL is;
    /// [`ErrorKind::Store`] if the database cannot be, or has no tables.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn build(self) -> Result<App> {
        let Self { rest, database } = self;
        let mut problems = database.problems;
        if database.inbox_wanted && database.inbox.is_none() {
            problems.push(
                "a handler is registered with `subscribe_transactional` and there is no inbox: add `.inbox(outbox.clone())`"
                    .to_owned(),
            );
        }
        let unit = UnitOfWork::new(Arc::clone(&database.source), database.before_commit);
        let group = rest.group.clone().unwrap_or_default();
        let registering = Registering { unit: &unit, inbox: database.inbox.as_ref(), group: &group };
        let rest = rest.map_requests(|requests| {
            let requests = requests.with_middleware(NoMiddleware).with_stream_middleware(NoMiddleware);
            database
                .requests
                .into_iter()
                .fold(requests, |requests, register| register(requests, &registering))
        });
        let mut rest = rest.map_events(|events| {
            let events = events.with_middleware(NoMiddleware);
            database.events.into_iter().fold(events, |events, register| register(events, &registering))
        });
        rest.encoder.get_or_insert_with(|| database.source.encoder().clone());
        let purging = Purging::new(rest.retention.clone().unwrap_or_default())
            .inbox(database.inbox)
            .store(database.store.clone());
        rest.build(database.store, purging, problems).await
    }
}

impl<D: Database> OnDatabase<D> {
    fn new(source: Arc<dyn BeginTransaction<D>>) -> Self {
        Self {
            source,
            store: None,
            inbox: None,
            before_commit: BeforeCommit::new(),
            requests: Vec::new(),
            events: Vec::new(),
            inbox_wanted: false,
            problems: Vec::new(),
        }
    }
}

/// Who takes the events of the outbox to the broker.
enum Relaying {
    /// A relay here, if there is an outbox.
    Default,
    By(Box<RelaySettings>),
    Elsewhere,
}

type ConsumerSettings = dyn FnOnce(ConsumerBuilder) -> ConsumerBuilder + Send;

/// What does not depend on the kind of database.
struct Rest<R, E> {
    requests: R,
    events: E,
    subscribed: bool,
    broker: Option<Source>,
    direct: bool,
    group: Option<String>,
    encoder: Option<Encoder>,
    relay: Relaying,
    retention: Option<Retention>,
    emitter: Box<dyn FnOnce(EventEmitter) -> EventEmitter + Send>,
    consumer: Option<Box<ConsumerSettings>>,
}

impl<R, E> Rest<R, E> {
    fn map_requests<M>(self, map: impl FnOnce(R) -> M) -> Rest<M, E> {
        self.map(map, |events| events)
    }

    fn map_events<M>(self, map: impl FnOnce(E) -> M) -> Rest<R, M> {
        self.map(|requests| requests, map)
    }

    fn map<M, N>(self, requests: impl FnOnce(R) -> M, events: impl FnOnce(E) -> N) -> Rest<M, N> {
        Rest {
            requests: requests(self.requests),
            events: events(self.events),
            subscribed: self.subscribed,
            broker: self.broker,
            direct: self.direct,
            group: self.group,
            encoder: self.encoder,
            relay: self.relay,
            retention: self.retention,
            emitter: self.emitter,
            consumer: self.consumer,
        }
    }
}

impl<S, V, T> Rest<RequestMap<S, T>, EventMap<V>> {
    async fn build(
        self,
        store: Option<Arc<dyn OutboxStore>>,
        purging: Purging,
        mut problems: Vec<String>,
    ) -> Result<App> {
        let relayed = store.is_some() && !matches!(self.relay, Relaying::Elsewhere);
        if store.is_none() && matches!(self.relay, Relaying::By(_)) {
            problems.push(
                "there are settings for a relay, and there is no outbox whose events it would take: add `.outbox(..)`, or leave \
                 `.relay(..)` out"
                    .to_owned(),
            );
        }
        if self.broker.is_none() && (relayed || self.subscribed || self.direct) {
            problems.push(
                "there is no broker, and the outbox, a subscription or `.direct()` wants one: add `.broker(\"kafka://..\")`, \
                 or `.without_relay()` if another process relays"
                    .to_owned(),
            );
        }
        let group = self.group.filter(|group| !group.is_empty());
        if self.subscribed && group.is_none() {
            problems.push(
                "something is subscribed and there is no consumer group: add `.group(\"name-of-this-service\")`".to_owned(),
            );
        }
        if self.consumer.is_some() && !self.subscribed {
            problems.push(
                "there are settings for a consumer, and nothing is subscribed that it would receive: add `.subscribe(..)`, or \
                 leave `.consumer(..)` out"
                    .to_owned(),
            );
        }
        problems.extend(purging.problem());
        let broker = match self.broker {
            Some(source) => source.open().map(Some).or_else(|error| wrong(&mut problems, error))?,
            None => None,
        };
        let emitter = (self.emitter)(EventEmitter::new(self.events));
        let mut emitter = emitter.with_encoder(self.encoder.unwrap_or_default());
        if let Some(broker) = broker.clone().filter(|_| self.direct) {
            emitter = emitter.direct(broker);
        }
        let requests = RequestMediator::new(self.requests, emitter)
            .map(Some)
            .or_else(|error| wrong(&mut problems, error))?;
        let settings = match self.relay {
            Relaying::Default => Some(RelaySettings::default()),
            Relaying::By(settings) => Some(*settings),
            Relaying::Elsewhere => None,
        };
        let relay = match (&store, &broker, settings) {
            (Some(store), Some(broker), Some(settings)) => {
                let relay = OutboxRelay::builder(Arc::clone(store), Arc::clone(broker)).settings(settings);
                relay.build().map(Some).or_else(|error| wrong(&mut problems, error))?
            }
            _ => None,
        };
        // Where nothing that was subscribed could be bound, what was missing for that is told, and not what follows from it.
        let events = requests
            .as_ref()
            .map(RequestMediator::events)
            .filter(|events| problems.is_empty() || !events.topics().is_empty());
        let consumer = match (events, &broker, group) {
            (Some(events), Some(broker), Some(group)) if self.subscribed => {
                let broker: Arc<dyn MessageBroker> = Arc::clone(broker);
                let consumer = Consumer::builder(broker, group).events(events);
                let consumer = match self.consumer {
                    Some(settings) => settings(consumer),
                    None => consumer,
                };
                consumer.build().map(Some).or_else(|error| wrong(&mut problems, error))?
            }
            _ => None,
        };
        match requests {
            Some(requests) if problems.is_empty() => {
                if let Some(store) = &store {
                    store.check().await.map_err(StoreError::into_error)?;
                }
                Ok(App::new(requests, relay, consumer, purging))
            }
            _ => Err(Error::new(ErrorKind::Configuration, problems.join("\n"))),
        }
    }
}

/// A mistake joins the others; anything else is told at once.
fn wrong<T>(problems: &mut Vec<String>, error: Error) -> Result<Option<T>> {
    if error.kind() == ErrorKind::Configuration {
        problems.push(error.to_string());
        Ok(None)
    } else {
        Err(error)
    }
}

impl<S, D, V, T> fmt::Debug for Builder<S, D, V, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("requests", &self.rest.requests)
            .field("events", &self.rest.events)
            .field("group", &self.rest.group)
            .finish_non_exhaustive()
    }
}

impl<D: Database> fmt::Debug for OnDatabase<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDatabase")
            .field("outbox", &self.store.is_some())
            .field("inbox", &self.inbox.is_some())
            .finish_non_exhaustive()
    }
}
