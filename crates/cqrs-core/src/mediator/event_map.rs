use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;

use super::handlers::Handlers;
use crate::codec::decode_payload;
use crate::context::Context;
use crate::error::Result;
use crate::event::{DomainEvent, Event, EventHandler, IntegrationEvent};
use crate::message::Message;
use crate::middleware::{EventMiddlewareStack, NoMiddleware, Placement, Stacked};

/// Says which handlers an event goes to: any number of them, in the order of their binding.
///
/// A middleware stands around the handlers that are bound after it; the first is the outermost.
#[must_use = "a map does nothing until a mediator is made of it"]
pub struct EventMap<S = NoMiddleware> {
    domain: Handlers,
    subscribed: HashMap<String, Vec<Subscribed>>,
    problems: Vec<String>,
    middleware: S,
}

struct Subscribed {
    topic: String,
    handler: Arc<dyn MessageHandler>,
}

impl EventMap {
    /// An empty map.
    pub fn new() -> Self {
        Self {
            domain: Handlers::default(),
            subscribed: HashMap::new(),
            problems: Vec::new(),
            middleware: NoMiddleware,
        }
    }
}

impl Default for EventMap {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> EventMap<S> {
    /// Puts a middleware around each handler that is bound from now on, within those that are there already.
    pub fn middleware<M>(self, middleware: M) -> EventMap<Stacked<S, M>> {
        let stack = Stacked::new(self.middleware, middleware);
        EventMap {
            domain: self.domain,
            subscribed: self.subscribed,
            problems: self.problems,
            middleware: stack,
        }
    }

    /// Goes on with these middlewares instead.
    pub fn with_middleware<T>(self, middleware: T) -> EventMap<T> {
        EventMap { domain: self.domain, subscribed: self.subscribed, problems: self.problems, middleware }
    }

    /// The middlewares so far.
    pub fn current_middleware(&self) -> &S {
        &self.middleware
    }

    /// Binds a handler of a domain event, within the middlewares so far.
    pub fn bind<E: DomainEvent>(mut self, handler: impl EventHandler<E>) -> Self
    where
        S: EventMiddlewareStack<E>,
    {
        let bound = self.within_middleware(handler);
        let handler: Box<dyn CallDomain<E>> = Box::new(bound);
        match self.domain.get_mut::<HandlersOf<E>>() {
            Some(HandlersOf(handlers)) => handlers.push(handler),
            None => self.domain.insert(HandlersOf(vec![handler])),
        }
        self
    }

    fn within_middleware<E: Event, H: EventHandler<E>>(&mut self, handler: H) -> S::Bound<H>
    where
        S: EventMiddlewareStack<E>,
    {
        let mut problems = Vec::new();
        self.middleware.check(&mut Placement::default(), &mut problems);
        self.problems.extend(problems.iter().map(|problem| format!("the event `{}`: {problem}", E::NAME)));
        self.middleware.bind(handler)
    }

    /// Binds a handler of an integration event that is received from `topic`.
    ///
    /// The handler runs again when the message is delivered again. Where that must have no second effect, use an
    /// inbox (`subscribe_transactional` of the bootstrap).
    pub fn subscribe<E: IntegrationEvent + DeserializeOwned>(
        mut self,
        topic: impl Into<String>,
        handler: impl EventHandler<E>,
    ) -> Self
    where
        S: EventMiddlewareStack<E>,
    {
        let bound = self.within_middleware(handler);
        self.subscribe_messages(topic, E::NAME, Arc::new(BoundMessage(bound, PhantomData)))
    }

