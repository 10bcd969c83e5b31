//! What was said and has not gone out.

use std::any::Any;
use std::collections::VecDeque;
use std::iter::from_fn;
use std::mem::take;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::DomainEvent;
use crate::mediator::EventMap;
use crate::outgoing::Outgoing;
use crate::recording::Stored;
use crate::scope::Scope;

/// Something that was said. An event that cannot be published is kept as the error it is, and fails the request
/// before anything goes out.
pub(crate) enum Said {
    /// Nothing stands behind it there.
    Domain(Box<Unsent>),
    Integration(Box<Outgoing>),
    Refused(Error),
}

impl Said {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Domain(unsent) => unsent.event.name(),
            Self::Integration(outgoing) => &outgoing.message.name,
            Self::Refused(_) => "?",
        }
    }
}

/// What was said in a context, in its order, and what is kept there.
///
/// Most handlers that say something say one domain event: it lies here itself, so that this takes one allocation.
pub(crate) struct Unsent<E: ?Sized = dyn AnyDomainEvent> {
    rest: Option<Box<Rest>>,
    /// What was said before all else, if it was a domain event.
    pub(crate) event: E,
}

#[derive(Default)]
struct Rest {
    said: VecDeque<Said>,
    kept: Kept,
}

/// What stays in a context when what was said goes out.
#[derive(Default)]
pub(crate) struct Kept {
    pub(super) scope: Option<Scope>,
    pub(super) correlation_id: Option<Arc<str>>,
}

impl Unsent {
    pub(crate) fn domain(event: impl DomainEvent) -> Box<Self> {
        Box::new(Unsent { rest: None, event: Stored::new(event) })
    }

    pub(crate) fn nothing() -> Box<Self> {
        Box::new(Unsent { rest: None, event: Nothing })
    }

    /// The domain event that was said before all else, where it is, for to move it takes as long as to handle it; and what was said
    /// behind it, one after the other.
    #[inline]
    pub(crate) fn split(&mut self) -> (Option<&dyn AnyDomainEvent>, impl Iterator<Item = Said>) {
        let first = self.event.exists().then_some(&self.event);
        let rest = &mut self.rest;
        (first, from_fn(move || rest.as_mut()?.said.pop_front()))
    }

    /// All of it.
    pub(crate) fn into_all(mut self: Box<Self>) -> impl Iterator<Item = Said> {
        let rest = self.rest.take().map(|rest| rest.said).unwrap_or_default();
        self.event.exists().then_some(Said::Domain(self)).into_iter().chain(rest)
    }

    pub(crate) fn push(&mut self, said: Said) {
        self.rest().said.push_back(said);
    }

    /// Whether nothing was said.
    pub(crate) fn is_empty(&self) -> bool {
        !self.event.exists() && self.rest.as_ref().is_none_or(|rest| rest.said.is_empty())
    }

    /// If something is kept.
    pub(crate) fn take_kept(&mut self) -> Option<Kept> {
        let kept = &mut self.rest.as_mut()?.kept;
        (kept.scope.is_some() || kept.correlation_id.is_some()).then(|| take(kept))
    }

    pub(crate) fn kept(&mut self) -> &mut Kept {
        &mut self.rest().kept
    }

    fn rest(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }

    /// What was refused when it was said, if something was.
    pub(crate) fn refused(&self) -> Option<&Error> {
        self.rest.as_ref()?.said.iter().find_map(|said| match said {
            Said::Refused(error) => Some(error),
            _ => None,
        })
    }

    /// Takes out what was refused, if something was.
    #[inline]
    pub(crate) fn check(&mut self) -> Result<()> {
        if self.refused().is_none() { Ok(()) } else { Err(self.take_refusal()) }
    }

    #[cold]
    fn take_refusal(&mut self) -> Error {
        let refused = self.rest().said.drain(..).find_map(|said| match said {
            Said::Refused(error) => Some(error),
            _ => None,
        });
        // It was found there.
        refused.unwrap_or_else(|| Error::new(ErrorKind::InvalidEvent, "an event was refused"))
    }
}

/// A domain event whose type is found again.
pub(crate) trait AnyDomainEvent: Send + Sync {
    fn name(&self) -> &'static str;

    /// Whether it is one.
    fn exists(&self) -> bool {
        true
    }

    /// The event itself.
    fn as_any(&self) -> &dyn Any;

    /// How many handlers it has.
    fn handlers(&self, events: &EventMap) -> usize;

    /// The name of one of them.
    fn handler_name<'a>(&self, number: usize, events: &'a EventMap) -> &'a str;

    /// Calls one of them, if there are that many.
    fn call_handler<'a>(
        &'a self,
        number: usize,
        events: &'a EventMap,
        cx: &'a Context<'_>,
    ) -> Option<Call<'a>>;

    /// The same event, for the recorder of a test.
    #[cfg(feature = "testing")]
    fn share(&self) -> std::sync::Arc<dyn Any + Send + Sync>;
}

/// A handler that was called with an event.
pub(crate) struct Call<'a> {
    pub(crate) handled: BoxFuture<'a, Result<()>>,
    pub(crate) is_last: bool,
}

impl<E: DomainEvent> AnyDomainEvent for Stored<E> {
    fn name(&self) -> &'static str {
        E::NAME
    }

    fn as_any(&self) -> &dyn Any {
        &**self
    }

    fn handlers(&self, events: &EventMap) -> usize {
        events.of_domain::<E>().len()
    }

    fn handler_name<'a>(&self, number: usize, events: &'a EventMap) -> &'a str {
        events.of_domain::<E>().get(number).map_or("?", |handler| handler.name())
    }

    fn call_handler<'a>(
        &'a self,
        number: usize,
        events: &'a EventMap,
        cx: &'a Context<'_>,
    ) -> Option<Call<'a>> {
        let handlers = events.of_domain::<E>();
        let handled = handlers.get(number)?.call(self, cx);
        Some(Call { handled, is_last: number + 1 == handlers.len() })
    }

    #[cfg(feature = "testing")]
    fn share(&self) -> std::sync::Arc<dyn Any + Send + Sync> {
        self.shared()
    }
}

/// In place of a domain event, where something else was said first.
struct Nothing;

impl AnyDomainEvent for Nothing {
    fn name(&self) -> &'static str {
        "?"
    }

    fn exists(&self) -> bool {
        false
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn handlers(&self, _: &EventMap) -> usize {
        0
    }

    fn handler_name<'a>(&self, _: usize, _: &'a EventMap) -> &'a str {
        "?"
    }

    fn call_handler<'a>(&'a self, _: usize, _: &'a EventMap, _: &'a Context<'_>) -> Option<Call<'a>> {
        None
    }

    #[cfg(feature = "testing")]
    fn share(&self) -> std::sync::Arc<dyn Any + Send + Sync> {
        std::sync::Arc::new(())
    }
}
