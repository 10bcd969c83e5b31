use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cqrs_core::Error;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep};

use crate::support::{Script, consumer, message, on, retry, run, settle, until};

/// What began and what ended, in order.
type Trace = Arc<Mutex<Vec<(&'static str, u32)>>>;

#[tokio::test(start_paused = true)]
async fn one_key_is_handled_one_at_a_time_in_order() {
    let (broker, trace) = (Script::new(), Trace::default());
    let seen = trace.clone();
    let events = on(move |n| {
        let seen = seen.clone();
        async move {
            seen.lock().unwrap().push(("begin", n));
            // The first takes longest: out of order, the others would be done before it.
            sleep(Duration::from_secs(u64::from(10 - n))).await;
            seen.lock().unwrap().push(("end", n));
            Ok(())
        }
    });
    let consumer = consumer(&broker, events).build().unwrap();
    broker.deliver((0..5).map(|n| message(n, Some("a"))));
    let running = run(&consumer);
    until(|| broker.acked().len() == 5).await;

    let expected: Vec<_> = (0..5).flat_map(|n| [("begin", n), ("end", n)]).collect();
    assert_eq!(*trace.lock().unwrap(), expected);
    assert_eq!(broker.acked(), [0, 1, 2, 3, 4]);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn different_keys_and_keyless_messages_overlap() {
    for keys in [[Some("a"), Some("b"), Some("c"), Some("")], [None; 4]] {
        let broker = Script::new();
        // Nobody goes on before all four are there.
        let barrier = Arc::new(tokio::sync::Barrier::new(4));
        let events = on(move |_| {
            let barrier = barrier.clone();
            async move {
                barrier.wait().await;
                Ok(())
            }
        });
        let consumer = consumer(&broker, events).build().unwrap();
        broker.deliver((0..).zip(keys).map(|(n, key)| message(n, key)));
        let running = run(&consumer);
        until(|| broker.acked().len() == 4).await;
        assert_eq!(consumer.stats().failed_attempts, 0);
        running.stop().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_key_waits_and_the_others_go_on() {
    let (broker, handled) = (Script::new(), Arc::new(Mutex::new(Vec::new())));
    let seen = handled.clone();
    let healed = Arc::new(Mutex::new(false));
    let heals = healed.clone();
    let events = on(move |n| {
        let outcome = if n == 0 && !*heals.lock().unwrap() {
            Err(Error::handler("not yet"))
        } else {
            seen.lock().unwrap().push(n);
            Ok(())
        };
        async move { outcome }
    });
    // One slot only: what waits for a retry must not hold it.
    let consumer =
        consumer(&broker, events).concurrency(1).retry(retry().with_max_attempts(1000)).build().unwrap();
    broker.deliver([message(0, Some("a")), message(1, Some("a")), message(2, Some("b")), message(3, None)]);
    let began = Instant::now();
    let running = run(&consumer);
    until(|| broker.acked().len() == 2).await;
    // On the paused clock: before the first retry.
    assert!(began.elapsed() < Duration::from_secs(1));
    sleep(Duration::from_secs(100)).await;
    assert_eq!(*handled.lock().unwrap(), [2, 3]);

    *healed.lock().unwrap() = true;
    until(|| broker.acked().len() == 4).await;
    assert_eq!(*handled.lock().unwrap(), [2, 3, 0, 1]);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_concurrency_at_once() {
    let (broker, now, most) = (Script::new(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (running_now, seen) = (now.clone(), most.clone());
    let events = on(move |_| {
        let (now, most) = (running_now.clone(), seen.clone());
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            sleep(Duration::from_secs(1)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        }
    });
    let consumer = consumer(&broker, events).concurrency(3).build().unwrap();
    broker.deliver((0..30).map(|n| message(n, None)));
    let running = run(&consumer);
    until(|| broker.acked().len() == 30).await;
    assert_eq!(most.load(Ordering::SeqCst), 3);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_ignores_the_prefetch_does_not_fill_the_memory() {
    let (broker, gate) = (Script::new(), Arc::new(Semaphore::new(0)));
    let opened = gate.clone();
    let events = on(move |_| {
        let gate = opened.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(())
        }
    });
    let consumer = consumer(&broker, events).prefetch(4).build().unwrap();
    broker.deliver((0..100).map(|n| message(n, Some("a"))));
    let running = run(&consumer);
    settle().await;
    assert_eq!(consumer.stats().received, 8);
    gate.add_permits(1);
    settle().await;
    assert_eq!(consumer.stats().received, 9);
    gate.add_permits(1000);
    until(|| broker.acked().len() == 100).await;
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_is_stopped_and_its_key_is_free() {
    let (broker, begun, stopped) = (Script::new(), Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    struct Count(Arc<AtomicUsize>);
    impl Drop for Count {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (begins, stops) = (begun.clone(), stopped.clone());
    let events = on(move |n| {
        let (begun, stopped) = (begins.clone(), Count(stops.clone()));
        async move {
            let _stopped = stopped;
            begun.notify_one();
            if n < 2 {
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    });
    let consumer = consumer(&broker, events).handler_timeout(Duration::from_secs(100_000)).build().unwrap();
    let lost = [broker.deliver_one(message(0, Some("a"))), broker.deliver_one(message(1, Some("a")))];
    broker.deliver([message(2, Some("a"))]);
    let running = run(&consumer);
    begun.notified().await;

    // The one behind it is lost as well, and is never begun.
    lost.iter().for_each(|lost| lost.cancel());
    until(|| broker.acked() == [2]).await;
    assert_eq!(broker.released(), [0, 1]);
    assert_eq!(stopped.load(Ordering::SeqCst), 2);
    assert_eq!(consumer.stats().handled, 1);
    running.stop().await.unwrap();
}