    /// Binds a handler of the messages of one event name from one topic: what adapters build on. No middlewares stand around it.
    pub fn subscribe_messages(
        mut self,
        topic: impl Into<String>,
        event_name: impl Into<String>,
        handler: Arc<dyn MessageHandler>,
    ) -> Self {
        let (topic, name) = (topic.into(), event_name.into());
        if topic.is_empty() || name.is_empty() {
            self.problems.push(format!(
                "the handler `{}` is subscribed to the event `{name}` of the topic `{topic}`: neither may be empty",
                handler.name()
            ));
        }
        let bound = self.subscribed.entry(name.clone()).or_default();
        if let Some(identity) = handler.identity()
            && bound.iter().any(|known| known.topic == topic && known.handler.identity() == Some(identity))
        {
            self.problems.push(format!(
                "two handlers of the event `{name}` of the topic `{topic}` have the name `{identity}`: each would take the \
                 other's messages for duplicates, give one of them another name"
            ));
        }
        bound.push(Subscribed { topic, handler });
        self
    }

    /// The topics that something is subscribed to.
    pub fn topics(&self) -> BTreeSet<String> {
        self.subscribed.values().flatten().map(|subscribed| subscribed.topic.clone()).collect()
    }

    /// To be called once, behind the last binding.
    pub(super) fn settle(&mut self) {
        self.domain.settle();
    }

    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }

    #[inline]
    pub(crate) fn of_domain<E: DomainEvent>(&self) -> &[Box<dyn CallDomain<E>>] {
        self.domain.get::<HandlersOf<E>>().map_or(&[], |HandlersOf(handlers)| handlers)
    }

    pub(super) fn of_message<'a>(
        &'a self,
        message: &'a Message,
    ) -> impl Iterator<Item = &'a Arc<dyn MessageHandler>> {
        self.subscribed
            .get(&message.name)
            .into_iter()
            .flatten()
            .filter(|subscribed| subscribed.topic == message.topic)
            .map(|subscribed| &subscribed.handler)
    }
}

impl<S> fmt::Debug for EventMap<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventMap")
            .field("domain_events", &self.domain.len())
            .field("subscribed", &self.subscribed.keys())
            .field("problems", &self.problems)
            .finish()
    }
}

/// Handles received messages whose type it knows: how an [`EventHandler`] looks to the mediator, and what an inbox
/// puts in its place.
#[async_trait]
pub trait MessageHandler: Send + Sync + 'static {
    /// Its name: in logs, and by which an inbox tells one handler's effects from another's.
    fn name(&self) -> &str;

    /// By which its effects are told from those of others, if they are: two handlers of one event must not share it.
    /// Default: none.
    fn identity(&self) -> Option<&str> {
        None
    }

    /// Handles the message; its fields are decoded, its payload is not.
    ///
    /// # Errors
    ///
    /// The handler's own; of kind [`Decode`](crate::ErrorKind::Decode) if the payload does not fit.
    async fn handle(&self, message: &Message, cx: &Context<'_>) -> Result<Handled>;
}

/// What became of a message at one handler.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// The handler ran.
    Done,
    /// The handler had run for this message before; it was not run again.
    Duplicate,
}

/// The handlers of one domain event.
struct HandlersOf<E>(Vec<Box<dyn CallDomain<E>>>);

pub(crate) trait CallDomain<E>: Send + Sync {
    fn name(&self) -> &str;

    fn call<'a>(&'a self, event: &'a E, cx: &'a Context<'_>) -> BoxFuture<'a, Result<()>>;
}

impl<E: DomainEvent, H: EventHandler<E>> CallDomain<E> for H {
    fn name(&self) -> &str {
        EventHandler::name(self)
    }

    fn call<'a>(&'a self, event: &'a E, cx: &'a Context<'_>) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.handle(event, cx))
    }
}

struct BoundMessage<E, H>(H, PhantomData<fn(E)>);

#[async_trait]
impl<E: IntegrationEvent + DeserializeOwned, H: EventHandler<E>> MessageHandler for BoundMessage<E, H> {
    fn name(&self) -> &str {
        self.0.name()
    }

    async fn handle(&self, message: &Message, cx: &Context<'_>) -> Result<Handled> {
        let event = decode_payload::<E>(message)?;
        self.0.handle(&event, cx).await?;
        Ok(Handled::Done)
    }
}
