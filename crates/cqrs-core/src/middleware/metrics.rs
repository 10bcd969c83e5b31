use std::pin::pin;
use std::time::Instant;

use async_stream::stream;
use futures_util::{Stream, StreamExt};

use super::StreamMiddleware;
use super::step::{Step, for_requests_and_events};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::request::{StreamHandler, StreamRequest};

/// Tells the recorder of the [`metrics`](https://docs.rs/metrics) crate what is handled, and how long it takes.
///
/// | metric | kind | labels |
/// |---|---|---|
/// | `cqrs_requests_total`, `cqrs_events_total` | counter | `name`, `outcome`: `ok`, `error` or `dropped` (its future was) |
/// | `cqrs_request_seconds`, `cqrs_event_seconds` | histogram, in seconds | `name` |
/// | `cqrs_streams_total` | counter | `name`, `outcome`: `ok`, `error` (an item was one) or `dropped` before its end |
/// | `cqrs_stream_seconds` | histogram, in seconds, until its end | `name` |
/// | `cqrs_stream_items_total` | counter, without those that are errors | `name` |
///
/// An event is counted once for each of its handlers. Place it first (outermost), beside [`Tracing`](crate::Tracing), so that it sees
/// what the others answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Metrics;

impl Metrics {
    async fn around<T, E: From<Error>, S: Step<T, E>>(&self, step: S, cx: &Context<'_>) -> Result<T, E> {
        let mut measured = Measured {
            names: if S::WHAT == "event" {
                ["cqrs_events_total", "cqrs_event_seconds"]
            } else {
                ["cqrs_requests_total", "cqrs_request_seconds"]
            },
            of: step.name(),
            began: Instant::now(),
            outcome: "dropped",
        };
        let outcome = step.run(cx).await;
        measured.outcome = if outcome.is_ok() { "ok" } else { "error" };
        outcome
    }
}

for_requests_and_events!(Metrics);

impl<R: StreamRequest> StreamMiddleware<R> for Metrics {
    fn call<N: StreamHandler<R>>(
        &self,
        request: R,
        cx: &Context<'_>,
        next: &N,
    ) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
        stream! {
            let mut measured = Measured {
                names: ["cqrs_streams_total", "cqrs_stream_seconds"],
                of: R::name(),
                began: Instant::now(),
                outcome: "dropped",
            };
            let given = metrics::counter!("cqrs_stream_items_total", "name" => R::name());
            let mut is_ok = true;
            let mut items = pin!(next.handle(request, cx));
            while let Some(item) = items.next().await {
                if item.is_ok() {
                    given.increment(1);
                } else {
                    // At once, for many read no further.
                    is_ok = false;
                    measured.outcome = "error";
                }
                yield item;
            }
            if is_ok {
                measured.outcome = "ok";
            }
        }
    }
}

/// Told when it is dropped, so that a call whose future is dropped is counted, too.
struct Measured {
    names: [&'static str; 2],
    of: &'static str,
    began: Instant,
    outcome: &'static str,
}

impl Drop for Measured {
    fn drop(&mut self) {
        let [total, seconds] = self.names;
        metrics::counter!(total, "name" => self.of, "outcome" => self.outcome).increment(1);
        metrics::histogram!(seconds, "name" => self.of).record(self.began.elapsed().as_secs_f64());
    }
}
