//! What a relay takes from an outbox to a broker in a second, beside the floors.

use crate::brokers::Broker;
use crate::databases::Database;
use crate::measure::{Size, median, number};
use crate::relays::drain;

const KEYS: [u64; 3] = [1, 64, 10_000];

pub(crate) async fn measure(pairs: &[(Database, Broker)], size: Size) {
    println!("{} events of 300 bytes, medians of {} runs\n", size.events, size.runs);
    println!(
        "| from, to | keys | relays | relay, events/s | f1: read and delete | f2: producer | f1 and f2 on shared cores \
         | f3: one in flight per key | of what is possible | of f1 and f3 on shared cores | CPU of the relay / of both floors |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let only = number("CQRS_BENCH_KEYS", 0);
    assert!(only == 0 || KEYS.contains(&only), "`CQRS_BENCH_KEYS` is one of {KEYS:?}");
    for (database, broker) in pairs {
        for keys in KEYS.into_iter().filter(|keys| only == 0 || *keys == only) {
            // One key is a tenth as fast, or less.
            let events = if keys == 1 { size.events / 10 } else { size.events };
            Line { database, broker, keys, events }.measure(size.runs).await;
        }
    }
}

/// How many relays there are, and how many events of a key each may have with the broker.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) relays: usize,
    pub(crate) per_key: usize,
}

impl Manner {
    pub(crate) const ALONE: Self = Self { relays: 1, per_key: 1 };

    const TOGETHER: Self = Self { relays: 1, per_key: 256 };

    fn suits(self, line: &Line<'_>) -> bool {
        let shares = self.relays == 1 || line.database.shares() && line.keys > 1;
        let has_sessions = self.per_key == 1 || matches!(line.broker, Broker::Kafka(_));
        shares && has_sessions
    }

    fn name(self) -> String {
        match self.per_key {
            1 => self.relays.to_string(),
            together => format!("{}, {together} of a key", self.relays),
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
    async fn measure(&self, runs: u64) {
        let (mut read, mut produced, mut chained) = (Vec::new(), Vec::new(), Vec::new());
        let manners = [Manner::ALONE, Manner { relays: 4, ..Manner::ALONE }, Manner::TOGETHER];
        let mut relayed: Vec<_> = manners
            .into_iter()
            .filter(|manner| manner.suits(self))
            .map(|manner| (manner, Vec::new()))
            .collect();
        // In turns, so that what else the machine does meets all of them.
        for _ in 0..runs {
            let site = self.database.site().await;
            site.fill("floor", self.keys, self.events).await;
            read.push(site.read_and_delete(self.events).await);
            produced.push(self.broker.produce(self.keys, self.events).await);
            chained.push(self.broker.produce_in_order(self.keys, self.events).await);
            for (manner, costs) in &mut relayed {
                costs.push(drain(self.database, &site, self.broker, *manner, self.keys, self.events).await);
            }
        }
        let (read, produced, chained) = (median(read), median(produced), median(chained));
        let on_shared_cores = |rate: f64| 1.0 / (1.0 / read.rate + 1.0 / rate);
        let (both, in_order) = (on_shared_cores(produced.rate), on_shared_cores(chained.rate));
        let possible = both.min(chained.rate);
        for (manner, costs) in relayed {
            let relay = median(costs);
            println!(
                "| {} to {} | {} | {} | {:.0} | {:.0} | {:.0} | {both:.0} | {:.0} | {:.0} % | {:.0} % | {:.2} |",
                self.database.name(),
                self.broker.name(),
                self.keys,
                manner.name(),
                relay.rate,
                read.rate,
                produced.rate,
                chained.rate,
                100.0 * relay.rate / possible,
                100.0 * relay.rate / in_order,
                relay.cpu / (read.cpu + produced.cpu),
            );
        }
    }
}
