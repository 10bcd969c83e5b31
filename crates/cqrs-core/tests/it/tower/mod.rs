//! Layers of `tower` as middlewares, and mediators within layers.

mod layers_around_events;
mod layers_as_a_middleware;
mod mediators_as_services;

use std::fmt;
use std::future::{Ready, pending, ready};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use cqrs_core::*;
use futures_util::future::{BoxFuture, join, select};
use futures_util::{FutureExt, TryFutureExt, poll};
use tokio::time::{Instant, sleep, timeout};
use tower::buffer::BufferLayer;
use tower::layer::layer_fn;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::error::Overloaded;
use tower::retry::{Policy, RetryLayer};
use tower::timeout::error::Elapsed;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Request)]
#[request(response = u32)]
struct Act(u32);

#[derive(Clone, Request)]
struct Other;

#[derive(Debug, PartialEq)]
enum Trouble {
    Own(u32),
    Toolkit(ErrorKind),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Toolkit(error.kind())
    }
}

/// A request with an error of its own.
#[derive(Clone, Request)]
#[request(error = Trouble)]
struct Try;

/// Tries again up to so often.
#[derive(Clone)]
struct Attempts(u32);

impl<Q: Clone, T, E> Policy<Q, T, E> for Attempts {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Q, result: &mut Result<T, E>) -> Option<Ready<()>> {
        if result.is_ok() || self.0 == 0 {
            return None;
        }
        self.0 -= 1;
        Some(ready(()))
    }

    fn clone_request(&mut self, request: &Q) -> Option<Q> {
        Some(request.clone())
    }
}

fn noting(journal: &'static Journal) -> EventEmitter {
    EventEmitter::new(EventMap::new().bind(on_event(move |Happened(number): &Happened, _| {
        journal.note(format!("happened {number}"));
        Box::pin(async { Ok(()) })
    })))
}

fn mediator<S>(requests: RequestMap<S>) -> RequestMediator {
    RequestMediator::new(requests, EventEmitter::default()).unwrap()
}

/// Says the number of each try, and does as it is told by it.
fn trying<F>(outcome: F) -> impl RequestHandler<Act>
where
    F: Fn(u32) -> Option<Result<u32>> + Send + Sync + 'static,
{
    let tries = AtomicU32::new(0);
    on_request(move |_: Act, cx| {
        let this = tries.fetch_add(1, Ordering::Relaxed);
        let outcome = outcome(this);
        Box::pin(async move {
            cx.emit(Happened(this));
            match outcome {
                Some(outcome) => outcome,
                None => pending().await,
            }
        })
    })
}

/// Takes a second, and counts how many do at the same time.
#[derive(Clone, Default)]
struct Busy(Arc<(AtomicU32, AtomicU32)>);

impl Busy {
    fn most(&self) -> u32 {
        self.0.1.load(Ordering::Relaxed)
    }

    async fn work(&self) {
        let (now, most) = &*self.0;
        most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        sleep(SECOND).await;
        now.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RequestHandler<Act> for Busy {
    async fn handle(&self, act: Act, _: &Context<'_>) -> Result<u32> {
        self.work().await;
        Ok(act.0)
    }
}

impl RequestHandler<Other> for Busy {
    async fn handle(&self, _: Other, _: &Context<'_>) -> Result<()> {
        self.work().await;
        Ok(())
    }
}
