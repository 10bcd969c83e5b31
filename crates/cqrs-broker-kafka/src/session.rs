//! Publish sessions: an idempotent producer of their own that would rather stop than leave a gap.
//!
//! Three things make that true. The broker appends the batches of a producer in the order of their sequence numbers, and
//! refuses one whose predecessor it does not have; but only from the first batch of that producer that it has for the
//! partition, which is why nothing follows the first message of a key before its receipt ([KAFKA-14359]). With
//! `enable.gapless.guarantee`, librdkafka ends the producer where it would else number the rest anew behind a message that
//! was refused. And what was sent has no time-out of its own (`message.timeout.ms=0`), for that leaves a gap: whoever waits
//! ends the session instead.
//!
//! [KAFKA-14359]: https://issues.apache.org/jira/browse/KAFKA-14359

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cqrs_core::Message;
use cqrs_core::broker::{BrokerError, Confirm, ErrorClass, PublishSession, Receipt};
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{Producer as _, PurgeConfig};
use tokio::runtime::Handle;

use crate::error::failed;
use crate::producer::{Client, Producer};
use crate::{blocking, record};

/// How long what was sent may still be confirmed when a session is over.
const GRACE: Duration = Duration::from_millis(500);

pub(crate) struct Session {
    producer: Arc<Producer>,
    /// `None` only while it is dropped.
    client: Option<Client>,
    /// Held while a message is handed over, so that nothing is behind one that was not taken.
    turn: Mutex<()>,
    over: AtomicBool,
}

impl Session {
    pub(crate) fn open(producer: Arc<Producer>) -> Result<Arc<Self>, BrokerError> {
        let client = producer.config().session(producer.log().clone())?;
        Ok(Arc::new(Self {
            producer,
            client: Some(client),
            turn: Mutex::new(()),
            over: AtomicBool::new(false),
        }))
    }

    fn hand_over(
        self: &Arc<Self>,
        message: &Message,
        after: Option<&Receipt>,
    ) -> Result<DeliveryFuture, BrokerError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let client = self.client.as_ref().filter(|_| !self.is_over()).ok_or_else(over)?;
        let handed = self.producer.client().and_then(|_| record::check(message)).and_then(|()| {
            let mut record = record::from_message(message);
            // Should the topic get more partitions meanwhile, its key would go to another one, where nothing holds it back.
            record.partition = after.and_then(|receipt| receipt.partition);
            client.send_result(record).map_err(|(error, _)| self.producer.not_taken(message, error))
        });
        handed.inspect_err(|_| Self::end(self))
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Nothing is taken any more, and what was not sent is not sent. What was sent may still be confirmed, for a moment: a batch
    /// behind one that was refused is refused, too, and then waits in the client for ever.
    fn end(session: &Arc<Self>) {
        if session.over.swap(true, Ordering::AcqRel) {
            return;
        }
        session.purge(PurgeConfig::default().queue());
        let session = Arc::downgrade(session);
        let rest = move || {
            if let Some(session) = session.upgrade() {
                session.abort();
            }
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                tokio::time::sleep(GRACE).await;
                rest();
            })),
            Err(_) => rest(),
        }
    }

    fn abort(&self) {
        self.over.store(true, Ordering::Release);
        self.purge(PurgeConfig::default().queue().inflight());
    }

    fn purge(&self, what: PurgeConfig) {
        if let Some(client) = &self.client {
            client.purge(what);
        }
    }

    /// Waits for what it has.
    pub(crate) fn flush(&self, patience: Duration) -> Result<(), BrokerError> {
        self.over.store(true, Ordering::Release);
        let Some(client) = &self.client else { return Ok(()) };
        client.flush(patience).map_err(|error| {
            let left = client.in_flight_count();
            client.purge(PurgeConfig::default().queue().inflight());
            failed(
                ErrorClass::Unknown,
                format!("{left} messages of a session were not confirmed within {patience:?} of closing"),
                error,
            )
        })
    }
}

/// The session, and what waits for its confirms.
pub(crate) struct SessionHandle(pub(crate) Arc<Session>);

impl PublishSession for SessionHandle {
    fn enqueue(&self, message: &Message, after: Option<&Receipt>) -> Result<Confirm, BrokerError> {
        let at = |error: BrokerError| error.at(self.0.producer.config());
        let delivery = self.0.hand_over(message, after).map_err(at)?;
        let (session, topic) = (Arc::clone(&self.0), message.topic.clone());
        Ok(Confirm::new(async move {
            let outcome = session.producer.delivered(&topic, delivery).await;
            outcome
                .inspect_err(|_| Session::end(&session))
                .map_err(|error| error.at(session.producer.config()))
        }))
    }

    fn abort(&self) {
        self.0.abort();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        blocking::discard(self.client.take());
    }
}

impl fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSession").field("over", &self.0.is_over()).finish_non_exhaustive()
    }
}

fn over() -> BrokerError {
    BrokerError::new(
        ErrorClass::Outage,
        "this publish session is over: open another, and send again what it did not confirm",
    )
}
