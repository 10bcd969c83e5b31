//! Relays that run in this process, each on connections of its own.

use std::sync::Arc;
use std::time::Duration;

use cqrs::MessageBroker;
use cqrs::broker::SubscribeOptions;
use cqrs::outbox::{OutboxRelay, RelaySettings};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::brokers::Broker;
use crate::databases::{Database, Footing, Site};
use crate::measure::{Cost, Measured};
use crate::throughput::Manner;

/// From the commit of all events to the last that is settled, with relays that share the groups already.
pub(crate) async fn drain(
    database: &Database,
    site: &Site,
    broker: &Broker,
    manner: Manner,
    keys: u64,
    events: u64,
) -> Measured {
    let relays = Relays::start(database, site, broker, manner).await;
    // The first receipts open the window.
    site.fill(relays.topic(), 256, 256).await;
    relays.settle(256).await;
    site.fill(relays.topic(), keys, events).await;
    let cost = Cost::start();
    relays.settle(256 + events).await;
    let measured = cost.stop(events);
    relays.stop().await;
    measured
}

pub(crate) struct Relays {
    topic: String,
    broker: Arc<dyn MessageBroker>,
    footings: Vec<Footing>,
    relays: Vec<Arc<OutboxRelay>>,
    stop: CancellationToken,
    running: JoinSet<()>,
}

impl Relays {
    /// Returns when they share the groups. They renew their leases every 200 ms, so that this is soon.
    pub(crate) async fn start(database: &Database, site: &Site, broker: &Broker, manner: Manner) -> Self {
        let mut settings = RelaySettings::default();
        settings.heartbeat_interval = Duration::from_millis(200);
        settings.max_in_flight_per_key = manner.per_key;
        let mut footings = Vec::new();
        for _ in 0..manner.relays {
            footings.push(database.footing(site).await);
        }
        Self::on(footings, broker.connect().await, settings).await
    }

    pub(crate) async fn on(
        footings: Vec<Footing>,
        broker: Arc<dyn MessageBroker>,
        settings: RelaySettings,
    ) -> Self {
        let topic = format!("bench-{}", Uuid::new_v4().simple());
        // Who listens must have been there before; nobody reads it.
        let nobody = SubscribeOptions::new(format!("{topic}-g"), [&topic]);
        broker.subscribe(nobody).await.unwrap().close().await.unwrap();
        let relays: Vec<Arc<OutboxRelay>> = footings
            .iter()
            .map(|footing| {
                let relay = OutboxRelay::builder(Arc::clone(&footing.store), Arc::clone(&broker));
                Arc::new(relay.settings(settings.clone()).build().unwrap())
            })
            .collect();
        let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
        for relay in &relays {
            let (relay, stop) = (Arc::clone(relay), stop.clone());
            running.spawn(async move { relay.run_until(stop.cancelled()).await.unwrap() });
        }
        let share = |relay: &Arc<OutboxRelay>| {
            let stats = relay.stats();
            stats.relays == relays.len() && stats.owned_groups <= stats.groups.div_ceil(relays.len())
        };
        let all_owned = || {
            let owned: usize = relays.iter().map(|relay| relay.stats().owned_groups).sum();
            owned > 0 && owned == relays[0].stats().groups
        };
        while !(relays.iter().all(share) && all_owned()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self { topic, broker, footings, relays, stop, running }
    }

    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    pub(crate) fn settled(&self) -> u64 {
        self.relays.iter().map(|relay| relay.stats().settled).sum()
    }

    /// Wakes them, and waits until they have settled so many since they began.
    pub(crate) async fn settle(&self, events: u64) {
        self.footings.iter().for_each(Footing::wake);
        while self.settled() < events {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended.unwrap();
        }
        self.broker.close().await.unwrap();
    }
}
