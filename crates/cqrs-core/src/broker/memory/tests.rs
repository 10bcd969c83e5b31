//! What the conformance suite of `cqrs-testing` does not ask of every broker.

use std::error::Error as StdError;
use std::time::Duration;

use chrono::{TimeZone, Utc};
use futures_util::FutureExt;
use tokio::time::timeout;

use super::*;
use crate::broker::{Acknowledged, Delivery, DeliveryTag, StartFrom};
use crate::event::EventKind;
use crate::message::Headers;

type Tested = Result<(), Box<dyn StdError>>;

const TOPIC: &str = "rooms";

fn text(payload: &'static str) -> Message {
    Message::new(TOPIC, payload)
}

fn keyed(key: &'static str, payload: &'static str) -> Message {
    let mut message = text(payload);
    message.key = Some(key.into());
    message
}

fn group(name: &str) -> SubscribeOptions {
    SubscribeOptions::new(name, [TOPIC])
}

/// The next delivery, which must be there already.
fn now(subscription: &mut Box<dyn Subscription>) -> Delivery {
    let next = subscription.next().now_or_never().expect("a message is ready");
    next.expect("the broker is there").expect("the subscription is open")
}

fn nothing(subscription: &mut Box<dyn Subscription>) -> bool {
    subscription.next().now_or_never().is_none()
}

fn payload(delivery: &Delivery) -> &str {
    std::str::from_utf8(delivery.message().payload.as_deref().unwrap_or_default()).unwrap()
}

fn class(outcome: Result<impl Sized, BrokerError>) -> ErrorClass {
    outcome.err().expect("an error").class()
}

fn kept(broker: &MemoryBroker) -> usize {
    broker.shared.lock().kept()
}

#[tokio::test]
async fn carries_what_a_wire_carries() -> Tested {
    let broker = MemoryBroker::new();
    let mut subscription = broker.subscribe(group("a")).await?;
    let mut message = keyed("5", "{}");
    message.id = Some("1".into());
    message.name = "room_closed".into();
    message.kind = Some(EventKind::Ecst);
    message.version = Some(2);
    message.content_type = Some("application/json".into());
    message.headers = Headers::from_iter([("x", "1"), ("x", "2")]);
    message.timestamp = Some(Utc.with_ymd_and_hms(2026, 11, 3, 0, 0, 0).unwrap());
    broker.publish(message.clone()).await?;

    let mut expected = keyed("5", "{}");
    expected.headers = message.headers;
    expected.timestamp = message.timestamp;
    assert_eq!(*now(&mut subscription).message(), expected);
    Ok(())
}

#[tokio::test]
async fn a_key_has_one_delivery_at_a_time_and_its_own_order() -> Tested {
    let broker = MemoryBroker::new();
    let mut first = broker.subscribe(group("a")).await?;
    let mut second = broker.subscribe(group("a")).await?;
    for message in [keyed("k", "k1"), keyed("k", "k2"), keyed("l", "l1"), text("-")] {
        broker.publish(message).await?;
    }

    let k1 = now(&mut first);
    let (l1, free) = (now(&mut second), now(&mut second));
    assert_eq!([payload(&k1), payload(&l1), payload(&free)], ["k1", "l1", "-"]);
    assert!(nothing(&mut first) && nothing(&mut second), "k2 waits for k1");

    k1.release();
    let again = now(&mut second);
    assert_eq!((payload(&again), again.attempt()), ("k1", 2));
    assert_eq!(again.ack().await?, Acknowledged::Done);
    assert_eq!(payload(&now(&mut first)), "k2");
    Ok(())
}

/// On a paused clock: what is not woken fails at once.
const SOON: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_member_that_waits_is_woken() -> Tested {
    let broker = MemoryBroker::new();
    let mut subscription = broker.subscribe(group("a").with_prefetch(1)).await?;
    let publish = async {
        tokio::task::yield_now().await;
        broker.publish(keyed("k", "1")).await
    };
    let (delivery, published) = tokio::join!(timeout(SOON, subscription.next()), publish);
    published?;
    let delivery = delivery??.ok_or("closed")?;

    broker.publish(text("2")).await?;
    let ack = async {
        tokio::task::yield_now().await;
        delivery.ack().await
    };
    let (next, acknowledged) = tokio::join!(timeout(SOON, subscription.next()), ack);
    assert_eq!(acknowledged?, Acknowledged::Done);
    assert_eq!(payload(&next??.ok_or("closed")?), "2", "an acknowledgement makes room in the prefetch");
    Ok(())
}

