//! Publishing: one idempotent producer, replaced when it is beyond repair.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use cqrs_core::Message;
use cqrs_core::broker::{BrokerError, Confirm, ErrorClass, Receipt};
use rdkafka::error::KafkaError;
use rdkafka::producer::future_producer::{Delivery, DeliveryFuture};
use rdkafka::producer::{FutureProducer, Producer as _, PurgeConfig};
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::config::Config;
use crate::error::{code, failed, refused, undelivered};
use crate::log::Log;
use crate::session::{Session, SessionHandle};
use crate::watch::{Watch, reaches};
use crate::{blocking, record};

pub(crate) type Client = FutureProducer<Log>;

/// How long to wait for the cluster's answer at a time.
const SLICE: Duration = Duration::from_millis(500);

/// How long to wait for room in a full queue: from, to.
const ROOM: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

pub(crate) struct Producer {
    config: Config,
    log: Log,
    /// Sending holds the lock for reading, so that nothing is sent behind the flush of a close. `None`: closed.
    client: RwLock<Option<Arc<Client>>>,
    /// For a close: they have clients of their own.
    sessions: Mutex<Vec<Weak<Session>>>,
    /// Since a message was not confirmed in time.
    watch: Mutex<Option<Watch>>,
}

enum Handover {
    Taken(DeliveryFuture),
    Full,
    Failed(KafkaError),
}

impl Producer {
    pub(crate) fn new(config: Config) -> Result<Arc<Self>, BrokerError> {
        let log = Log::default();
        let client = config.producer(log.clone())?;
        Ok(Arc::new(Self {
            config,
            log,
            client: RwLock::new(Some(Arc::new(client))),
            sessions: Mutex::default(),
            watch: Mutex::default(),
        }))
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn open_session(self: &Arc<Self>) -> Result<SessionHandle, BrokerError> {
        self.client()?;
        let session = Session::open(Arc::clone(self))?;
        let mut sessions = self.sessions();
        sessions.retain(|session| session.strong_count() > 0);
        sessions.push(Arc::downgrade(&session));
        Ok(SessionHandle(session))
    }

    fn sessions(&self) -> MutexGuard<'_, Vec<Weak<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn client(&self) -> Result<Arc<Client>, BrokerError> {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(closed)
    }

    /// Asks the cluster for an answer, within a time.
    pub(crate) async fn check(self: &Arc<Self>, limit: Duration) -> Result<(), BrokerError> {
        let client = self.client()?;
        let log = self.log.clone();
        blocking::run(move || {
            let end = Instant::now() + limit;
            loop {
                // In short slices: a refused login is not told to who waits for an answer.
                match client.client().fetch_metadata(None, SLICE) {
                    Ok(_) => {
                        log.accepted();
                        return Ok(());
                    }
                    Err(error) => {
                        refused_login(&log)?;
                        if Instant::now() >= end {
                            return Err(failed(
                                ErrorClass::Outage,
                                "the Kafka cluster does not answer",
                                error,
                            ));
                        }
                        // Some errors come at once.
                        std::thread::sleep(ROOM.1);
                    }
                }
            }
        })
        .await
    }

    /// An error, if the cluster refused our login and has not accepted it since.
    pub(crate) fn refused_login(&self) -> Result<(), BrokerError> {
        refused_login(&self.log)
    }

