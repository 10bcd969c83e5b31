//! From the commit to the broker's confirm, one event at a time, beside a confirm of the bare client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cqrs::broker::{BrokerError, Capabilities, Confirm, SubscribeOptions, Subscription};
use cqrs::outbox::RelaySettings;
use cqrs::{Message, MessageBroker};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::brokers::Broker;
use crate::databases::{Database, Footing};
use crate::measure::Times;
use crate::relays::Relays;

const EVENTS: usize = 500;

/// Between two events, so that each finds nothing else under way.
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) async fn measure(pairs: &[(Database, Broker)]) {
    println!("{EVENTS} events, one every {} ms; milliseconds\n", PAUSE.as_millis());
    println!(
        "| from, to | woken | commit to confirm, median | 99 % | bare confirm, median | 99 % | beyond it, median |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|");
    for (database, broker) in pairs {
        for wake in [Wake::InProcess, Wake::Listen] {
            if wake == Wake::Listen && !database.listens() {
                continue;
            }
            let (mut ours, mut bare) = (Times::default(), Times::default());
            // In turns, so that what else the machine does meets both.
            for _ in 0..5 {
                from_commit(database, broker, wake, EVENTS / 5, &mut ours).await;
                broker.confirm(EVENTS / 5, PAUSE, &mut bare).await;
            }
            println!(
                "| {} to {} | {} | {} | {} | {} | {} | {} |",
                database.name(),
                broker.name(),
                wake.name(),
                in_ms(ours.median()),
                in_ms(ours.percentile(99)),
                in_ms(bare.median()),
                in_ms(bare.percentile(99)),
                in_ms(ours.median().saturating_sub(bare.median())),
            );
        }
    }
}

fn in_ms(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e3)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wake {
    /// The relay runs in the process that writes.
    InProcess,
    /// It runs elsewhere, and hears of the commit by LISTEN.
    Listen,
}

impl Wake {
    fn name(self) -> &'static str {
        match self {
            Self::InProcess => "in process",
            Self::Listen => "by LISTEN",
        }
    }
}

async fn from_commit(database: &Database, broker: &Broker, wake: Wake, events: usize, times: &mut Times) {
    let site = database.site().await;
    let footing = match wake {
        Wake::InProcess => database.footing(&site).await,
        Wake::Listen => database.listening_footing(&site).await,
    };
    let other = match wake {
        Wake::InProcess => None,
        Wake::Listen => Some(database.listening_footing(&site).await),
    };
    let (confirmed, mut confirms) = unbounded_channel();
    let watched = Arc::new(Watched { broker: broker.connect().await, confirmed });
    let writer = other.unwrap_or_else(|| footing.clone());
    let relays = Relays::on(vec![footing], watched, RelaySettings::default()).await;
    for nth in 0..events + 20 {
        let time = write_one(&writer, relays.topic(), &mut confirms).await;
        // The first ones make connections, and the topic.
        if nth >= 20 {
            times.push(time);
        }
        tokio::time::sleep(PAUSE).await;
    }
    relays.stop().await;
}

async fn write_one(writer: &Footing, topic: &str, confirms: &mut UnboundedReceiver<Instant>) -> Duration {
    let mut message = Message::new(topic, crate::brokers::payload());
    message.name = "bench".to_owned();
    message.key = Some("key".into());
    writer.write(message).await;
    let committed = Instant::now();
    confirms.recv().await.unwrap().saturating_duration_since(committed)
}

/// Tells when each confirm came.
#[derive(Debug)]
struct Watched {
    broker: Arc<dyn MessageBroker>,
    confirmed: UnboundedSender<Instant>,
}

#[async_trait]
impl MessageBroker for Watched {
    fn capabilities(&self) -> Capabilities {
        self.broker.capabilities()
    }

    async fn enqueue(&self, message: &Message) -> Result<Confirm, BrokerError> {
        let (confirm, confirmed) = (self.broker.enqueue(message).await?, self.confirmed.clone());
        Ok(Confirm::new(async move {
            let outcome = confirm.await;
            if outcome.is_ok() {
                confirmed.send(Instant::now()).unwrap();
            }
            outcome
        }))
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Box<dyn Subscription>, BrokerError> {
        self.broker.subscribe(options).await
    }

    async fn check(&self) -> Result<(), BrokerError> {
        self.broker.check().await
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.broker.close().await
    }
}