#[tokio::test]
async fn topics_take_turns() -> Tested {
    let broker = MemoryBroker::new();
    let mut subscription = broker.subscribe(SubscribeOptions::new("a", ["x", "y", "x"])).await?;
    for topic in ["x", "x", "y", "y"] {
        broker.publish(Message::new(topic, "")).await?;
    }
    let mut topics = Vec::new();
    for _ in 0..4 {
        let delivery = now(&mut subscription);
        topics.push(delivery.message().topic.clone());
        delivery.ack().await?;
    }
    assert_eq!(topics, ["x", "y", "x", "y"]);
    Ok(())
}

#[tokio::test]
async fn a_topic_keeps_what_some_group_has_not_acknowledged() -> Tested {
    let broker = MemoryBroker::new();
    broker.publish(text("1")).await?;
    let _late = broker.subscribe(group("late").with_start_from(StartFrom::Latest)).await?;
    assert_eq!(kept(&broker), 1, "a group that did not ask for it leaves it to others");

    let mut a = broker.subscribe(group("a")).await?;
    let mut b = broker.subscribe(group("b")).await?;
    now(&mut a).ack().await?;
    assert_eq!(kept(&broker), 1);
    drop(b);
    assert_eq!(kept(&broker), 1, "a group without members is still known");
    b = broker.subscribe(group("b").with_start_from(StartFrom::Latest)).await?;
    now(&mut b).ack().await?;
    assert_eq!(kept(&broker), 0);
    let mut c = broker.subscribe(group("c")).await?;
    assert!(nothing(&mut c));
    Ok(())
}

#[tokio::test]
async fn latest_begins_with_what_comes() -> Tested {
    let broker = MemoryBroker::new();
    broker.publish(text("before")).await?;
    let mut subscription = broker.subscribe(group("a").with_start_from(StartFrom::Latest)).await?;
    broker.publish(text("after")).await?;
    assert_eq!(payload(&now(&mut subscription)), "after");
    Ok(())
}

#[tokio::test]
async fn a_subscription_that_ends_leaves_nothing_behind() -> Tested {
    let broker = MemoryBroker::new();
    let mut first = broker.subscribe(group("a")).await?;
    let mut second = broker.subscribe(group("a")).await?;
    broker.publish(keyed("k", "1")).await?;
    let old = now(&mut first);
    first.close().await?;
    assert!(old.lost().is_cancelled());

    let new = now(&mut second);
    assert_eq!(new.attempt(), 2);
    assert_ne!(new.tag().epoch, old.tag().epoch);
    assert_eq!(old.ack().await?, Acknowledged::Stale);
    assert!(!new.lost().is_cancelled());
    assert_eq!(new.ack().await?, Acknowledged::Done);
    assert_eq!(kept(&broker), 0);
    Ok(())
}

