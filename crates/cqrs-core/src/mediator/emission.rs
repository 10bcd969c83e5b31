//! What was said goes out: breadth first, in the order in which it was said.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::direct::{DirectPublishes, flatten};
use super::emitter::{EventEmitter, OnEventFailure};
use super::flood::Path;
use crate::context::{AnyDomainEvent, Call, Context, Said, Unsent};
use crate::error::{Error, Result};
use crate::event::DomainEvent;
use crate::recording::Stored;

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

/// Takes out what was said: a domain event that was said before all else, and the rest. Where a handler of a domain event fails, the
/// policy says what becomes of the other domain events; integration events still go out, for the request that said them has succeeded.
///
/// Domain events whose handlers say nothing and do not fail are most of all: they are handled here, and nothing is allocated for them.
pub(super) async fn go_out(
    emitter: &EventEmitter,
    cx: &Context<'_>,
    mut first: Option<&dyn AnyDomainEvent>,
    mut rest: impl Iterator<Item = Said>,
) -> Result<()> {
    let mut emission: Option<Box<Emission<'_>>> = None;
    let mut count = 0;
    let mut later;
    loop {
        let event = match first.take() {
            Some(first) => first,
            None => match rest.next() {
                Some(Said::Domain(unsent)) => {
                    later = unsent;
                    &later.event
                }
                Some(more) => {
                    count += 1;
                    let emission = emission.get_or_insert_with(|| Emission::boxed(emitter, cx));
                    Box::pin(emission.take(more, None, count)).await;
                    continue;
                }
                None => break,
            },
        };
        count += 1;
        if count > emitter.max_events() || emission.is_some() || emitter.is_concurrent() {
            let emission = emission.get_or_insert_with(|| Emission::boxed(emitter, cx));
            Box::pin(emission.take_domain(event, None, count)).await;
            continue;
        }
        emitter.recording().emitted(event);
        let mut number = 0;
        loop {
            let mut cx_of_event = cx.nested();
            let Some(Call { handled, is_last }) = event.call_handler(number, emitter.events(), &cx_of_event)
            else {
                break;
            };
            let at_work = cx_of_event.begin_work(|| event.handler_name(number, emitter.events()));
            let handled = handled.await;
            at_work.has_done();
            if !note(&mut emission, emitter, cx, event, handled, cx_of_event.take_own_said()) || is_last {
                break;
            }
            number += 1;
        }
    }
    match emission {
        Some(emission) => Box::pin(emission.finish(count)).await,
        None => Ok(()),
    }
}

/// The same for a domain event that is said alone, and whose type is known: its handlers are looked up once, and it stays with its
/// caller. What holds for an event in [`go_out`] has to hold here.
pub(crate) async fn go_out_alone<E: DomainEvent>(
    emitter: &EventEmitter,
    cx: &Context<'_>,
    event: E,
) -> Result<()> {
    let event = Stored::new(event);
    let mut emission = None;
    if emitter.is_concurrent() {
        let emission = emission.get_or_insert_with(|| Emission::boxed(emitter, cx));
        Box::pin(emission.take_domain(&event, None, 1)).await;
    } else {
        emitter.recording().emitted(&event);
        for handler in emitter.events().of_domain::<E>() {
            let mut cx_of_event = cx.nested();
            let at_work = cx_of_event.begin_work(|| handler.name());
            let handled = handler.call(&event, &cx_of_event).await;
            at_work.has_done();
            if !note(&mut emission, emitter, cx, &event, handled, cx_of_event.take_own_said()) {
                break;
            }
        }
    }
    match emission {
        Some(emission) => Box::pin(emission.finish(1)).await,
        None => Ok(()),
    }
}

/// Remembers what a handler said, or that it failed; whether the next one is to hear of the event.
#[inline]
fn note<'a>(
    emission: &mut Option<Box<Emission<'a>>>,
    emitter: &'a EventEmitter,
    cx: &'a Context<'a>,
    event: &dyn AnyDomainEvent,
    handled: Result<()>,
    heard: Option<Box<Unsent>>,
) -> bool {
    if handled.is_ok() && heard.is_none() {
        return true;
    }
    let emission = emission.get_or_insert_with(|| Emission::boxed(emitter, cx));
    emission.hear(event, None, handled.and_then(|()| checked(heard)));
    emission.goes_on()
}

fn checked(heard: Option<Box<Unsent>>) -> Result<Option<Box<Unsent>>> {
    heard.map(|mut said| said.check().map(|()| said)).transpose()
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
        match said {
            Said::Domain(event) => self.take_domain(&event.event, because_of, count).await,
            // What only an outbox can do was refused when it was said; see `Context::emit`.
            Said::Integration(outgoing) => {
                self.watch_flood(&outgoing.message.name, because_of, count);
                self.direct.publish(self.emitter, outgoing.message).await;
            }
            Said::Refused(error) => self.failures.push(error),
        }
    }

    async fn take_domain(&mut self, event: &dyn AnyDomainEvent, because_of: Option<usize>, count: usize) {
        self.watch_flood(event.name(), because_of, count);
        if self.is_flooded {
            return;
        }
        if self.goes_on() {
            self.emitter.recording().emitted(event);
            self.handle(event, because_of).await;
        } else {
            tracing::warn!(event = event.name(), "not handled, because a handler before it failed");
        }
    }

    fn watch_flood(&mut self, event: &str, because_of: Option<usize>, count: usize) {
        if count > self.emitter.max_events() && !self.is_flooded {
            self.failures.push(self.path.flood(event, because_of, self.emitter.max_events()));
            self.is_flooded = true;
        }
    }

    /// Whether domain events are still handled.
    fn goes_on(&self) -> bool {
        self.failures.is_empty() || self.emitter.on_failure() != OnEventFailure::Stop
    }

    async fn handle(&mut self, event: &dyn AnyDomainEvent, because_of: Option<usize>) {
        let handlers = event.handlers(self.emitter.events());
        match self.emitter.concurrency() {
            Some(limit) if handlers > 1 => self.handle_at_once(event, because_of, handlers, limit).await,
            _ => {
                for number in 0..handlers {
                    let heard = call(event, number, self.emitter, self.cx).await;
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
        handlers: usize,
        limit: NonZeroUsize,
    ) {
        let (emitter, cx) = (self.emitter, self.cx);
        let mut waiting =
            (0..handlers).map(|number| async move { (number, call(event, number, emitter, cx).await) });
        let mut running: FuturesUnordered<_> = waiting.by_ref().take(limit.get()).collect();
        let mut all_heard = Vec::with_capacity(handlers);
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
        heard: Result<Option<Box<Unsent>>>,
    ) {
        match heard {
            Ok(None) => {}
            Ok(Some(more)) => {
                let because_of = self.path.step(event.name(), because_of);
                self.later.extend(more.into_all().map(|said| Later { said, because_of }));
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
    event: &dyn AnyDomainEvent,
    number: usize,
    emitter: &EventEmitter,
    cx: &Context<'_>,
) -> Result<Option<Box<Unsent>>> {
    let mut cx = cx.nested();
    if let Some(call) = event.call_handler(number, emitter.events(), &cx) {
        let at_work = cx.begin_work(|| event.handler_name(number, emitter.events()));
        let handled = call.handled.await;
        at_work.has_done();
        handled?;
    }
    checked(cx.take_own_said())
}
