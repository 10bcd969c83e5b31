//! Acknowledging, releasing, and coming again.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use cqrs_core::Message;
use cqrs_core::broker::{Acknowledged, SubscribeOptions};
use tokio::time::{self, Instant};

use crate::broker::bench::{Bench, Checked, ensure, fail, shown, skip, text};
use crate::broker::stream::{Arrivals, Sent, id_of};

fn keyed(topic: &str, payload: &'static str) -> Message {
    let mut message = Message::new(topic, payload);
    message.key = Some(Bytes::from_static(b"key"));
    message
}

pub(super) async fn release(bench: &Bench<'_>) -> Checked {
    let broker = bench.open().await?;
    let ordered = broker.capabilities().orders_by_key;
    let topic = bench.topic("t").await?;
    let mut subscription = bench.subscribe(&broker, "g", &topic).await?;
    bench.publish(&broker, vec![keyed(&topic, "first"), keyed(&topic, "second")]).await?;

    let first = bench.next(&mut subscription, "the first message").await?;
    let released = text(&first);
    first.release();
    loop {
        let delivery = bench.next(&mut subscription, "the message that was released").await?;
        let came = text(&delivery);
        bench.ack_done(delivery).await?;
        if came == released {
            break;
        }
        ensure(!ordered, || format!("`{came}` came before `{released}`, which had been released"))?;
    }
    subscription.close().await?;
    broker.close().await?;
    Ok(())
}

pub(super) async fn attempts(bench: &Bench<'_>) -> Checked {
    let broker = bench.open().await?;
    if !broker.capabilities().counts_attempts {
        return skip("this broker does not count attempts (`Capabilities::counts_attempts`)");
    }
    let topic = bench.topic("t").await?;
    let mut subscription = bench.subscribe(&broker, "g", &topic).await?;
    bench.publish(&broker, vec![keyed(&topic, "message")]).await?;
    for expected in 1..=3 {
        let delivery = bench.next(&mut subscription, "the message").await?;
        ensure(delivery.attempt() == expected, || {
            format!("delivery {expected} of the message has attempt {}", delivery.attempt())
        })?;
        if expected == 3 { bench.ack_done(delivery).await? } else { delivery.release() }
    }
    subscription.close().await?;
    broker.close().await?;
    Ok(())
}

pub(super) async fn acknowledged(bench: &Bench<'_>) -> Checked {
    let broker = bench.open().await?;
    let topic = bench.topic("t").await?;
    let mut subscription = bench.subscribe(&broker, "g", &topic).await?;
    bench.publish(&broker, vec![keyed(&topic, "message")]).await?;
    let delivery = bench.next(&mut subscription, "the message").await?;
    bench.ack_done(delivery).await?;
    bench.nothing(&mut subscription, "a message that had been acknowledged").await?;
    subscription.close().await?;

    let mut subscription = bench.subscribe(&broker, "g", &topic).await?;
    bench.nothing(&mut subscription, "after joining again, a message that had been acknowledged").await?;
    subscription.close().await?;
    broker.close().await?;
    Ok(())
}

pub(super) async fn prefetch(bench: &Bench<'_>) -> Checked {
    const PREFETCH: usize = 3;
    let broker = bench.open().await?;
    let topic = bench.topic("t").await?;
    let options = SubscribeOptions::new(bench.name("g"), [&topic]).with_prefetch(PREFETCH);
    let mut subscription = broker.subscribe(options).await?;
    let sent = Sent::many(2 * PREFETCH);
    // Without keys, so that nothing but the prefetch holds them back.
    let messages = sent.iter().map(|sent| Message::new(&topic, sent.id.to_string())).collect();
    bench.publish(&broker, messages).await?;

    let mut held = Vec::new();
    while held.len() < PREFETCH {
        held.push(bench.next(&mut subscription, "a message within the prefetch").await?);
    }
    bench.nothing(&mut subscription, "more than the prefetch").await?;
    for delivery in held {
        bench.ack_done(delivery).await?;
    }
    for _ in PREFETCH..sent.len() {
        let delivery = bench.next(&mut subscription, "a message that there was room for again").await?;
        bench.ack_done(delivery).await?;
    }
    subscription.close().await?;
    broker.close().await?;
    Ok(())
}

