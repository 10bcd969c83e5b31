//! Publish sessions: an idempotent producer of their own that would rather stop than leave a gap.
//!
//! What makes that true. The broker appends the batches of a producer in the order of their sequence numbers, and refuses one
//! whose predecessor it does not have; but only from the first batch of that producer that it has for the partition, which is
//! why nothing follows the first message of a key before its receipt ([KAFKA-14359]), and why a confirm without an offset is
//! none: librdkafka concludes from a later batch that an earlier one is there, which is not so then. With
//! `enable.gapless.guarantee`, librdkafka ends the producer where it would else number the rest anew behind a message that was
//! refused; that covers neither retries that are used up, so there is no end to them, nor what is given up in the queue, so nothing has
//! a time-out of its own (`message.timeout.ms=0`), and a session that ends gives up all that it has.
//!
//! Not covered: a topic that is deleted and made again, and a partition that loses what it had confirmed (an unclean election), in
//! the midst of a session. librdkafka calls the guarantee experimental.
//!
//! [KAFKA-14359]: https://issues.apache.org/jira/browse/KAFKA-14359

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cqrs_core::Message;
use cqrs_core::broker::{BrokerError, Confirm, ErrorClass, PublishSession, Receipt};
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{Producer as _, PurgeConfig};

use crate::error::failed;
use crate::producer::{Client, Producer};
use crate::{blocking, record};

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
        let turn = self.turn();
        let client = self.client.as_ref().filter(|_| !self.is_over()).ok_or_else(over)?;
        let handed = self.producer.client().and_then(|_| record::check(message)).and_then(|()| {
            let mut record = record::from_message(message);
            // Should the topic get more partitions meanwhile, its key would go to another one, where nothing holds it back.
            record.partition = after.and_then(|receipt| receipt.partition);
            client.send_result(record).map_err(|(error, _)| self.producer.not_taken(message, error))
        });
        drop(turn);
        handed.inspect_err(|_| Self::end(self))
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is taken any more, and what was not confirmed is given up, what is on its way too: the client takes that for
    /// fatal, and sends nothing behind it. To give up only what waits would leave a gap, for what is on its way may come back
    /// and wait again.
    fn end(session: &Arc<Self>) {
        {
            // So that nothing is handed over between the look and this.
            let _turn = session.turn();
            if session.over.swap(true, Ordering::AcqRel) {
                return;
            }
        }
        let session = Arc::clone(session);
        // It waits for the client's threads, which may be waiting for a name to be resolved.
        blocking::begin(move || {
            if let Some(client) = &session.client {
                client.purge(PurgeConfig::default().queue().inflight());
            }
        });
    }

    /// Waits for what it has.
    pub(crate) fn flush(&self, patience: Duration) -> Result<(), BrokerError> {
        {
            let _turn = self.turn();
            self.over.store(true, Ordering::Release);
        }
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
        Session::end(&self.0);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            blocking::discard(Arc::new(client));
        }
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
