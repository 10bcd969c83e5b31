//! Several messages of a key under way: nothing overtakes what went before it, and nothing follows what was lost.

use std::sync::Arc;

use bytes::Bytes;
use cqrs_core::broker::{Confirm, PublishSession, Receipt, Subscription};
use cqrs_core::{Message, MessageBroker};
use futures_util::future;

use crate::broker::bench::{Bench, Checked, ensure, fail, skip, text};

const WITHOUT: &str = "this broker has no sessions (`Capabilities::publish_sessions`)";

fn message(topic: &str, key: &str, payload: impl Into<Bytes>) -> Message {
    let mut message = Message::new(topic, payload);
    message.key = Some(Bytes::copy_from_slice(key.as_bytes()));
    message
}

/// The first message of a key, which goes alone.
async fn first(
    bench: &Bench<'_>,
    session: &Arc<dyn PublishSession>,
    topic: &str,
    key: &str,
) -> Checked<Receipt> {
    let confirm = session.enqueue(&message(topic, key, "0"), None)?;
    Ok(bench.bounded("confirming the first message of a session", confirm).await??)
}

/// What arrives until nothing more does.
async fn arrived(
    bench: &Bench<'_>,
    subscription: &mut Box<dyn Subscription>,
    at_least: usize,
) -> Checked<Vec<(Bytes, String)>> {
    let mut arrived = Vec::new();
    loop {
        let delivery = if arrived.len() < at_least {
            bench.next(subscription, "a message of a session").await?
        } else {
            match bench.next_within(subscription, bench.settings.quiet).await? {
                Some(delivery) => delivery,
                None => return Ok(arrived),
            }
        };
        arrived.push((delivery.message().key.clone().unwrap_or_default(), text(&delivery)));
        bench.ack_done(delivery).await?;
    }
}

pub(super) async fn order(bench: &Bench<'_>) -> Checked {
    const KEYS: [&str; 3] = ["a", "b", "c"];
    let broker = bench.open().await?;
    if !broker.capabilities().publish_sessions {
        return skip(WITHOUT);
    }
    let each = (bench.settings.messages / 15).max(20);
    let topic = bench.topic("t").await?;
    let mut subscription = bench.subscribe(&broker, "g", &topic).await?;
    let session = broker.publish_session()?;
    let mut receipts = Vec::new();
    for key in KEYS {
        receipts.push(first(bench, &session, &topic, key).await?);
    }
    let mut confirms = Vec::new();
    for few in (1..each).collect::<Vec<_>>().chunks(5) {
        for (key, receipt) in KEYS.iter().zip(&receipts) {
            for number in few {
                let message = message(&topic, key, number.to_string());
                confirms.push(session.enqueue(&message, Some(receipt))?);
            }
        }
    }
    for outcome in bench.bounded("confirming", future::join_all(confirms)).await? {
        outcome?;
    }
    let arrived = arrived(bench, &mut subscription, KEYS.len() * each).await?;
    for key in KEYS {
        let of_key: Vec<_> = arrived.iter().filter(|(of, _)| of == key).map(|(_, number)| number).collect();
        let expected: Vec<_> = (0..each).map(|number| number.to_string()).collect();
        let same = of_key.iter().copied().eq(&expected);
        ensure(same, || format!("of the key `{key}` these arrived, in this order: {of_key:?}"))?;
    }
    subscription.close().await?;
    broker.close().await?;
    Ok(())
}

/// Enqueues as many as the session takes.
fn enqueue(
    session: &Arc<dyn PublishSession>,
    topic: &str,
    after: &Receipt,
    numbers: std::ops::Range<usize>,
) -> Vec<Confirm> {
    let messages = numbers.map(|number| message(topic, "a", number.to_string()));
    messages.filter_map(|message| session.enqueue(&message, Some(after)).ok()).collect()
}