pub(super) async fn stale_tag(bench: &Bench<'_>) -> Checked {
    let broker = bench.open().await?;
    let topic = bench.topic("t").await?;
    let mut subscription = bench.subscribe(&broker, "g", &topic).await?;
    bench.publish(&broker, vec![keyed(&topic, "message")]).await?;
    let old = bench.next(&mut subscription, "the message").await?;
    subscription.close().await?;

    let mut subscription = bench.subscribe(&broker, "g", &topic).await?;
    let new = bench.next(&mut subscription, "the message of a subscription that was closed").await?;
    let acknowledged = bench.ack(old).await?;
    ensure(acknowledged == Acknowledged::Stale, || {
        format!(
            "acknowledging a delivery of a subscription that was closed said {acknowledged:?} instead of Stale"
        )
    })?;
    drop(new);
    subscription.close().await?;

    let mut subscription = bench.subscribe(&broker, "g", &topic).await?;
    let delivery =
        bench.next(&mut subscription, "a message with nothing but a stale acknowledgement").await?;
    bench.ack_done(delivery).await?;
    subscription.close().await?;
    broker.close().await?;
    Ok(())
}

pub(super) async fn lost(bench: &Bench<'_>) -> Checked {
    let broker = bench.open().await?;
    let topic = bench.topic("t").await?;
    let mut subscription = bench.subscribe(&broker, "g", &topic).await?;
    bench.publish(&broker, vec![keyed(&topic, "message")]).await?;
    let delivery = bench.next(&mut subscription, "the message").await?;
    ensure(!delivery.lost().is_cancelled(), || {
        "a delivery was lost before anything had happened".to_owned()
    })?;
    subscription.close().await?;
    bench
        .bounded("`Delivery::lost`, after its subscription was closed,", delivery.lost().cancelled())
        .await?;
    broker.close().await?;
    Ok(())
}

pub(super) async fn cancelled_next(bench: &Bench<'_>) -> Checked {
    const PAUSE: Duration = Duration::from_millis(3);
    const PATIENCE: Duration = Duration::from_millis(1);
    let broker = bench.open().await?;
    let counts_attempts = broker.capabilities().counts_attempts;
    let topic = bench.topic("t").await?;
    let mut subscription = bench.subscribe(&broker, "g", &topic).await?;
    let sent = Sent::many(100);
    let publish = async {
        for sent in &sent {
            bench.publish(&broker, vec![sent.message(&topic)]).await?;
            time::sleep(PAUSE).await;
        }
        Ok(())
    };

    let arrivals = Arrivals::new();
    let consume = async {
        let mut last = Instant::now();
        let mut different = HashSet::new();
        while different.len() < sent.len() {
            match time::timeout(PATIENCE, subscription.next()).await {
                Err(_) if last.elapsed() > bench.settings.arrival => break,
                Err(_) => {}
                Ok(Err(error)) if error.class().is_retryable() => {}
                Ok(Err(error)) => return Err(error.into()),
                Ok(Ok(None)) => return fail("a subscription ended that nobody had closed"),
                Ok(Ok(Some(delivery))) => {
                    ensure(!counts_attempts || delivery.attempt() == 1, || {
                        format!("it had been taken before: {}", shown(&delivery))
                    })?;
                    let id = id_of(&delivery)?;
                    different.insert(id);
                    arrivals.add(id);
                    bench.ack_done(delivery).await?;
                    last = Instant::now();
                }
            }
        }
        Ok(())
    };
    tokio::try_join!(publish, consume)?;
    arrivals.ensure_clean(&sent)?;
    subscription.close().await?;
    broker.close().await?;
    Ok(())
}
