use std::time::Duration;

use cqrs_core::broker::{Delivery, Subscription};
use cqrs_core::{BrokerError, ErrorClass, Result};
use tokio::time::{self, Instant};

use crate::settings::Settings;
use crate::worker::BROKER_TIMEOUT;

/// A subscription that goes on by itself after what passes.
pub(crate) struct Source<'c> {
    settings: &'c Settings,
    subscription: Box<dyn Subscription>,
    failures: u32,
    not_before: Instant,
}

impl<'c> Source<'c> {
    /// Joins the group, and tries again while the broker is away.
    pub(crate) async fn open(settings: &'c Settings) -> Result<Self> {
        let mut failures = 0;
        loop {
            match settings.broker.subscribe(settings.options.clone()).await {
                Ok(subscription) => {
                    return Ok(Self { settings, subscription, failures: 0, not_before: Instant::now() });
                }
                Err(error) => time::sleep(back_off(settings, &mut failures, error)?).await,
            }
        }
    }

    /// The next delivery.
    ///
    /// # Cancel safety
    ///
    /// Safe: a dropped future has taken no delivery, and the back-off goes on with the next call.
    pub(crate) async fn next(&mut self) -> Result<Delivery> {
        loop {
            time::sleep_until(self.not_before).await;
            match self.subscription.next().await {
                Ok(Some(delivery)) => {
                    self.failures = 0;
                    return Ok(delivery);
                }
                Ok(None) => {
                    let what = format!(
                        "the broker was closed while the consumer of group `{}` ran: stop consumers before it is closed",
                        self.settings.options.group
                    );
                    return Err(BrokerError::new(ErrorClass::Outage, what).into());
                }
                Err(error) => {
                    self.not_before = Instant::now() + back_off(self.settings, &mut self.failures, error)?;
                }
            }
        }
    }

    /// Leaves the group.
    pub(crate) async fn close(self) -> Result<()> {
        match time::timeout(BROKER_TIMEOUT, self.subscription.close()).await {
            Ok(closed) => Ok(closed?),
            Err(_) => {
                let what = format!("the subscription was not closed within {BROKER_TIMEOUT:?}");
                Err(BrokerError::new(ErrorClass::Unknown, what).into())
            }
        }
    }
}

/// How long to wait after this error; the error itself if waiting does not help.
fn back_off(settings: &Settings, failures: &mut u32, error: BrokerError) -> Result<Duration> {
    if !error.class().is_retryable() {
        return Err(error.into());
    }
    *failures = failures.saturating_add(1);
    let delay = settings.retry.random_delay(*failures);
    tracing::warn!(%error, group = settings.options.group, ?delay, "nothing can be received; trying again");
    Ok(delay)
}
