//! A call of what stands further in, so that a middleware that serves requests and events is written once.

use std::future::Future;

use super::Next;
use crate::context::{Context, Narrowed};
use crate::error::{Error, Result};
use crate::event::{Event, EventHandler};
use crate::request::{Reply, Request};

pub(super) trait Step<T, E: From<Error>>: Send + Sized {
    /// `request` or `event`.
    const WHAT: &'static str;

    /// Of the request or the event.
    fn name(&self) -> &'static str;

    fn run(self, cx: &Context<'_>) -> impl Future<Output = Result<T, E>> + Send;

    /// Runs it in a context of its own, within its time if it has one. What it said counts if it succeeded.
    fn run_within(
        self,
        cx: &Context<'_>,
        narrowed: Narrowed<'_>,
    ) -> impl Future<Output = Result<T, E>> + Send {
        async move {
            let mut within = cx.narrowed(&narrowed);
            let outcome = narrowed.limit(self.name(), self.run(&within)).await;
            if outcome.is_ok() {
                cx.extend_by(&mut within);
            }
            outcome
        }
    }
}

pub(super) struct OfRequest<'a, R, N> {
    pub(super) request: R,
    pub(super) next: &'a N,
}

impl<R: Request, N: Next<R>> Step<R::Response, R::Error> for OfRequest<'_, R, N> {
    const WHAT: &'static str = "request";

    fn name(&self) -> &'static str {
        R::name()
    }

    fn run(self, cx: &Context<'_>) -> impl Future<Output = Reply<R>> + Send {
        self.next.run(self.request, cx)
    }
}

pub(super) struct OfEvent<'a, E, N> {
    pub(super) event: &'a E,
    pub(super) next: &'a N,
}

impl<E: Event, N: EventHandler<E>> Step<(), Error> for OfEvent<'_, E, N> {
    const WHAT: &'static str = "event";

    fn name(&self) -> &'static str {
        E::NAME
    }

    fn run(self, cx: &Context<'_>) -> impl Future<Output = Result<()>> + Send {
        self.next.handle(self.event, cx)
    }
}

/// The two impls of a middleware that has a method `around(step, cx)`, with what else stands in the braces.
macro_rules! for_requests_and_events {
    ($middleware:ty $({ $($check:tt)* })?) => {
        impl<R: $crate::request::Request> $crate::middleware::Middleware<R> for $middleware {
            async fn call<N: $crate::middleware::Next<R>>(
                &self,
                request: R,
                cx: &$crate::context::Context<'_>,
                next: &N,
            ) -> $crate::request::Reply<R> {
                self.around($crate::middleware::step::OfRequest { request, next }, cx).await
            }

            $($($check)*)?
        }

        impl<E: $crate::event::Event> $crate::middleware::EventMiddleware<E> for $middleware {
            async fn call<N: $crate::event::EventHandler<E>>(
                &self,
                event: &E,
                cx: &$crate::context::Context<'_>,
                next: &N,
            ) -> $crate::error::Result<()> {
                self.around($crate::middleware::step::OfEvent { event, next }, cx).await
            }

            $($($check)*)?
        }
    };
}

pub(super) use for_requests_and_events;
