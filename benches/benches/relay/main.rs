//! What the relay takes from an outbox to a broker in a second, beside the bare clients that it stands on.
//!
//! The servers are those of the tests: `scripts/with-services cargo bench -p cqrs-benches --features servers --bench relay`,
//! or `just bench-relay`. An argument chooses the lines whose name contains it. `CQRS_BENCH_EVENTS` is how many events a
//! run has (50,000; with one key a tenth of it), `CQRS_BENCH_RUNS` how many runs a line has (3): the median counts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a program for whoever reads its table

mod brokers;
mod databases;
mod measure;

use std::sync::Arc;
use std::time::Duration;

use cqrs::MessageBroker;
use cqrs::broker::SubscribeOptions;
use cqrs::outbox::{OutboxRelay, RelaySettings};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::brokers::Broker;
use self::databases::{Database, Footing};
use self::measure::{Cost, Measured, median, number};

const KEYS: [u64; 3] = [1, 64, 10_000];

#[tokio::main]
async fn main() {
    let chosen = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let (events, runs) = (number("CQRS_BENCH_EVENTS", 50_000), number("CQRS_BENCH_RUNS", 3));
    println!("{events} events of 300 bytes, medians of {runs} runs\n");
    println!(
        "| from, to | keys | relays | relay, events/s | f1: read and delete | f2: producer | both on shared cores \
         | one in flight per key | of what is possible | CPU of the relay / of both floors |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for database in Database::given() {
        for broker in Broker::for_database(&database) {
            for keys in KEYS {
                let name = format!("{} to {}", database.name(), broker.name());
                if !name.contains(&chosen) {
                    continue;
                }
                // One key is a tenth as fast, or less.
                let events = if keys == 1 { events / 10 } else { events };
                let line = Line { database: &database, broker: &broker, keys, events };
                line.measure(&name, runs).await;
            }
        }
    }
}

struct Line<'a> {
    database: &'a Database,
    broker: &'a Broker,
    keys: u64,
    events: u64,
}

impl Line<'_> {
    async fn measure(&self, name: &str, runs: u64) {
        let (mut read, mut produced, mut chained) = (Vec::new(), Vec::new(), Vec::new());
        let mut relayed = [1, 4].map(|relays| (relays, Vec::new()));
        // In turns, so that what else the machine does meets all of them.
        for _ in 0..runs {
            let site = self.database.site().await;
            site.fill("floor", self.keys, self.events).await;
            read.push(site.read_and_delete(self.events).await);
            produced.push(self.broker.produce(self.keys, self.events).await);
            chained.push(self.broker.produce_in_order(self.keys, self.events).await);
            for (relays, costs) in &mut relayed {
                if *relays == 1 || (self.database.shares() && self.keys > 1) {
                    costs.push(self.relay(&site, *relays).await);
                }
            }
        }
        let (read, produced, chained) = (median(read), median(produced), median(chained));
        let both = 1.0 / (1.0 / read.rate + 1.0 / produced.rate);
        let possible = both.min(chained.rate);
        for (relays, costs) in relayed.into_iter().filter(|(_, costs)| !costs.is_empty()) {
            let relay = median(costs);
            println!(
                "| {name} | {} | {relays} | {:.0} | {:.0} | {:.0} | {both:.0} | {:.0} | {:.0} % | {:.2} |",
                self.keys,
                relay.rate,
                read.rate,
                produced.rate,
                chained.rate,
                100.0 * relay.rate / possible,
                relay.cpu / (read.cpu + produced.cpu),
            );
        }
    }

    /// From the commit of all events to the last that is settled, with relays that share the groups already.
    async fn relay(&self, site: &databases::Site, relays: usize) -> Measured {
        let topic = format!("bench-{}", Uuid::new_v4().simple());
        let broker: Arc<dyn MessageBroker> = self.broker.connect().await;
        // Who listens must have been there before; nobody reads it.
        broker
            .subscribe(SubscribeOptions::new(format!("{topic}-g"), [&topic]))
            .await
            .unwrap()
            .close()
            .await
            .unwrap();
        let mut settings = RelaySettings::default();
        settings.heartbeat_interval = Duration::from_millis(200);
        let mut footings = Vec::new();
        for _ in 0..relays {
            footings.push(self.database.footing(site).await);
        }
        let wake = || footings.iter().for_each(Footing::wake);
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
        // The first receipts open the window.
        site.fill(&topic, 256, 256).await;
        let settled = || relays.iter().map(|relay| relay.stats().settled).sum::<u64>();
        wake();
        while settled() < 256 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        site.fill(&topic, self.keys, self.events).await;
        let cost = Cost::start();
        wake();
        while settled() < 256 + self.events {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let measured = cost.stop(self.events);
        stop.cancel();
        while let Some(ended) = running.join_next().await {
            ended.unwrap();
        }
        broker.close().await.unwrap();
        measured
    }
}
