//! Closing, opening again, and restarts.

use std::sync::Arc;

use bytes::Bytes;
use cqrs_core::broker::{Acknowledged, Delivery, Subscription};
use cqrs_core::{ErrorClass, Message, MessageBroker};
use futures_util::{TryStreamExt, stream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time;

use crate::broker::bench::{AGAIN, Bench, Checked, Stop, bounded, ensure, fail, publish, skip};
use crate::broker::stream::{Arrivals, Consumers, Counts, Sent, id_of, joined};
use crate::history::History;

pub(super) async fn reopen(bench: &Bench<'_>) -> Checked {
    const HALF: usize = 5;
    let broker = bench.open().await?;
    let topic = bench.topic("t").await?;
    let mut subscription = bench.subscribe(&broker, "g", &topic).await?;
    let sent = Sent::many(2 * HALF);
    // Without keys, so that none waits for another.
    let messages = sent.iter().map(|sent| Message::new(&topic, sent.id.to_string())).collect();
    bench.publish(&broker, messages).await?;
    let mut held = Vec::new();
    let mut acknowledged = Vec::new();
    for number in 0..sent.len() {
        let delivery = bench.next(&mut subscription, "a message").await?;
        if number < HALF {
            acknowledged.push(id_of(&delivery)?);
            bench.ack_done(delivery).await?;
        } else {
            held.push(delivery);
        }
    }
    subscription.close().await?;
    broker.close().await?;
    drop(held);

    let broker = bench.open().await?;
    let arrivals = Arrivals::new();
    let mut consumers = Consumers::new(Counts::OnArrival, &arrivals);
    consumers.add(bench.subscribe(&broker, "g", &topic).await?);
    arrivals.until(HALF, bench.settings.arrival).await;
    arrivals.until_quiet(bench.settings.quiet).await;
    consumers.stop().await?;
    broker.close().await?;
    let unacknowledged: Vec<_> = sent.into_iter().filter(|sent| !acknowledged.contains(&sent.id)).collect();
    arrivals.ensure_clean(&unacknowledged)
}

/// Publishes in the background, a few messages at a time.
fn publish_slowly(
    bench: &Bench<'_>,
    broker: Arc<dyn MessageBroker>,
    topic: &str,
    sent: &[Sent],
) -> JoinSet<Checked> {
    let patience = bench.settings.arrival;
    let messages: Vec<Message> = sent.iter().map(|sent| sent.message(topic)).collect();
    let mut publisher = JoinSet::new();
    publisher.spawn(async move {
        for few in messages.chunks(10) {
            publish(&broker, few.to_vec(), patience).await?;
            tokio::task::yield_now().await;
        }
        Ok(broker.close().await?)
    });
    publisher
}

async fn finished(mut tasks: JoinSet<Checked>) -> Checked {
    while let Some(ended) = tasks.join_next().await {
        joined(ended)?;
    }
    Ok(())
}

pub(super) async fn reopen_mid_stream(bench: &Bench<'_>) -> Checked {
    const TIMES: usize = 5;
    const HELD: usize = 3;
    let topic = bench.topic("t").await?;
    let sent = Sent::many((bench.settings.messages / 5).max(10 * TIMES));
    let arrivals = Arrivals::new();
    // The group is known before anything is published: not every broker keeps messages for those who come.
    let broker = bench.open().await?;
    bench.subscribe(&broker, "g", &topic).await?.close().await?;
    broker.close().await?;
    let publisher = publish_slowly(bench, bench.open().await?, &topic, &sent);

    for time in 0..TIMES {
        let broker = bench.open().await?;
        let mut subscription = bench.subscribe(&broker, "g", &topic).await?;
        for _ in 0..sent.len() / (2 * TIMES) {
            let delivery = bench.next(&mut subscription, "a message of the stream").await?;
            acknowledge(bench, delivery, &arrivals).await?;
        }
        let held = hold(bench, &mut subscription, HELD).await?;
        // The order in which things end is the user's choice.
        if time % 2 == 0 {
            subscription.close().await?;
            broker.close().await?;
            drop(held);
        } else {
            drop(held);
            broker.close().await?;
            drop(subscription);
        }
    }

    let broker = bench.open().await?;
    let mut consumers = Consumers::new(Counts::OnAcknowledgement, &arrivals);
    consumers.add(bench.subscribe(&broker, "g", &topic).await?);
    finished(publisher).await?;
    arrivals.until(sent.len(), bench.settings.arrival).await;
    consumers.stop().await?;
    broker.close().await?;
    arrivals.ensure_clean(&sent)
}

async fn acknowledge(bench: &Bench<'_>, delivery: Delivery, arrivals: &Arrivals) -> Checked {
    let id = id_of(&delivery)?;
    if bench.ack(delivery).await? == Acknowledged::Done {
        arrivals.add(id);
    }
    Ok(())
}

/// Takes up to so many messages, as far as there are any now.
async fn hold(
    bench: &Bench<'_>,
    subscription: &mut Box<dyn Subscription>,
    count: usize,
) -> Checked<Vec<Delivery>> {
    let mut held = Vec::new();
    while held.len() < count {
        match bench.next_within(subscription, bench.settings.quiet).await? {
            Some(delivery) => held.push(delivery),
            None => break,
        }
    }
    Ok(held)
}

pub(super) async fn consumers_closing(bench: &Bench<'_>) -> Checked {
    const CONSUMERS: usize = 10;
    let (publishing, consuming) = (bench.open().await?, bench.open().await?);
    let topic = bench.topic("t").await?;
    let sent = Sent::many((bench.settings.messages / 5).max(10 * CONSUMERS));
    let arrivals = Arrivals::new();
    let mut subscriptions = Vec::new();
    for _ in 0..CONSUMERS {
        subscriptions.push(bench.subscribe(&consuming, "g", &topic).await?);
    }
    // Half of it is there before they begin, so that every one of them has something at hand when it closes.
    let (before, meanwhile) = sent.split_at(sent.len() / 2);
    bench.publish(&publishing, Sent::messages(before, &topic)).await?;
    let publisher = publish_slowly(bench, publishing, &topic, meanwhile);
    let mut consumers = Consumers::new(Counts::OnAcknowledgement, &arrivals);
    subscriptions.into_iter().for_each(|subscription| consumers.add(subscription));
    arrivals.until(sent.len() / 3, bench.settings.arrival).await;
    bench.bounded("closing ten consumers at once", consumers.stop()).await??;

    let mut rest = Consumers::new(Counts::OnAcknowledgement, &arrivals);
    rest.add(bench.subscribe(&consuming, "g", &topic).await?);
    finished(publisher).await?;
    arrivals.until(sent.len(), bench.settings.arrival).await;
    rest.stop().await?;
    consuming.close().await?;
    arrivals.ensure_clean(&sent)
}

pub(super) async fn publisher_closed(bench: &Bench<'_>) -> Checked {
    const PUBLISHERS: usize = 10;
    const BEFORE: usize = 200;
    let (publishing, consuming) = (bench.open().await?, bench.open().await?);
    let topic = bench.topic("t").await?;
    let arrivals = Arrivals::new();
    let mut consumers = Consumers::new(Counts::OnArrival, &arrivals);
    consumers.add(bench.subscribe(&consuming, "g", &topic).await?);

    let history = History::new();
    let confirmed = watch::Sender::new(0_usize);
    let mut publishers = JoinSet::new();
    for _ in 0..PUBLISHERS {
        publishers.spawn(publish_until_error(
            Arc::clone(&publishing),
            topic.clone(),
            history.clone(),
            confirmed.clone(),
            bench.settings.arrival,
        ));
    }
    let mut enough = confirmed.subscribe();
    bench
        .bounded("publishing", enough.wait_for(|count| *count >= BEFORE))
        .await?
        .map_err(|_| Stop::Failed("the publishers ended before anything was closed".to_owned()))?;
    // What cannot be confirmed any more is reported here as well; the publishers' own errors are what counts.
    let _ = bench.bounded("closing a publisher", publishing.close()).await?;
    finished(publishers).await?;

    let count = *confirmed.borrow();
    arrivals.until(count, bench.settings.arrival).await;
    arrivals.until_quiet(bench.settings.quiet).await;
    consumers.stop().await?;
    consuming.close().await?;
    arrivals.record_in(&history, |_| None);
    let verdict = history.check();
    ensure(verdict.is_clean(), || {
        format!(
            "lost are those that were confirmed, ghosts those whose error says that they were not sent: {verdict}"
        )
    })
}

/// Publishes until that fails, as it does soon after the connection was closed.
async fn publish_until_error(
    broker: Arc<dyn MessageBroker>,
    topic: String,
    history: History,
    confirmed: watch::Sender<usize>,
    patience: std::time::Duration,
) -> Checked {
    /// More than any client can have under way.
    const MANY: usize = 20_000;
    const NO_KEY: Option<Bytes> = None;
    for _ in 0..MANY {
        let Sent { id, .. } = Sent::new();
        let message = Message::new(&topic, id.to_string());
        let outcome =
            bounded("publishing on a connection that is being closed", patience, broker.publish(message))
                .await?;
        match outcome.map_err(|error| error.class()) {
            Ok(_) => {
                history.committed(NO_KEY, id, 0);
                confirmed.send_modify(|count| *count += 1);
            }
            Err(class) => {
                match class {
                    ErrorClass::Event | ErrorClass::Destination | ErrorClass::Outage => {
                        history.rolled_back(id)
                    }
                    _ => history.perhaps_committed(NO_KEY, id, 0),
                }
                return Ok(());
            }
        }
        tokio::task::yield_now().await;
    }
    fail("a connection that was closed goes on to say Ok")
}

pub(super) async fn closed(bench: &Bench<'_>) -> Checked {
    let broker = bench.open().await?;
    let topic = bench.topic("t").await?;
    let mut subscription = bench.subscribe(&broker, "g", &topic).await?;
    bench.publish(&broker, vec![Sent::new().message(&topic)]).await?;
    let delivery = bench.next(&mut subscription, "a message").await?;
    bench.ack_done(delivery).await?;
    bench.bounded("a check", broker.check()).await??;
    // One subscription waits for a message while the connection is closed, the other asks for one afterwards.
    let mut waiting = bench.subscribe(&broker, "waiting", &bench.topic("idle").await?).await?;
    let close = async {
        tokio::task::yield_now().await;
        broker.close().await
    };
    let (next, closed) = tokio::join!(bench.bounded("`next` while it is closed", waiting.next()), close);
    closed?;
    ensure(!matches!(next?, Ok(Some(_))), || "a message was delivered that nobody sent".to_owned())?;

    let published =
        bench.bounded("publishing after the close", broker.publish(Sent::new().message(&topic))).await?;
    ensure(published.is_err(), || "publishing after the close said Ok".to_owned())?;
    let checked = bench.bounded("a check after the close", broker.check()).await?;
    ensure(checked.is_err(), || "`check` said Ok after the close".to_owned())?;
    let next = bench.bounded("`next` after the close", subscription.next()).await?;
    ensure(!matches!(next, Ok(Some(_))), || "a message was delivered after the close".to_owned())
}

pub(super) async fn restart(bench: &Bench<'_>) -> Checked {
    if !bench.capabilities().await?.durable {
        return skip("messages do not survive a restart of this broker (`Capabilities::durable`)");
    }
    let (publishing, consuming) = (bench.open().await?, bench.open().await?);
    let topic = bench.topic("t").await?;
    let sent = Sent::many(bench.settings.messages.max(30));
    let arrivals = Arrivals::new();
    let mut consumers = Consumers::new(Counts::OnAcknowledgement, &arrivals);
    consumers.add(bench.subscribe(&consuming, "g", &topic).await?);

    let (third, half) = (sent.len() / 3, sent.len() / 2);
    for (number, part) in [&sent[..third], &sent[third..half], &sent[half..]].into_iter().enumerate() {
        if number > 0 && !bench.adapter.restart().await? {
            return skip("the adapter cannot restart its broker (`BrokerUnderTest::restart`)");
        }
        publish_with_patience(&publishing, Sent::messages(part, &topic)).await?;
    }
    arrivals.until(sent.len(), bench.settings.arrival).await;
    // A broker that was away may have given a member up before it came back. Its last acknowledgements are lost then,
    // and it has to say so; that is no loss of messages: they come again.
    consumers.stop_where(|error| error.class().is_retryable()).await?;
    publishing.close().await?;
    consuming.close().await?;
    arrivals.ensure_clean(&sent)
}

/// Publishes as an outbox does: again, until it is confirmed. The row's own time is the bound.
async fn publish_with_patience(broker: &Arc<dyn MessageBroker>, messages: Vec<Message>) -> Checked {
    const AT_ONCE: usize = 50;
    stream::iter(messages.into_iter().map(Ok))
        .try_for_each_concurrent(AT_ONCE, |message| async move {
            while let Err(error) = broker.publish(message.clone()).await {
                if !error.class().is_retryable() {
                    return Err(error.into());
                }
                time::sleep(AGAIN).await;
            }
            Ok(())
        })
        .await
}
