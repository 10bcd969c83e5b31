//! Many messages at once.

use std::sync::Arc;

use bytes::Bytes;
use cqrs_core::{Message, MessageBroker};
use tokio::task::JoinSet;

use crate::broker::bench::{Bench, Checked, publish, skip};
use crate::broker::stream::{Arrivals, Consumers, Counts, Sent, joined};

/// Publishes each list from a task of its own.
async fn publish_at_once(
    bench: &Bench<'_>,
    broker: &Arc<dyn MessageBroker>,
    lists: impl IntoIterator<Item = Vec<Message>>,
) -> Checked {
    let patience = bench.settings.arrival;
    let mut publishers = JoinSet::new();
    for list in lists {
        let broker = Arc::clone(broker);
        publishers.spawn(async move { publish(&broker, list, patience).await });
    }
    while let Some(ended) = publishers.join_next().await {
        joined(ended)?;
    }
    Ok(())
}

pub(super) async fn many_to_many(bench: &Bench<'_>) -> Checked {
    let parties = bench.settings.parties.max(1);
    let (publishing, consuming) = (bench.open().await?, bench.open().await?);
    let topic = bench.topic("t").await?;
    let arrivals = Arrivals::new();
    let mut consumers = Consumers::new(Counts::OnArrival, &arrivals);
    for _ in 0..parties {
        consumers.add(bench.subscribe(&consuming, "g", &topic).await?);
    }

    let sent = Sent::many(bench.settings.messages);
    let lists = sent
        .chunks(sent.len().div_ceil(parties).max(1))
        .map(|chunk| chunk.iter().map(|sent| sent.message(&topic)).collect());
    publish_at_once(bench, &publishing, lists).await?;

    arrivals.until(sent.len(), bench.settings.arrival).await;
    consumers.stop().await?;
    publishing.close().await?;
    consuming.close().await?;
    arrivals.ensure_clean(&sent)
}

pub(super) async fn cross_talk(bench: &Bench<'_>) -> Checked {
    let broker = bench.open().await?;
    let mut topics = Vec::new();
    for number in 0..bench.settings.topics {
        let topic = bench.topic(&format!("t{number}")).await?;
        let arrivals = Arrivals::new();
        let mut consumers = Consumers::new(Counts::OnArrival, &arrivals);
        // One group for all: a member gets the topics that it asked for.
        consumers.add(bench.subscribe(&broker, "g", &topic).await?);
        topics.push((topic, arrivals, consumers, Sent::many(20)));
    }
    let lists = topics
        .iter()
        .map(|(topic, _, _, sent)| sent.iter().map(|sent| sent.message(topic)).collect())
        .collect::<Vec<_>>();
    publish_at_once(bench, &broker, lists).await?;
    for (_, arrivals, _, sent) in &topics {
        arrivals.until(sent.len(), bench.settings.arrival).await;
    }
    if let Some((_, arrivals, ..)) = topics.first() {
        arrivals.until_quiet(bench.settings.quiet).await;
    }
    for (_, arrivals, consumers, sent) in topics {
        consumers.stop().await?;
        arrivals.ensure_clean(&sent)?;
    }
    broker.close().await?;
    Ok(())
}

pub(super) async fn order_per_key(bench: &Bench<'_>) -> Checked {
    const PUBLISHERS: usize = 8;
    const KEYS: usize = 10;
    if !bench.capabilities().await?.orders_by_key {
        return skip("this broker has no order per key (`Capabilities::orders_by_key`)");
    }
    let (publishing, consuming) = (bench.open().await?, bench.open().await?);
    let topic = bench.topic("t").await?;
    let arrivals = Arrivals::new();
    let mut consumers = Consumers::new(Counts::OnArrival, &arrivals);
    for _ in 0..4 {
        consumers.add(bench.subscribe(&consuming, "g", &topic).await?);
    }

    // Every publisher writes to every key. Between two publishers nothing is promised; what one of them sent to a key has
    // to stay in order.
    let rounds = (bench.settings.messages / 5 / PUBLISHERS / KEYS).max(2);
    let mut sent = Vec::new();
    let mut lists = Vec::new();
    for publisher in 0..PUBLISHERS {
        let mut list = Vec::new();
        for round in 0..rounds {
            for key in 0..KEYS {
                let message = Sent::ordered(format!("key {key} of publisher {publisher}"), round as u64);
                list.push(message.message_with_key(&topic, Bytes::from(format!("key {key}"))));
                sent.push(message);
            }
        }
        lists.push(list);
    }
    publish_at_once(bench, &publishing, lists).await?;

    arrivals.until(sent.len(), bench.settings.arrival).await;
    consumers.stop().await?;
    publishing.close().await?;
    consuming.close().await?;
    arrivals.ensure_clean(&sent)
}
