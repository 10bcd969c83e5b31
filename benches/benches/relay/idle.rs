//! A relay with nothing to do: statements, processor time, memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cqrs::outbox::RelaySettings;
use diesel::connection::{Instrumentation, InstrumentationEvent, set_default_instrumentation};

use crate::brokers::Broker;
use crate::databases::Database;
use crate::measure::{Cost, resident};
use crate::relays::Relays;

const TIME: Duration = Duration::from_secs(60);

static STATEMENTS: AtomicU64 = AtomicU64::new(0);

pub(crate) async fn measure(databases: &[Database]) {
    set_default_instrumentation(|| Some(Box::new(count) as Box<dyn Instrumentation>)).unwrap();
    println!("A relay with its default settings and an in-memory broker, for {} s\n", TIME.as_secs());
    println!("| database | statements a second | of a core | resident, MiB |");
    println!("|---|---:|---:|---:|");
    for database in databases {
        let site = database.site().await;
        let footing = if database.listens() {
            database.listening_footing(&site).await
        } else {
            database.footing(&site).await
        };
        let broker = Broker::Memory.connect().await;
        let relays = Relays::on(vec![footing], broker, RelaySettings::default()).await;
        // An outbox that was in use.
        site.fill(relays.topic(), 1, 1).await;
        relays.settle(1).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let (before, cost) = (STATEMENTS.load(Ordering::Relaxed), Cost::start());
        tokio::time::sleep(TIME).await;
        let (statements, busy) = (STATEMENTS.load(Ordering::Relaxed) - before, cost.busy());
        println!(
            "| {}{} | {:.2} | {:.2} % | {} |",
            database.name(),
            if database.listens() { ", by LISTEN" } else { "" },
            statements as f64 / TIME.as_secs_f64(),
            100.0 * busy,
            resident(),
        );
        relays.stop().await;
    }
}

fn count(event: InstrumentationEvent<'_>) {
    if matches!(event, InstrumentationEvent::StartQuery { .. }) {
        STATEMENTS.fetch_add(1, Ordering::Relaxed);
    }
}