/// The first ones, as far as they go, and then what came by the next session.
async fn ensure_no_gap(
    bench: &Bench<'_>,
    broker: &Arc<dyn MessageBroker>,
    subscription: &mut Box<dyn Subscription>,
    topic: &str,
    confirmed: usize,
) -> Checked {
    let next = broker.publish_session()?;
    let last = next.enqueue(&message(topic, "a", "last"), None)?;
    bench.bounded("confirming in the next session", last).await??;
    let arrived = arrived(bench, subscription, confirmed + 1).await?;
    let numbers: Vec<_> = arrived.iter().map(|(_, number)| number.as_str()).collect();
    let expected: Vec<_> = (0..numbers.len() - 1).map(|number| number.to_string()).collect();
    let without_gap = numbers.split_last().is_some_and(|(last, first)| *last == "last" && first == expected);
    ensure(without_gap && expected.len() >= confirmed, || {
        format!("with {confirmed} confirmed and the session over, these arrived: {numbers:?}")
    })
}

pub(super) async fn gap(bench: &Bench<'_>) -> Checked {
    let broker = bench.open().await?;
    if !broker.capabilities().publish_sessions {
        return skip(WITHOUT);
    }
    let Some(limit) = broker.capabilities().max_message_bytes else {
        return skip("this broker knows no limit that could be exceeded (`Capabilities::max_message_bytes`)");
    };
    let topic = bench.topic("t").await?;
    let mut subscription = bench.subscribe(&broker, "g", &topic).await?;
    let session = broker.publish_session()?;
    let receipt = first(bench, &session, &topic, "a").await?;
    let before = enqueue(&session, &topic, &receipt, 1..20);
    let large = session.enqueue(&message(&topic, "a", vec![b'x'; limit + 1]), Some(&receipt));
    let behind = enqueue(&session, &topic, &receipt, 21..40);
    let of_large = async {
        match large {
            Ok(confirm) => confirm.await,
            Err(error) => Err(error),
        }
    };
    if bench.bounded("refusing what is too large", of_large).await?.is_ok() {
        return fail("a message that is too large was Ok in a session");
    }
    let outcomes = bench.bounded("what was before it", future::join_all(before)).await?;
    let confirmed = 1 + outcomes.iter().take_while(|outcome| outcome.is_ok()).count();
    let behind = bench.bounded("what was behind it", future::join_all(behind)).await?;
    ensure(behind.iter().all(Result::is_err), || {
        "a message was Ok behind one that was refused in the same session".to_owned()
    })?;
    ensure_no_gap(bench, &broker, &mut subscription, &topic, confirmed).await?;
    subscription.close().await?;
    broker.close().await?;
    Ok(())
}

pub(super) async fn abort(bench: &Bench<'_>) -> Checked {
    let broker = bench.open().await?;
    if !broker.capabilities().publish_sessions {
        return skip(WITHOUT);
    }
    let topic = bench.topic("t").await?;
    let mut subscription = bench.subscribe(&broker, "g", &topic).await?;
    let session = broker.publish_session()?;
    let receipt = first(bench, &session, &topic, "a").await?;
    let confirms = enqueue(&session, &topic, &receipt, 1..200);
    session.abort();
    let taken = enqueue(&session, &topic, &receipt, 200..201);
    ensure(taken.is_empty(), || "a session took a message after it was aborted".to_owned())?;
    let outcomes =
        bench.bounded("what a session had when it was aborted", future::join_all(confirms)).await?;
    let confirmed = outcomes.iter().rposition(Result::is_ok).map_or(1, |last| last + 2);
    ensure_no_gap(bench, &broker, &mut subscription, &topic, confirmed).await?;
    subscription.close().await?;
    let session = broker.publish_session()?;
    broker.close().await?;
    ensure(session.enqueue(&message(&topic, "a", "late"), None).is_err(), || {
        "a session took a message after its broker was closed".to_owned()
    })?;
    ensure(broker.publish_session().is_err(), || "a closed broker opened a session".to_owned())
}
