//! What was said goes out: breadth first, in the order in which it was said.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;

use super::direct::{DirectPublishes, flatten};
use super::emitter::{EventEmitter, OnEventFailure};
use super::event_map::CallDomain;
use super::flood::Path;
use crate::context::{AnyDomainEvent, Context, Said, SaidList};
use crate::error::{Error, Result};

/// All that one request, one received message or one event from outside leads to.
pub(super) struct Emission<'a> {
    emitter: &'a EventEmitter,
    cx: &'a Context<'a>,
    later: VecDeque<Later>,
    path: Path,
    direct: DirectPublishes,
    failures: Vec<Error>,
}

/// Something that an event's handler said.
struct Later {
    said: Said,
    /// The event's place in the path.
    because_of: usize,
}

impl<'a> Emission<'a> {
    pub(super) fn new(emitter: &'a EventEmitter, cx: &'a Context<'a>) -> Self {
        Self {
            emitter,
            cx,
            later: VecDeque::new(),
            path: Path::default(),
            direct: DirectPublishes::default(),
            failures: Vec::new(),
        }
    }

    /// Takes out what was said. Where a handler of a domain event fails, the policy says what becomes of the other domain
    /// events; integration events still go out, for the request that said them has succeeded.
    pub(super) async fn run(mut self, said: SaidList) -> Result<()> {
        let mut first = said.into_iter();
        let mut count = 0;
        loop {
            let (said, because_of) = match first.next() {
                Some(said) => (said, None),
                None => match self.later.pop_front() {
                    Some(later) => (later.said, Some(later.because_of)),
                    None => break,
                },
            };
            count += 1;
            if count > self.emitter.max_events() {
                self.failures.push(self.path.flood(said.name(), because_of, self.emitter.max_events()));
                break;
            }
            match said {
                Said::Domain(event) if self.goes_on() => {
                    self.emitter.recording().emitted(&event);
                    self.handle(&*event, because_of).await;
                }
                Said::Domain(event) => {
                    tracing::warn!(event = event.name(), "not handled, because a handler before it failed");
                }
                // What only an outbox can do was refused when it was said; see `Context::emit`.
                // Boxed, so that domain events do not carry the room for it.
                Said::Integration(outgoing) => {
                    Box::pin(self.direct.publish(self.emitter, outgoing.message)).await;
                }
                Said::Refused(error) => self.failures.push(error),
            }
        }
        if self.failures.is_empty() && self.direct.is_empty() {
            return Ok(());
        }
        Box::pin(self.finish()).await
    }

    /// Whether domain events are still handled.
    fn goes_on(&self) -> bool {
        self.failures.is_empty() || self.emitter.on_failure() != OnEventFailure::Stop
    }

    async fn handle(&mut self, event: &dyn AnyDomainEvent, because_of: Option<usize>) {
        let handlers = self.emitter.events().of_domain(event);
        match self.emitter.concurrency() {
            Some(limit) if handlers.len() > 1 => {
                Box::pin(self.handle_at_once(event, because_of, handlers, limit)).await;
            }
            _ => {
                for handler in handlers {
                    let heard = call(&**handler, event, self.cx).await;
                    self.hear(event, because_of, heard);
                    if !self.goes_on() {
                        break;
                    }
                }
            }
        }
    }

    /// So many handlers at the same time; what they say goes out in the order of their binding all the same. Those that have
    /// begun when one fails come to their end.
    async fn handle_at_once(
        &mut self,
        event: &dyn AnyDomainEvent,
        because_of: Option<usize>,
        handlers: &[Box<dyn CallDomain>],
        limit: NonZeroUsize,
    ) {
        let cx = self.cx;
        let mut waiting = handlers.iter().map(|handler| call(&**handler, event, cx));
        let mut running: FuturesOrdered<_> = waiting.by_ref().take(limit.get()).collect();
        while let Some(heard) = running.next().await {
            self.hear(event, because_of, heard);
            if self.goes_on()
                && let Some(next) = waiting.next()
            {
                running.push_back(next);
            }
        }
    }

    fn hear(&mut self, event: &dyn AnyDomainEvent, because_of: Option<usize>, heard: Result<SaidList>) {
        match heard {
            Ok(more) if more.is_empty() => {}
            Ok(more) => {
                let because_of = self.path.step(event.name(), because_of);
                self.later.extend(more.into_iter().map(|said| Later { said, because_of }));
            }
            Err(error) if self.emitter.on_failure() == OnEventFailure::Log => {
                tracing::error!(
                    event = event.name(),
                    error = format!("{error:#}"),
                    "a handler of the event failed"
                );
            }
            Err(error) => self.failures.push(error),
        }
    }

    async fn finish(mut self) -> Result<()> {
        self.failures.extend(self.direct.confirm(self.emitter).await);
        flatten(self.failures)
    }
}

/// What the handler said.
async fn call(handler: &dyn CallDomain, event: &dyn AnyDomainEvent, cx: &Context<'_>) -> Result<SaidList> {
    let mut cx = cx.nested();
    handler.call(event, &cx).await?;
    none_refused(cx.take_own_said())
}

/// All of it or, if one of them was refused, that refusal.
pub(super) fn none_refused(mut said: SaidList) -> Result<SaidList> {
    match said.iter().position(|said| matches!(said, Said::Refused(_))).map(|at| said.swap_remove(at)) {
        Some(Said::Refused(error)) => Err(error),
        _ => Ok(said),
    }
}
