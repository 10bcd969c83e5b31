//! Whether a large backlog makes the relay slower, or larger.

use crate::brokers::Broker;
use crate::databases::{Database, Site};
use crate::measure::{Cost, peak, reset_peak};
use crate::relays::Relays;
use crate::throughput::Manner;

const KEYS: u64 = 10_000;
const FEW: u64 = 50_000;
const FIRST: u64 = 200_000;

pub(crate) async fn measure(pairs: &[(Database, Broker)], backlog: u64) {
    let first = FIRST.min(backlog);
    println!("One relay, events of 300 bytes with {KEYS} keys\n");
    println!(
        "| from, to | {FEW} waiting, events/s | peak, MiB | the first {first} of {backlog}, events/s | peak, MiB | ratio |"
    );
    println!("|---|---:|---:|---:|---:|---:|");
    for (database, broker) in pairs {
        let site = database.site().await;
        let (few, small) = drain(database, &site, broker, FEW, FEW).await;
        let (many, large) = drain(database, &site, broker, backlog, first).await;
        println!(
            "| {} to {} | {few:.0} | {small} | {many:.0} | {large} | {:.2} |",
            database.name(),
            broker.name(),
            many / few
        );
    }
}

/// Events a second of the first of those that wait, and the most memory that this process had meanwhile.
async fn drain(database: &Database, site: &Site, broker: &Broker, waiting: u64, first: u64) -> (f64, u64) {
    let relays = Relays::start(database, site, broker, Manner::ALONE).await;
    site.fill(relays.topic(), 256, 256).await;
    relays.settle(256).await;
    // It is declared now.
    let topic = relays.topic().to_owned();
    relays.stop().await;
    // In parts: one transaction of millions is a test of the server.
    for filled in (0..waiting).step_by(500_000) {
        site.fill(&topic, KEYS, (waiting - filled).min(500_000)).await;
    }
    reset_peak();
    let relays = Relays::start(database, site, broker, Manner::ALONE).await;
    let before = relays.settled();
    let cost = Cost::start();
    relays.settle(before + first).await;
    let rate = cost.stop(relays.settled() - before).rate;
    let peak = peak();
    relays.stop().await;
    (rate, peak)
}