    pub(crate) async fn enqueue(self: &Arc<Self>, message: &Message) -> Result<Confirm, BrokerError> {
        record::check(message)?;
        let mut wait = ROOM.0;
        let mut replaced = false;
        loop {
            let (client, handover) = self.hand_over(message)?;
            match handover {
                Handover::Taken(delivery) => {
                    return Ok(Confirm::new(outcome(
                        Arc::clone(self),
                        Arc::downgrade(&client),
                        delivery,
                        message.topic.clone(),
                    )));
                }
                Handover::Full => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(ROOM.1);
                }
                Handover::Failed(error) if refused(code(&error)) == ErrorClass::Fatal && !replaced => {
                    self.replace(&client, &format!("it refuses all work: {error}"));
                    replaced = true;
                }
                Handover::Failed(error) => return Err(self.not_taken(message, error)),
            }
        }
    }

    fn hand_over(&self, message: &Message) -> Result<(Arc<Client>, Handover), BrokerError> {
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner);
        let client = client.as_ref().ok_or_else(closed)?;
        let handover = match client.send_result(record::from_message(message)) {
            Ok(delivery) => Handover::Taken(delivery),
            Err((KafkaError::MessageProduction(Code::QueueFull), _)) => Handover::Full,
            Err((error, _)) => Handover::Failed(error),
        };
        Ok((Arc::clone(client), handover))
    }

    /// What became of a message that was handed over.
    pub(crate) async fn delivered(
        &self,
        topic: &str,
        delivery: DeliveryFuture,
    ) -> Result<Receipt, BrokerError> {
        match delivery.await {
            Ok(Ok(delivery)) => {
                self.log.accepted();
                receipt(&delivery).ok_or_else(|| {
                    BrokerError::new(
                        ErrorClass::Unknown,
                        format!(
                            "the client concludes that the message for `{topic}` was appended, and the broker does not say so: \
                             send it again, with the same id"
                        ),
                    )
                })
            }
            Ok(Err((error, _))) => Err(failed(
                undelivered(code(&error)),
                format!("the message for `{topic}` was not confirmed"),
                error,
            )),
            Err(_) => Err(failed(
                ErrorClass::Unknown,
                format!("the client was closed before the message for `{topic}` was confirmed"),
                KafkaError::Canceled,
            )),
        }
    }

    pub(crate) fn not_taken(&self, message: &Message, error: KafkaError) -> BrokerError {
        let what = if code(&error) == Code::MessageSizeTooLarge {
            format!(
                "the message for `{}` has {} bytes, and the limit `message.max.bytes` is {}",
                message.topic,
                message.size(),
                self.config.max_message_bytes()
            )
        } else {
            format!("the message for `{}` was not taken", message.topic)
        };
        failed(refused(code(&error)), what, error)
    }

    /// Somebody looks whether the client still reaches the cluster, unless one does.
    fn watch(self: &Arc<Self>, client: &Arc<Client>, topic: &str) {
        // What is given up in one that was replaced says nothing of the next one.
        if !self.client().is_ok_and(|current| Arc::ptr_eq(&current, client)) {
            return;
        }
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.as_ref().is_some_and(|watch| !watch.is_over()) {
            return;
        }
        let (watched, owner) = (Arc::downgrade(client), Arc::downgrade(self));
        let of_producer = Weak::clone(&watched);
        *watch = Watch::begin(
            &self.config,
            topic,
            move |topic| Some(reaches(watched.upgrade()?.client(), topic)),
            move || {
                if let (Some(producer), Some(client)) = (owner.upgrade(), of_producer.upgrade()) {
                    producer.replace(&client, "it has lost the cluster for good, which others reach");
                }
            },
        );
    }

    /// Puts a new client in the place of a broken one, unless that was done already. What is left in the old one is
    /// given up, and its confirms answer that its fate is unknown.
    fn replace(&self, broken: &Arc<Client>, reason: &str) {
        let old = {
            let mut client = self.client.write().unwrap_or_else(PoisonError::into_inner);
            if !client.as_ref().is_some_and(|current| Arc::ptr_eq(current, broken)) {
                return;
            }
            match self.config.producer::<Client>(self.log.clone()) {
                Ok(new) => client.replace(Arc::new(new)),
                Err(error) => {
                    tracing::error!(%error, "a broken Kafka producer could not be replaced");
                    return;
                }
            }
        };
        tracing::warn!(reason, broker = %self.config, "replaced a broken Kafka producer");
        if let Some(old) = old {
            // It waits for the client's threads, which may be waiting for a name to be resolved.
            blocking::begin(move || {
                old.purge(PurgeConfig::default().queue().inflight());
                blocking::drop_last(old);
            });
        }
    }

    pub(crate) async fn close(&self) -> Result<(), BrokerError> {
        let Some(client) = self.client.write().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        let sessions = std::mem::take(&mut *self.sessions());
        // Longer than a message may take: by then each was delivered or given up.
        let patience = self.config.message_timeout() + Duration::from_secs(2);
        blocking::run(move || {
            let sessions = sessions.iter().filter_map(Weak::upgrade);
            let flushed_sessions = sessions.map(|session| session.flush(patience)).fold(Ok(()), Result::and);
            let flushed = client.flush(patience);
            let left = client.in_flight_count();
            client.purge(PurgeConfig::default().queue().inflight());
            blocking::discard(client);
            flushed.map_err(|error| {
                failed(
                    ErrorClass::Unknown,
                    format!("{left} messages were not confirmed within {patience:?} of closing"),
                    error,
                )
            })?;
            flushed_sessions
        })
        .await
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        if let Some(client) = self.client.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            blocking::discard(client);
        }
    }
}

async fn outcome(
    producer: Arc<Producer>,
    // Not kept alive: dropping the last one blocks.
    client: Weak<Client>,
    delivery: DeliveryFuture,
    topic: String,
) -> Result<Receipt, BrokerError> {
    let outcome = producer.delivered(&topic, delivery).await;
    outcome.map_err(|error| {
        if let Some(client) = client.upgrade() {
            if error.class() == ErrorClass::Fatal || client.client().fatal_error().is_some() {
                producer.replace(&client, &format!("it refuses all work: {error}"));
            } else if matches!(error.class(), ErrorClass::Outage | ErrorClass::Unknown) {
                producer.watch(&client, &topic);
            }
        }
        error.at(&producer.config)
    })
}

/// `None` if nobody knows where it is. The client takes a message for appended, and says no offset, when a later one of the
/// partition was; but the first batch of a producer may be refused for a while, and the second one taken.
fn receipt(delivery: &Delivery) -> Option<Receipt> {
    (delivery.offset >= 0).then(|| Receipt::at(delivery.partition, delivery.offset))
}

fn refused_login(log: &Log) -> Result<(), BrokerError> {
    match log.refusal() {
        None => Ok(()),
        Some(why) => Err(BrokerError::new(
            ErrorClass::Login,
            format!(
                "the Kafka cluster refuses the login: {why}: mend `sasl.username` and `sasl.password`, or \
                 `security.protocol` and `sasl.mechanism`"
            ),
        )),
    }
}

fn closed() -> BrokerError {
    BrokerError::new(ErrorClass::Outage, "the Kafka broker was closed: make a new one to publish")
}