#[tokio::test]
async fn a_tag_is_good_once() -> Tested {
    let broker = MemoryBroker::new();
    let mut subscription = broker.subscribe(group("a")).await?;
    broker.publish(text("1")).await?;
    let tag: DeliveryTag = {
        let delivery = now(&mut subscription);
        delivery.tag()
    };
    let again = now(&mut subscription);
    let adapter: &dyn crate::broker::Acknowledge = &*broker.shared;
    assert_eq!(adapter.ack(tag).await?, Acknowledged::Stale, "it was released and delivered again");
    adapter.release(tag);
    assert!(nothing(&mut subscription));
    assert_eq!(again.ack().await?, Acknowledged::Done);
    Ok(())
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_by_name_of_the_limit() -> Tested {
    let broker = MemoryBroker::builder().max_message_bytes(5).build();
    broker.publish(keyed("k", "1234")).await?;
    let error = broker.publish(keyed("k", "12345")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Event);
    assert!(error.to_string().contains("6 bytes, and the limit of the in-memory broker is 5"), "{error}");
    assert_eq!(kept(&broker), 1);
    Ok(())
}

#[tokio::test]
async fn what_names_no_topic_or_no_group_is_refused_by_name_of_what_it_lacks() -> Tested {
    let broker = MemoryBroker::new();
    let refused = broker.enqueue(&Message::new("", "x")).await.unwrap_err();
    assert_eq!(refused.to_string(), "the message has no topic: give it the name of one (destination)");
    assert_eq!(
        class(broker.publish_session()?.enqueue(&Message::new("", "x"), None)),
        ErrorClass::Destination
    );

    let complaint = async |options: SubscribeOptions| match broker.subscribe(options).await {
        Ok(_) => panic!("it was subscribed"),
        Err(error) => (error.class(), error.message().to_owned()),
    };
    let none: [&str; 0] = [];
    assert_eq!(
        complaint(SubscribeOptions::new("projector", ["rooms", ""])).await,
        (
            ErrorClass::Destination,
            "the subscription of the group `projector` is not one: one of its topics has no name: write the topic of the events that \
             it is to receive, or leave it out (`SubscribeOptions`)"
                .to_owned()
        )
    );
    assert_eq!(
        complaint(SubscribeOptions::new("", none).with_prefetch(0)).await,
        (
            ErrorClass::Fatal,
            "the subscription is not one: its group has no name: give it that of the service; it has no topic: name at least one; its \
             prefetch is 0, and no message would be delivered: raise `with_prefetch` to 1 at least (`SubscribeOptions`)"
                .to_owned()
        )
    );
    // Nothing was joined on the way: what is published waits for the first group.
    broker.publish(text("x")).await?;
    let mut subscription = broker.subscribe(group("projector")).await?;
    now(&mut subscription).ack().await?;
    Ok(())
}

#[tokio::test]
async fn an_undeclared_topic_is_refused() -> Tested {
    let broker = MemoryBroker::builder().declared_topics_only(["others"]).build();
    let error = broker.publish(text("1")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Destination);
    assert!(error.to_string().contains("`rooms` is not declared"), "{error}");
    assert_eq!(class(broker.subscribe(group("a")).await), ErrorClass::Destination);
    broker.publish(Message::new("others", "")).await?;
    assert_eq!(kept(&broker), 1);
    Ok(())
}

#[tokio::test]
async fn publishing_waits_for_room() -> Tested {
    let broker = MemoryBroker::builder().capacity(2).build();
    let mut subscription = broker.subscribe(group("a")).await?;
    broker.publish(text("1")).await?;
    broker.publish(text("2")).await?;
    assert!(broker.publish(text("dropped")).now_or_never().is_none());

    let mut third = broker.publish(text("3"));
    assert!((&mut third).now_or_never().is_none());
    now(&mut subscription).ack().await?;
    third.now_or_never().expect("there is room")?;
    assert_eq!(kept(&broker), 2);

    let mut waiting = broker.publish(text("4"));
    assert!((&mut waiting).now_or_never().is_none());
    broker.faults().go_down();
    assert_eq!(class(waiting.now_or_never().expect("an answer")), ErrorClass::Outage);
    Ok(())
}

#[tokio::test]
async fn close_ends_what_waits() -> Tested {
    let broker = MemoryBroker::builder().capacity(1).build();
    let other = broker.connect();
    let mut subscription = broker.subscribe(group("a")).await?;
    broker.publish(text("1")).await?;
    let delivery = now(&mut subscription);
    let mut publish = broker.publish(text("2"));
    assert!((&mut publish).now_or_never().is_none());
    let mut next = subscription.next();
    assert!((&mut next).now_or_never().is_none());

    broker.clone().close().await?;
    assert!(next.now_or_never().expect("an answer")?.is_none());
    assert_eq!(class(publish.now_or_never().expect("an answer")), ErrorClass::Outage);
    assert_eq!(class(broker.check().await), ErrorClass::Outage);
    assert_eq!(class(broker.subscribe(group("a")).await), ErrorClass::Outage);
    assert!(delivery.lost().is_cancelled());
    assert_eq!(delivery.ack().await?, Acknowledged::Stale);
    broker.close().await?;

    other.check().await?;
    let mut subscription = other.subscribe(group("a")).await?;
    assert_eq!(now(&mut subscription).attempt(), 2);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn close_wakes_a_subscription_to_which_nothing_comes() -> Tested {
    let broker = MemoryBroker::new();
    let mut subscription = broker.subscribe(group("a")).await?;
    let close = async {
        tokio::task::yield_now().await;
        broker.close().await
    };
    let (next, closed) = tokio::join!(timeout(SOON, subscription.next()), close);
    closed?;
    assert!(next??.is_none());
    Ok(())
}

#[tokio::test]
async fn confirms_after_handling_wait_for_every_group() -> Tested {
    let broker = MemoryBroker::builder().confirm_after_handling().build();
    let mut confirm = broker.enqueue(&text("1")).await?;
    assert!((&mut confirm).now_or_never().is_none(), "no group is there yet");
    let mut latest = broker.subscribe(group("latest").with_start_from(StartFrom::Latest)).await?;
    assert!((&mut confirm).now_or_never().is_none(), "this group will not handle it");

    let mut a = broker.subscribe(group("a")).await?;
    let mut b = broker.subscribe(group("b")).await?;
    drop(now(&mut a));
    now(&mut a).ack().await?;
    assert!((&mut confirm).now_or_never().is_none(), "b has still to handle it");
    drop(b);
    b = broker.subscribe(group("b")).await?;
    assert!((&mut confirm).now_or_never().is_none(), "b has still to handle it, also from a new connection");
    now(&mut b).ack().await?;
    assert_eq!(confirm.now_or_never().expect("confirmed")?.offset, Some(0));
    assert!(nothing(&mut latest));
    Ok(())
}

#[tokio::test]
async fn without_it_a_confirm_does_not_wait() -> Tested {
    let broker = MemoryBroker::new();
    let receipt = broker.publish(text("1")).now_or_never().expect("confirmed")?;
    assert_eq!((receipt.partition, receipt.offset), (Some(0), Some(0)));
    Ok(())
}

#[tokio::test]
async fn close_reports_what_was_not_confirmed() -> Tested {
    let broker = MemoryBroker::builder().confirm_after_handling().build();
    let other = broker.connect();
    let confirm = broker.enqueue(&text("1")).await?;
    drop(broker.enqueue(&text("2")).await?);
    let mut others = other.enqueue(&text("3")).await?;

    let error = broker.close().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unknown);
    assert!(error.to_string().contains("unconfirmed messages: 1"), "nobody waits for the second: {error}");
    assert_eq!(class(confirm.await), ErrorClass::Unknown);
    assert!((&mut others).now_or_never().is_none());
    Ok(())
}

#[tokio::test]
async fn faults_of_publishing() -> Tested {
    let broker = MemoryBroker::new();
    let faults = broker.faults();

    faults.fail_next(2, ErrorClass::Event);
    assert_eq!(class(broker.enqueue(&text("1")).await?.await), ErrorClass::Event);
    assert_eq!(class(broker.connect().publish(text("2")).await), ErrorClass::Event);
    broker.publish(text("3")).await?;

    faults.fail_topic(TOPIC, ErrorClass::Destination);
    assert_eq!(class(broker.publish(text("4")).await), ErrorClass::Destination);
    broker.publish(Message::new("others", "")).await?;
    faults.heal_topic(TOPIC);
    broker.publish(text("5")).await?;
    assert_eq!(kept(&broker), 3, "what was refused is not stored");

    faults.lose_confirms(1);
    assert_eq!(class(broker.publish(text("6")).await), ErrorClass::Unknown);
    assert_eq!(kept(&broker), 4, "what was not confirmed is stored");
    broker.publish(text("7")).await?;
    Ok(())
}

#[tokio::test]
async fn held_confirms_come_when_released() -> Tested {
    for broker in [MemoryBroker::new(), MemoryBroker::builder().confirm_after_handling().build()] {
        let mut subscription = broker.subscribe(group("a")).await?;
        broker.faults().hold_confirms();
        let mut confirm = broker.enqueue(&text("1")).await?;
        now(&mut subscription).ack().await?;
        assert!((&mut confirm).now_or_never().is_none());
        broker.faults().release_confirms();
        confirm.now_or_never().expect("released")?;

        broker.faults().hold_confirms();
        let lost = broker.enqueue(&text("2")).await?;
        assert_eq!(class(broker.close().await), ErrorClass::Unknown);
        assert_eq!(class(lost.await), ErrorClass::Unknown);
    }
    Ok(())
}

#[tokio::test]
async fn an_outage_passes() -> Tested {
    let broker = MemoryBroker::new();
    let mut subscription = broker.subscribe(group("a")).await?;
    broker.publish(text("1")).await?;
    broker.publish(text("2")).await?;
    let delivery = now(&mut subscription);

    broker.faults().go_down();
    assert_eq!(class(broker.publish(text("3")).await), ErrorClass::Outage);
    assert_eq!(class(broker.check().await), ErrorClass::Outage);
    assert_eq!(class(broker.subscribe(group("b")).await), ErrorClass::Outage);
    assert_eq!(class(delivery.ack().await), ErrorClass::Outage);
    let mut next = subscription.next();
    assert!((&mut next).now_or_never().is_none());

    broker.faults().come_back();
    let delivery = next.now_or_never().expect("a message")?.ok_or("closed")?;
    assert_eq!((payload(&delivery), delivery.attempt()), ("1", 2), "it was not acknowledged");
    broker.check().await?;
    broker.publish(text("3")).await?;
    Ok(())
}

#[tokio::test]
async fn every_nth_acknowledged_message_comes_twice() -> Tested {
    let broker = MemoryBroker::new();
    broker.faults().duplicate_every(2);
    let mut a = broker.subscribe(group("a")).await?;
    for message in [keyed("k", "1"), keyed("k", "2"), keyed("k", "3"), keyed("k", "4")] {
        broker.publish(message).await?;
    }
    let mut seen = Vec::new();
    for _ in 0..6 {
        let delivery = now(&mut a);
        seen.push((payload(&delivery).to_owned(), delivery.attempt()));
        assert_eq!(delivery.ack().await?, Acknowledged::Done);
    }
    let expected = [("1", 1), ("2", 1), ("2", 2), ("3", 1), ("4", 1), ("4", 2)];
    assert_eq!(seen, expected.map(|(payload, attempt)| (payload.to_owned(), attempt)));
    assert!(nothing(&mut a));
    assert_eq!(kept(&broker), 0);
    Ok(())
}

#[tokio::test]
async fn a_disconnect_makes_deliveries_stale_and_subscriptions_go_on() -> Tested {
    let broker = MemoryBroker::new();
    let mut subscription = broker.subscribe(group("a").with_prefetch(1)).await?;
    broker.publish(keyed("k", "1")).await?;
    broker.publish(keyed("k", "2")).await?;
    let old = now(&mut subscription);
    broker.faults().disconnect();
    assert!(old.lost().is_cancelled());

    let new = now(&mut subscription);
    assert_eq!((payload(&new), new.attempt()), ("1", 2));
    assert_ne!(new.tag().epoch, old.tag().epoch);
    assert_eq!(old.ack().await?, Acknowledged::Stale);
    assert!(nothing(&mut subscription), "the stale acknowledgement made no room");
    assert!(!new.lost().is_cancelled());
    assert_eq!(new.ack().await?, Acknowledged::Done);
    assert_eq!(payload(&now(&mut subscription)), "2");
    Ok(())
}

#[tokio::test]
async fn a_loop_over_messages_lets_other_tasks_run() -> Tested {
    let broker = MemoryBroker::new();
    let mut subscription = broker.subscribe(group("a")).await?;
    broker.publish(text("1")).await?;
    let busy = tokio::spawn(async move {
        for _ in 0..100_000 {
            match subscription.next().await {
                Ok(Some(delivery)) => delivery.release(),
                _ => return true,
            }
        }
        false
    });
    tokio::task::yield_now().await;
    broker.close().await?;
    assert!(busy.await?, "it ran to its end before anyone else did");
    Ok(())
}
