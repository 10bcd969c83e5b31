//! With the broker in memory, which redelivers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cqrs_consumer::{Consumer, header};
use cqrs_core::broker::memory::MemoryBroker;
use cqrs_core::broker::{StartFrom, SubscribeOptions};
use cqrs_core::{Error, ErrorClass, MessageBroker};
use tokio::time::sleep;

use crate::support::{message, on, retry, run, until};

#[tokio::test(start_paused = true)]
async fn what_was_cancelled_is_delivered_again_to_the_next_run() {
    let (broker, attempts) = (MemoryBroker::new(), Arc::new(AtomicU32::new(0)));
    let seen = attempts.clone();
    let events = on(move |_| {
        let first = seen.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if first {
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    });
    let consumer = Consumer::builder(Arc::new(broker.clone()), "billing").events(events).build().unwrap();
    broker.publish(message(1, Some("a"))).await.unwrap();
    let running = run(&consumer);
    until(|| attempts.load(Ordering::SeqCst) == 1).await;
    running.stop().await.unwrap();
    assert_eq!(consumer.stats().handled, 0);

    let running = run(&consumer);
    until(|| consumer.stats().handled == 1).await;
    running.stop().await.unwrap();
    assert_eq!((attempts.load(Ordering::SeqCst), consumer.stats().received), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_waits_for_its_topic_to_come_back() {
    let broker = MemoryBroker::new();
    let events = on(|_| async { Err(Error::handler("bad")) });
    let consumer =
        Consumer::builder(Arc::new(broker.clone()), "billing").events(events).retry(retry()).build().unwrap();
    broker.faults().fail_topic("rooms.dead-letters", ErrorClass::Destination);
    broker.publish(message(1, Some("a"))).await.unwrap();
    let running = run(&consumer);
    sleep(Duration::from_secs(60)).await;
    assert_eq!((consumer.stats().failed_attempts, consumer.stats().dead_lettered), (3, 0));
    broker.faults().heal_topic("rooms.dead-letters");
    let options =
        SubscribeOptions::new("undertaker", ["rooms.dead-letters"]).with_start_from(StartFrom::Earliest);
    let mut letters = broker.subscribe(options).await.unwrap();
    let letter = letters.next().await.unwrap().unwrap();
    assert_eq!(letter.message().key.as_deref(), Some(b"a".as_slice()));
    assert_eq!(letter.message().headers.get_str(header::TOPIC), Some("rooms"));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn members_that_come_and_go_lose_nothing_and_keep_the_order() {
    come_and_go().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_several_threads_too() {
    come_and_go().await;
}

/// Members come and go, connections are cut, handlers fail: nothing is lost, and per key the first success of each
/// message comes in order.
async fn come_and_go() {
    let broker = MemoryBroker::new();
    let seen: Arc<Mutex<HashMap<u32, Vec<u32>>>> = Arc::default();
    let calls = Arc::new(AtomicU32::new(0));
    let build = || {
        let (seen, calls) = (seen.clone(), calls.clone());
        let events = on(move |n| {
            let (seen, call) = (seen.clone(), calls.fetch_add(1, Ordering::SeqCst));
            async move {
                sleep(Duration::from_millis(u64::from(call % 7))).await;
                if call % 11 == 0 {
                    return Err(Error::handler("every eleventh call"));
                }
                let mut seen = seen.lock().unwrap();
                let of_key = seen.entry(n % 10).or_default();
                if !of_key.contains(&n) {
                    of_key.push(n);
                }
                Ok(())
            }
        });
        Consumer::builder(Arc::new(broker.clone()), "billing")
            .events(events)
            .retry(retry().with_first_delay(Duration::from_millis(1)).with_max_attempts(100))
            .drain_grace(Duration::from_millis(3))
            .build()
            .unwrap()
    };
    for n in 0..500 {
        broker.publish(message(n, Some(&(n % 10).to_string()))).await.unwrap();
    }
    let total = || seen.lock().unwrap().values().map(Vec::len).sum::<usize>();
    for round in 1..=5 {
        let (one, two) = (run(&build()), run(&build()));
        until(|| total() >= round * 90).await;
        broker.faults().disconnect();
        one.stop().await.unwrap();
        two.kill().await;
    }
    let last = run(&build());
    until(|| total() == 500).await;
    last.stop().await.unwrap();
    for (key, numbers) in &*seen.lock().unwrap() {
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
    }
}
