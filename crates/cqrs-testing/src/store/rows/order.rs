//! What is in order: what has one key, whatever the topic, or what has one key on one topic.

use std::time::Duration;

use cqrs_outbox::{Fenced, OrderUnit, Place};
use tokio::time;

use super::relay::{Running, id, nothing_left, relay};
use crate::history::History;
use crate::store::StoreUnderTest;
use crate::store::bench::{Bench, Checked, ensure, ensure_eq, event, labels, labels_at, on};
use crate::store::recorder::Recorder;

pub(super) async fn unit<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    let apart = bench.adapter.order_unit() == OrderUnit::TopicAndKey;
    let of = |names: &[&'static str]| names.to_vec();
    owner
        .commit([
            on("rooms", event(Some("a"), "r1")),
            on("halls", event(Some("a"), "h1")),
            // Cut in another place, it is the same text.
            on("room", event(Some("sa"), "s1")),
            on("rooms", event(Some("a"), "r2")),
        ])
        .await?;
    let first = owner.find("r1").await?;
    let lease = owner.lease_of(&first)?;
    owner.park(&first, Duration::ZERO).await?;
    owner.commit([on("halls", event(Some("a"), "h2")), on("rooms", event(Some("a"), "r3"))]).await?;
    let rows = owner.read().await?;
    let free = if apart { of(&["h1", "s1", "h2"]) } else { of(&["s1"]) };
    ensure_eq("the free rows", labels_at(&rows, Place::Hot), &free[..])?;
    let gated = if apart { of(&["r2", "r3"]) } else { of(&["h1", "r2", "h2", "r3"]) };
    ensure_eq("the gated rows", labels_at(&rows, Place::Gated), gated)?;

    let gated: Vec<i64> = rows.iter().filter(|row| row.place == Place::Gated).map(|row| row.id).collect();
    let answer = owner.set_aside(lease, &first.lane, &gated).await?;
    ensure_eq("setting aside behind a closed gate", answer, Fenced::Done(true))?;
    ensure_eq("the rows that are left", labels(&owner.read().await?), &free[..])?;
    let parked = owner.parked().await?;
    let aside = if apart { of(&["r1", "r2", "r3"]) } else { of(&["r1", "h1", "r2", "h2", "r3"]) };
    ensure_eq("the rows aside", labels(&parked), aside)?;
    ensure(parked.iter().all(|row| row.lane == first.lane), || {
        "rows of one gate are not of one lane".to_owned()
    })?;

    owner.settle(parked).await?;
    ensure_eq("opening the gate", owner.open_gate(lease, &first.lane).await?, Fenced::Done(true))?;
    owner.commit([on("rooms", event(Some("a"), "r4"))]).await?;
    ensure_eq("the gated rows", labels_at(&owner.read().await?, Place::Gated), [""; 0])
}

pub(super) async fn relayed<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let (table, history) = (bench.open().await?, History::new());
    let unit = bench.adapter.order_unit();
    let recorder = Recorder::new(&history, unit);
    let messages = [("rooms", "a"), ("halls", "a"), ("halls", "a"), ("rooms", "a"), ("rooms", "b")];
    let messages = messages.map(|(topic, key)| on(topic, event(Some(key), "")));
    let messages = table.commit(messages).await?;
    for (message, nth) in messages.iter().zip(0..) {
        recorder.committed(message, nth);
    }
    recorder.refuse(id(&messages[0]), u32::MAX);
    let running = Running::start(relay(&table, &recorder, Duration::from_secs(10), "relay")?);
    let (patience, free) = (bench.settings.patience, if unit == OrderUnit::TopicAndKey { 3 } else { 1 });
    let mut sent = recorder.until(free, patience).await;
    time::sleep(bench.settings.quiet).await;
    let before = history.check().deliveries;
    recorder.refuse(id(&messages[0]), 0);
    if sent.is_ok() {
        sent = recorder.until(messages.len(), patience).await;
    }
    running.leaves(bench).await?;
    sent?;
    ensure_eq("what was sent while the first of its key was refused", before, free)?;
    let verdict = history.check();
    ensure(verdict.is_clean(), || verdict.to_string())?;
    nothing_left(&table).await
}
