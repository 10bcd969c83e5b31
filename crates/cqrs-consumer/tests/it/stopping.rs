use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cqrs_core::{Error, ErrorClass, ErrorKind, EventMediator};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::support::{Log, Script, consumer, message, on, run, until};

/// Counts what begins; each takes so many seconds as its number says.
fn slow() -> (EventMediator, Arc<AtomicU32>) {
    let begun = Arc::new(AtomicU32::new(0));
    let begins = begun.clone();
    let events = on(move |n| {
        begins.fetch_add(1, Ordering::SeqCst);
        async move {
            sleep(Duration::from_secs(u64::from(n))).await;
            Ok(())
        }
    });
    (events, begun)
}

#[tokio::test(start_paused = true)]
async fn what_runs_finishes_within_the_grace_and_nothing_else_begins() {
    let broker = Script::new();
    let (events, begun) = slow();
    let consumer = consumer(&broker, events).concurrency(2).build().unwrap();
    // The third waits for its key, the fourth for a slot.
    broker.deliver([message(4, Some("a")), message(3, Some("b")), message(1, Some("a")), message(1, None)]);
    let began = Instant::now();
    let running = run(&consumer);
    until(|| begun.load(Ordering::SeqCst) == 2).await;
    running.stop().await.unwrap();

    assert_eq!(begun.load(Ordering::SeqCst), 2);
    assert_eq!(began.elapsed().as_secs(), 4);
    // What waits behind a running message of its key is released after it.
    assert_eq!(
        broker.log(),
        [Log::Subscribed, Log::Released(3), Log::Acked(1), Log::Acked(0), Log::Released(2), Log::Closed]
    );
}

#[tokio::test(start_paused = true)]
async fn after_the_grace_handlers_are_cancelled_and_released() {
    let broker = Script::new();
    let (events, begun) = slow();
    let consumer = consumer(&broker, events).drain_grace(Duration::from_secs(2)).build().unwrap();
    broker.deliver([
        message(5, Some("a")),
        message(1, Some("b")),
        message(1, Some("a")),
        message(1, Some("a")),
    ]);
    let running = run(&consumer);
    until(|| begun.load(Ordering::SeqCst) == 2).await;
    let stopped = Instant::now();
    running.stop().await.unwrap();

    assert_eq!(stopped.elapsed().as_secs(), 2);
    assert_eq!(
        broker.log(),
        [Log::Subscribed, Log::Acked(1), Log::Released(0), Log::Released(2), Log::Released(3), Log::Closed]
    );
    assert_eq!(consumer.stats().handled, 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_for_a_retry_is_released_at_once() {
    let broker = Script::new();
    let consumer = consumer(&broker, on(|_| async { Err(Error::handler("busy")) })).build().unwrap();
    broker.deliver([message(0, None)]);
    let running = run(&consumer);
    until(|| consumer.stats().failed_attempts == 1).await;
    let stopped = Instant::now();
    running.stop().await.unwrap();
    assert!(stopped.elapsed() < Duration::from_secs(1));
    assert_eq!(broker.log(), [Log::Subscribed, Log::Released(0), Log::Closed]);
}

#[tokio::test(start_paused = true)]
async fn it_runs_again_after_a_stop() {
    let broker = Script::new();
    let (events, _) = slow();
    let consumer = consumer(&broker, events).build().unwrap();
    for n in 0..3_u32 {
        broker.deliver([message(0, Some("a"))]);
        let running = run(&consumer);
        until(|| broker.acked().len() as u32 == n + 1).await;
        running.stop().await.unwrap();
    }
    assert_eq!(consumer.stats().handled, 3);
    assert_eq!(broker.times(|log| *log == Log::Closed).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_run_cancels_and_releases() {
    let broker = Script::new();
    let (events, begun) = slow();
    let consumer = consumer(&broker, events).build().unwrap();
    broker.deliver([message(5, Some("a")), message(1, Some("a"))]);
    let running = run(&consumer);
    until(|| begun.load(Ordering::SeqCst) == 1).await;
    running.kill().await;
    until(|| broker.released().len() == 2).await;
    assert!(broker.acked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_before_the_broker_is_there_ends_the_run() {
    let broker = Script::new();
    broker.refuse_subscribing([ErrorClass::Outage; 1000]);
    let (events, _) = slow();
    let running = run(&consumer(&broker, events).build().unwrap());
    sleep(Duration::from_secs(10)).await;
    running.stop().await.unwrap();
    assert!(broker.log().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_close_that_fails_is_told() {
    let broker = Script::new();
    *broker.close_refusal.lock().unwrap() = Some(ErrorClass::Outage);
    let (events, _) = slow();
    let running = run(&consumer(&broker, events).build().unwrap());
    until(|| broker.log().contains(&Log::Subscribed)).await;
    assert_eq!(running.stop().await.unwrap_err().kind(), ErrorKind::Broker);
}

#[tokio::test(start_paused = true)]
async fn the_last_attempt_still_becomes_a_dead_letter_while_draining() {
    let (broker, gate) = (Script::new(), Arc::new(Semaphore::new(0)));
    let opened = gate.clone();
    let events = on(move |_| {
        let gate = opened.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            Err(Error::new(ErrorKind::Decode, "cannot be read"))
        }
    });
    let consumer = consumer(&broker, events).build().unwrap();
    broker.deliver([message(0, None)]);
    let running = run(&consumer);
    until(|| consumer.stats().received == 1).await;
    let opening = tokio::spawn(async move {
        sleep(Duration::from_secs(1)).await;
        gate.add_permits(1);
    });
    running.stop().await.unwrap();
    opening.await.unwrap();
    assert_eq!(broker.acked(), [0]);
    assert_eq!(broker.published().len(), 1);
}
