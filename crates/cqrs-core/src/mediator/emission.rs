//! What was said goes out: breadth first, in the order in which it was said.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::direct::{DirectPublishes, flatten};
use super::emitter::{EventEmitter, OnEventFailure};
use super::event_map::CallDomain;
use super::flood::Path;
use crate::context::{AnyDomainEvent, Context, Said, Used};
use crate::error::{Error, Result};

/// All that one request, one received message or one event from outside leads to.
pub(super) struct Emission<'a> {
    emitter: &'a EventEmitter,
    cx: &'a Context<'a>,
    later: VecDeque<Later>,
    path: Path,
    direct: DirectPublishes,
    failures: Vec<Error>,
    /// There were too many events: no more of them are handled here, while those for others still go out.
    is_flooded: bool,
}

/// Something that an event's handler said.
struct Later {
    said: Said,
    /// The event's place in the path.
    because_of: usize,
}

/// Takes out what was said. Where a handler of a domain event fails, the policy says what becomes of the other domain
/// events; integration events still go out, for the request that said them has succeeded.
///
/// Domain events whose handlers say nothing and do not fail are most of all: they are handled here, and nothing is allocated for them.
pub(super) async fn go_out(emitter: &EventEmitter, cx: &Context<'_>, mut said: Box<Used>) -> Result<()> {
    let mut emission: Option<Box<Emission<'_>>> = None;
    let mut count = 0;
    for (number, said) in said.said.drain(..).enumerate() {
        match said {
            Said::Domain(event)
                if number < emitter.max_events() && emission.is_none() && !emitter.is_concurrent() =>
            {
                emitter.recording().emitted(&event);
                for handler in emitter.events().of_domain(&*event) {
                    let mut cx_of_event = cx.nested();
                    let handled = handler.call(&*event, &cx_of_event).await;
                    let heard = cx_of_event.take_own_said();
                    if handled.is_err() || heard.is_some() {
                        let emission = emission.get_or_insert_with(|| Emission::boxed(emitter, cx));
                        emission.hear(
                            &*event,
                            None,
                            handled.and_then(|()| heard.map(Used::check).transpose()),
                        );
                        if !emission.goes_on() {
                            break;
                        }
                    }
                }
            }
            more => {
                let emission = emission.get_or_insert_with(|| Emission::boxed(emitter, cx));
                Box::pin(emission.take(more, None, number + 1)).await;
            }
        }
        count = number + 1;
    }
    match emission {
        Some(emission) => Box::pin(emission.finish(count)).await,
        None => Ok(()),
    }
}

impl<'a> Emission<'a> {
    fn boxed(emitter: &'a EventEmitter, cx: &'a Context<'a>) -> Box<Self> {
        Box::new(Self {
            emitter,
            cx,
            later: VecDeque::new(),
            path: Path::default(),
            direct: DirectPublishes::default(),
            failures: Vec::new(),
            is_flooded: false,
        })
    }

    async fn take(&mut self, said: Said, because_of: Option<usize>, count: usize) {
        if count > self.emitter.max_events() && !self.is_flooded {
            self.failures.push(self.path.flood(said.name(), because_of, self.emitter.max_events()));
            self.is_flooded = true;
        }
        match said {
            Said::Domain(_) if self.is_flooded => {}
            Said::Domain(event) if self.goes_on() => {
                self.emitter.recording().emitted(&event);
                self.handle(&*event, because_of).await;
            }
            Said::Domain(event) => {
                tracing::warn!(event = event.name(), "not handled, because a handler before it failed");
            }
            // What only an outbox can do was refused when it was said; see `Context::emit`.
            Said::Integration(outgoing) => self.direct.publish(self.emitter, outgoing.message).await,
            Said::Refused(error) => self.failures.push(error),
        }
    }

    /// Whether domain events are still handled.
    fn goes_on(&self) -> bool {
        self.failures.is_empty() || self.emitter.on_failure() != OnEventFailure::Stop
    }

    async fn handle(&mut self, event: &dyn AnyDomainEvent, because_of: Option<usize>) {
        let handlers = self.emitter.events().of_domain(event);
        match self.emitter.concurrency() {
            Some(limit) if handlers.len() > 1 => {
                self.handle_at_once(event, because_of, handlers, limit).await;
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
        let mut waiting = handlers
            .iter()
            .enumerate()
            .map(|(number, handler)| async move { (number, call(&**handler, event, cx).await) });
        let mut running: FuturesUnordered<_> = waiting.by_ref().take(limit.get()).collect();
        let mut all_heard = Vec::with_capacity(handlers.len());
        let mut goes_on = true;
        while let Some((number, heard)) = running.next().await {
            goes_on &= heard.is_ok() || self.emitter.on_failure() != OnEventFailure::Stop;
            all_heard.push((number, heard));
            if goes_on {
                running.extend(waiting.next());
            }
        }
        all_heard.sort_unstable_by_key(|(number, _)| *number);
        all_heard.into_iter().for_each(|(_, heard)| self.hear(event, because_of, heard));
    }

    fn hear(
        &mut self,
        event: &dyn AnyDomainEvent,
        because_of: Option<usize>,
        heard: Result<Option<Box<Used>>>,
    ) {
        match heard {
            Ok(None) => {}
            Ok(Some(more)) => {
                let because_of = self.path.step(event.name(), because_of);
                self.later.extend(more.said.into_iter().map(|said| Later { said, because_of }));
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

    /// What handlers of events said, which is how the events go out breadth first; and the confirms of the broker.
    async fn finish(mut self, mut count: usize) -> Result<()> {
        while let Some(Later { said, because_of }) = self.later.pop_front() {
            count += 1;
            self.take(said, Some(because_of), count).await;
        }
        self.failures.extend(self.direct.confirm(self.emitter).await);
        flatten(self.failures)
    }
}

/// What the handler said.
async fn call(
    handler: &dyn CallDomain,
    event: &dyn AnyDomainEvent,
    cx: &Context<'_>,
) -> Result<Option<Box<Used>>> {
    let mut cx = cx.nested();
    handler.call(event, &cx).await?;
    cx.take_own_said().map(Used::check).transpose()
}
