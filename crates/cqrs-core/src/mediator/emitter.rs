use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::event_map::EventMap;
use super::request_mediator::Core;
use crate::broker::{BrokerError, Confirm, ErrorClass, MessageBroker};
use crate::codec::Encoder;
use crate::context::{Context, Origin, Said};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;

/// Takes what handlers said to the right place: domain events to the handlers of its [`EventMap`], integration events
/// straight to a broker if it was told to ([`direct`](Self::direct)).
///
/// The integration events of a [`TransactionalHandler`](crate::TransactionalHandler) do not come this way: they are in
/// the outbox when the transaction commits.
#[derive(Debug)]
#[must_use = "an emitter does nothing until a mediator is made with it"]
pub struct EventEmitter {
    events: EventMap,
    direct: Option<Arc<dyn MessageBroker>>,
    encoder: Encoder,
    confirm_timeout: Duration,
    max_events: usize,
}

impl Default for EventEmitter {
    fn default() -> Self {
        Self::new(EventMap::new())
    }
}

impl EventEmitter {
    /// Events go to the handlers of this map; integration events need a transaction.
    pub fn new(events: EventMap) -> Self {
        Self {
            events,
            direct: None,
            encoder: Encoder::default(),
            confirm_timeout: Duration::from_secs(30),
            max_events: 10_000,
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

    /// How long a direct publish may take. Default 30 s.
    pub fn with_confirm_timeout(mut self, timeout: Duration) -> Self {
        self.confirm_timeout = timeout;
        self
    }

    /// How many events one request may lead to before this is taken for a cycle. Default 10,000.
    pub fn with_max_events(mut self, max_events: usize) -> Self {
        self.max_events = max_events;
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

    pub(crate) fn events(&self) -> &EventMap {
        &self.events
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    pub(crate) fn max_events(&self) -> usize {
        self.max_events
    }

    pub(super) fn problems(&self) -> &[String] {
        self.events.problems()
    }

    /// Takes out what a request or an event's handler said, breadth first.
    ///
    /// A domain event's handler that fails stops the domain events behind it; integration events still go out, for the
    /// request that said them has succeeded.
    pub(crate) async fn emit(&self, core: &Core, said: Vec<Said>, origin: Origin<'_>) -> Result<()> {
        let mut queue = VecDeque::from(none_refused(said)?);
        if let Origin::Nested(parent) = origin
            && parent.is_in_transaction()
        {
            // It happened only if the outer transaction commits.
            queue.into_iter().for_each(|said| parent.push(said));
            return Ok(());
        }
        let mut failed = None;
        let mut confirms = Vec::new();
        let mut count = 0;
        while let Some(said) = queue.pop_front() {
            count += 1;
            if count > self.max_events {
                failed.get_or_insert_with(|| flood(&said, self.max_events));
                break;
            }
            match said {
                Said::Domain(event) if failed.is_none() => {
                    for handler in self.events.of_domain(&*event) {
                        let cx = Context::new(core, origin);
                        let handled = handler.call(&*event, &cx).await;
                        match handled.and_then(|()| none_refused(cx.into_said())) {
                            Ok(more) => queue.extend(more),
                            Err(error) => {
                                failed = Some(error);
                                break;
                            }
                        }
                    }
                }
                Said::Domain(event) => {
                    tracing::warn!(event = event.name(), "not handled, because a handler before it failed");
                }
                // What only an outbox can do was refused when it was said; see `Context::emit`.
                // Boxed, so that domain events do not carry the room for it.
                Said::Integration(outgoing) => match Box::pin(self.publish(outgoing.message)).await {
                    Ok(confirm) => confirms.push(confirm),
                    Err(error) => failed = failed.or(Some(error.into())),
                },
                Said::Refused(error) => failed = failed.or(Some(error)),
            }
        }
        for confirm in confirms {
            if let Err(error) = Box::pin(self.in_time(confirm)).await {
                failed = failed.or(Some(error.into()));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn publish(&self, message: Message) -> Result<Confirm, BrokerError> {
        match &self.direct {
            Some(broker) => self.in_time(broker.enqueue(&message)).await,
            // Refused when it was said; see `Context::emit`.
            None => {
                Err(BrokerError::new(ErrorClass::Event, format!("`{}` has no direct target", message.name)))
            }
        }
    }

    async fn in_time<T>(&self, wait: impl Future<Output = Result<T, BrokerError>>) -> Result<T, BrokerError> {
        tokio::time::timeout(self.confirm_timeout, wait).await.unwrap_or_else(|_| {
            Err(BrokerError::new(
                ErrorClass::Unknown,
                format!("the broker did not confirm within {:?}", self.confirm_timeout),
            ))
        })
    }
}

/// All of it or, if one of them was refused, that refusal.
fn none_refused(mut said: Vec<Said>) -> Result<Vec<Said>> {
    match said.iter().position(|said| matches!(said, Said::Refused(_))).map(|at| said.swap_remove(at)) {
        Some(Said::Refused(error)) => Err(error),
        _ => Ok(said),
    }
}

pub(crate) fn flood(said: &Said, max_events: usize) -> Error {
    let name = match said {
        Said::Domain(event) => event.name(),
        Said::Integration(outgoing) => &outgoing.message.name,
        Said::Refused(_) => "?",
    };
    Error::new(
        ErrorKind::EventFlood,
        format!(
            "one request led to more than {max_events} events, `{name}` the last: its handlers say events that lead to themselves, or raise the limit with `EventEmitter::with_max_events`"
        ),
    )
}
