use std::fmt;
use std::future::Future;

use cqrs_consumer::{Consumer, ConsumerStats};
use cqrs_core::{EventMediator, RequestMediator, Result};
use cqrs_outbox::{OutboxRelay, RelayStats};
use tokio_util::sync::CancellationToken;

use crate::purging::Purging;

/// A built application: its mediators work from the start, its relay and its consumers while it runs.
#[must_use = "the relay and the consumers do nothing until the application runs"]
pub struct App {
    requests: RequestMediator,
    relay: Option<OutboxRelay>,
    consumer: Option<Consumer>,
    purging: Purging,
}

impl App {
    pub(crate) fn new(
        requests: RequestMediator,
        relay: Option<OutboxRelay>,
        consumer: Option<Consumer>,
        purging: Purging,
    ) -> Self {
        Self { requests, relay, consumer, purging }
    }

    /// Sends commands and queries.
    pub fn requests(&self) -> &RequestMediator {
        &self.requests
    }

    /// Says events outside of any request.
    pub fn events(&self) -> EventMediator {
        self.requests.events()
    }

    /// What the relay has done; all zero without one.
    pub fn relay_stats(&self) -> RelayStats {
        self.relay.as_ref().map(OutboxRelay::stats).unwrap_or_default()
    }

    /// What the consumer has done; all zero without one.
    pub fn consumer_stats(&self) -> ConsumerStats {
        self.consumer.as_ref().map(Consumer::stats).unwrap_or_default()
    }

    /// Runs the relay and the consumer until `shutdown` resolves, and stops them: first the relay, which finishes what is
    /// with the broker and gives its groups back, then the consumer, which finishes what it has begun. Can be called again.
    ///
    /// Until then it also removes what has passed its [retention](crate::Builder::retention).
    ///
    /// # Errors
    ///
    /// What ended the relay or the consumer, when waiting could not mend it; the other one is stopped then, too.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is like a crash: nothing is lost, but what was in flight is sent and handled again.
    pub async fn run_until(&self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        let (stop_relay, stop_consumer) = (CancellationToken::new(), CancellationToken::new());
        let relay = async {
            let ended = match &self.relay {
                Some(relay) => relay.run_until(stop_relay.cancelled()).await,
                None => {
                    stop_relay.cancelled().await;
                    Ok(())
                }
            };
            stop_consumer.cancel();
            ended
        };
        let consumer = async {
            let ended = match &self.consumer {
                Some(consumer) => consumer.run_until(stop_consumer.cancelled()).await,
                None => Ok(()),
            };
            if ended.is_err() {
                stop_relay.cancel();
            }
            ended
        };
        let work = async { tokio::join!(relay, consumer) };
        let mut work = std::pin::pin!(work);
        let (relay, consumer) = tokio::select! {
            ended = &mut work => ended,
            never = self.purging.for_ever() => match never {},
            () = shutdown => {
                tracing::info!("stopping");
                stop_relay.cancel();
                work.await
            }
        };
        relay.and(consumer)
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("requests", &self.requests)
            .field("relay", &self.relay)
            .field("consumer", &self.consumer.is_some())
            .finish()
    }
}
