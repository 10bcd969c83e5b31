use std::fmt;
use std::pin::pin;

use async_stream::stream;
use futures_util::{Stream, StreamExt};
use tracing::{Instrument, Span};

use super::step::{OfEvent, OfRequest, Step};
use super::{EventMiddleware, Middleware, Next, StreamMiddleware};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::event::{Event, EventHandler};
use crate::request::{Reply, Request, StreamHandler, StreamRequest};

/// A `tracing` span around each request or event, with its name, and one event when it ends: at the level `debug` when it was
/// done, as a warning with the error when it failed. Nothing of the payload, unless it is [asked for](Self::with_payload).
///
/// A stream is in its span whenever it works on an item. It has one event, too, when it ends or is dropped, with the number of its
/// items and of its errors; and a warning at its first error, for it may go on for long.
///
/// Place it first (outermost), so that the time and the errors of the others are seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tracing;

impl Tracing {
    /// The same with the request or the event itself in the span, as its `Debug` form. It is shown where the span is: mind what
    /// must not stand in a log.
    pub fn with_payload() -> TracingPayload {
        TracingPayload(())
    }
}

/// [`Tracing`] with the payload; see [`Tracing::with_payload`].
#[derive(Clone, Copy, Debug)]
pub struct TracingPayload(());

impl<R: Request> Middleware<R> for Tracing
where
    R::Error: fmt::Display,
{
    async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
        let span = tracing::info_span!("request", name = R::name());
        told(OfRequest { request, next }, cx).instrument(span).await
    }
}

impl<R: Request + fmt::Debug> Middleware<R> for TracingPayload
where
    R::Error: fmt::Display,
{
    async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
        let span = tracing::info_span!("request", name = R::name(), payload = ?request);
        told(OfRequest { request, next }, cx).instrument(span).await
    }
}

impl<E: Event> EventMiddleware<E> for Tracing {
    async fn call<N: EventHandler<E>>(&self, event: &E, cx: &Context<'_>, next: &N) -> Result<()> {
        let span = tracing::info_span!("event", name = E::NAME, handler = next.name());
        told(OfEvent { event, next }, cx).instrument(span).await
    }
}

impl<E: Event + fmt::Debug> EventMiddleware<E> for TracingPayload {
    async fn call<N: EventHandler<E>>(&self, event: &E, cx: &Context<'_>, next: &N) -> Result<()> {
        let span = tracing::info_span!("event", name = E::NAME, handler = next.name(), payload = ?event);
        told(OfEvent { event, next }, cx).instrument(span).await
    }
}

impl<R: StreamRequest> StreamMiddleware<R> for Tracing
where
    R::Error: fmt::Display,
{
    fn call<N: StreamHandler<R>>(
        &self,
        request: R,
        cx: &Context<'_>,
        next: &N,
    ) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
        items_told(tracing::info_span!("stream", name = R::name()), request, cx, next)
    }
}

impl<R: StreamRequest + fmt::Debug> StreamMiddleware<R> for TracingPayload
where
    R::Error: fmt::Display,
{
    fn call<N: StreamHandler<R>>(
        &self,
        request: R,
        cx: &Context<'_>,
        next: &N,
    ) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
        let span = tracing::info_span!("stream", name = R::name(), payload = ?request);
        items_told(span, request, cx, next)
    }
}

fn items_told<R: StreamRequest<Error: fmt::Display>, N: StreamHandler<R>>(
    span: Span,
    request: R,
    cx: &Context<'_>,
    next: &N,
) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
    stream! {
        // Told behind the items, for it is dropped behind them.
        let mut told = ItemsTold { span, name: R::name(), items: 0, errors: 0, is_done: false };
        let mut items = pin!(told.span.in_scope(|| next.handle(request, cx)));
        while let Some(item) = items.next().instrument(told.span.clone()).await {
            match &item {
                Ok(_) => told.items += 1,
                Err(error) => told.fail(error),
            }
            yield item;
        }
        told.is_done = true;
    }
}

/// What became of a stream, told when it is dropped, so that one which nobody reads to its end is told, too.
struct ItemsTold {
    span: Span,
    name: &'static str,
    items: u64,
    errors: u64,
    is_done: bool,
}

impl ItemsTold {
    fn fail(&mut self, error: &impl fmt::Display) {
        self.errors += 1;
        if self.errors == 1 {
            self.span.in_scope(|| warn("stream", self.name, error));
        }
    }
}

impl Drop for ItemsTold {
    fn drop(&mut self) {
        let Self { span, name: _, items, errors, is_done } = self;
        span.in_scope(|| match is_done {
            true => tracing::debug!(items, errors, "done"),
            false => tracing::debug!(items, errors, "dropped before its end"),
        });
    }
}

async fn told<T, E: From<Error> + fmt::Display, S: Step<T, E>>(step: S, cx: &Context<'_>) -> Result<T, E> {
    let name = step.name();
    let outcome = step.run(cx).await;
    match &outcome {
        Ok(_) => tracing::debug!("done"),
        Err(error) => warn(S::WHAT, name, error),
    }
    outcome
}

/// The name again, for the span is gone where only warnings are kept. With its causes, where the error tells them.
fn warn(what: &str, name: &str, error: &impl fmt::Display) {
    tracing::warn!(what, name, error = format!("{error:#}"), "failed");
}
