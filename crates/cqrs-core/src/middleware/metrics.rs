use std::time::Instant;

use super::step::{Step, for_requests_and_events};
use crate::context::Context;
use crate::error::{Error, Result};

/// Tells the recorder of the [`metrics`](https://docs.rs/metrics) crate what is handled, and how long it takes.
///
/// | metric | kind | labels |
/// |---|---|---|
/// | `cqrs_requests_total`, `cqrs_events_total` | counter | `name`, `outcome`: `ok`, `error` or `dropped` (its future was) |
/// | `cqrs_request_seconds`, `cqrs_event_seconds` | histogram, in seconds | `name` |
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
