use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_stream::stream;
use futures_util::{Stream, StreamExt};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::step::{Step, for_requests_and_events};
use super::stream::run_within;
use super::{Placement, StreamMiddleware};
use crate::context::{Context, Narrowed};
use crate::error::{Error, ErrorKind, Result};
use crate::request::{StreamHandler, StreamRequest};
use crate::send_options::{SendOptions, cancelled};

/// Lets so many handlers run at the same time; the others wait for their turn, in the order in which they came, or until they are
/// cancelled.
///
/// All requests that stand behind one limit share it, also where it was cloned. A request that is sent from within one that has a
/// place uses that one's: it never waits for itself. What the outermost of them says goes out when the place is free again.
///
/// Of two limits whose requests send one another, each may hold what the other waits for. Let those behind the one send those behind
/// the other and not the other way round, or give both a time-out.
///
/// A stream keeps its place until it ends or is dropped, also while the events that it said go out: let their handlers send nothing
/// that stands behind the same limit, or give both a time-out.
///
/// Place it within [`Timeout`](crate::Timeout), so that the wait counts, or give it a
/// [limit on those who wait](Self::with_max_waiting).
///
/// ```
/// use cqrs_core::{ConcurrencyLimit, RequestMap};
///
/// let requests = RequestMap::new().middleware(ConcurrencyLimit::new(100).with_max_waiting(1_000));
/// ```
#[derive(Clone, Debug)]
pub struct ConcurrencyLimit {
    places: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    limit: usize,
    max_waiting: usize,
}

impl ConcurrencyLimit {
    /// So many at the same time; 0 is an error when the mediator is built. Any number may wait.
    pub fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(limit)),
            waiting: Arc::default(),
            limit,
            max_waiting: usize::MAX,
        }
    }

    /// So many may wait, 0 is none; one more fails at once with [`ErrorKind::Overloaded`], which is retryable.
    #[must_use]
    pub fn with_max_waiting(mut self, waiting: usize) -> Self {
        self.max_waiting = waiting;
        self
    }

    async fn place(&self, name: &str, cx: &Context<'_>) -> Result<Option<SemaphorePermit<'_>>> {
        if let Ok(place) = self.places.try_acquire() {
            return Ok(Some(place));
        }
        let Some(_waits) = Waits::begin(&self.waiting, self.max_waiting) else {
            return Err(Error::new(
                ErrorKind::Overloaded,
                format!("`{name}`: {} are at work, and {} wait already", self.limit, self.max_waiting),
            )
            .with_retryable(true));
        };
        let cancellation = cx.cancellation();
        match cancellation.run_until_cancelled(self.places.acquire()).await {
            // Never closed.
            Some(place) => Ok(place.ok()),
            None => Err(cancelled(name)),
        }
    }

    fn id(&self) -> usize {
        Arc::as_ptr(&self.places) as usize
    }

    fn checked(&self) -> Result<(), String> {
        if self.limit == 0 {
            return Err("a `ConcurrencyLimit` of 0 lets nothing through: give it at least 1".to_owned());
        }
        Ok(())
    }

    async fn around<T, E: From<Error>>(&self, step: impl Step<T, E>, cx: &Context<'_>) -> Result<T, E> {
        let id = self.id();
        if cx.has_place(id) {
            return step.run(cx).await;
        }
        let _place = self.place(step.name(), cx).await?;
        let options = SendOptions::default();
        step.run_within(cx, Narrowed::new(Some(cx), &options).with_place(Some(id))).await
    }
}

/// One who waits, until it is dropped.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn begin(waiting: &'a AtomicUsize, max: usize) -> Option<Self> {
        let one_more = |waiting: usize| (waiting < max).then(|| waiting + 1);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok().map(|_| Self(waiting))
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

for_requests_and_events!(ConcurrencyLimit {
    fn check(&self, _: &Placement) -> Result<(), String> {
        self.checked()
    }
});

impl<R: StreamRequest> StreamMiddleware<R> for ConcurrencyLimit {
    fn call<N: StreamHandler<R>>(
        &self,
        request: R,
        cx: &Context<'_>,
        next: &N,
    ) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
        stream! {
            let id = self.id();
            let mut _place = None;
            if !cx.has_place(id) {
                match self.place(R::name(), cx).await {
                    Ok(place) => _place = place,
                    Err(error) => {
                        yield Err(error.into());
                        return;
                    }
                }
            }
            let mut items = pin!(run_within(request, cx, next, SendOptions::default(), Some(id)));
            while let Some(item) = items.next().await {
                yield item;
            }
        }
    }

    fn check(&self, _: &Placement) -> Result<(), String> {
        self.checked()
    }
}
