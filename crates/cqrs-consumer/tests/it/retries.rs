use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use cqrs_consumer::OnFailure;
use cqrs_core::{Context, Error, ErrorKind, EventHandler, EventMap, Result};
use tokio::time::{Instant, sleep};

use crate::support::{RoomClosed, Script, consumer, mediator, message, on, retry, run, undecodable, until};

/// Fails so many times as `fail` says for each message.
fn failing(
    times: u32,
    fail: impl Fn() -> Error + Send + Sync + 'static,
) -> (cqrs_core::EventMediator, Arc<Mutex<Vec<Instant>>>) {
    let attempts: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let seen = attempts.clone();
    let events = on(move |_| {
        let mut seen = seen.lock().unwrap();
        seen.push(Instant::now());
        let outcome = if seen.len() > times as usize { Ok(()) } else { Err(fail()) };
        async move { outcome }
    });
    (events, attempts)
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_succeeds_is_acknowledged_once_after_the_delays() {
    let broker = Script::new();
    let (events, attempts) = failing(2, || Error::handler("busy"));
    let consumer = consumer(&broker, events).build().unwrap();
    broker.deliver([message(0, Some("a"))]);
    let running = run(&consumer);
    until(|| broker.acked() == [0]).await;
    let attempts = attempts.lock().unwrap().clone();
    let delays: Vec<_> = attempts.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(delays, [1, 2]);
    let stats = consumer.stats();
    assert_eq!((stats.handled, stats.failed_attempts, stats.retried, stats.dead_lettered), (1, 2, 2, 0));
    assert!(broker.published().is_empty());
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_and_the_process_lives() {
    let (broker, attempts) = (Script::new(), Arc::new(AtomicU32::new(0)));
    let seen = attempts.clone();
    let events = on(move |_| {
        let attempt = seen.fetch_add(1, Ordering::SeqCst);
        async move {
            assert!(attempt != 0, "the first attempt panics within the future");
            Ok(())
        }
    });
    let consumer = consumer(&broker, events).build().unwrap();
    broker.deliver([message(0, Some("a")), message(1, Some("a"))]);
    let running = run(&consumer);
    until(|| broker.acked() == [0, 1]).await;
    assert_eq!(consumer.stats().failed_attempts, 1);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_panic_for_good_is_told_in_the_dead_letter() {
    let broker = Script::new();
    let events = on(|n| async move { panic!("no room {n}") });
    let consumer = consumer(&broker, events).build().unwrap();
    broker.deliver([message(7, None)]);
    let running = run(&consumer);
    until(|| broker.acked() == [0]).await;
    let reason = broker.published()[0].headers.get_str(cqrs_consumer::header::REASON).unwrap().to_owned();
    assert!(reason.contains("no room 7"), "{reason}");
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_a_handler_is_cancelled_is_a_failure_too() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    let broker = Script::new();
    let events = on(|_| async {
        let _bomb = Bomb;
        std::future::pending().await
    });
    let consumer = consumer(&broker, events).build().unwrap();
    broker.deliver([message(0, Some("a"))]);
    let running = run(&consumer);
    until(|| broker.acked() == [0]).await;
    assert_eq!(consumer.stats().failed_attempts, 3);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_time_out_cancels_the_handler_and_is_a_failure() {
    struct Count(Arc<AtomicU32>);
    impl Drop for Count {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (broker, cancelled) = (Script::new(), Arc::new(AtomicU32::new(0)));
    let counts = cancelled.clone();
    let events = on(move |_| {
        let count = Count(counts.clone());
        async move {
            let _count = count;
            std::future::pending().await
        }
    });
    let consumer = consumer(&broker, events).handler_timeout(Duration::from_secs(5)).build().unwrap();
    broker.deliver([message(0, None)]);
    let began = Instant::now();
    let running = run(&consumer);
    until(|| broker.acked() == [0]).await;
    // Three attempts of five seconds, and delays of one and two seconds.
    assert_eq!(began.elapsed().as_secs(), 18);
    assert_eq!(cancelled.load(Ordering::SeqCst), 3);
    assert!(broker.published()[0].headers.get_str(cqrs_consumer::header::REASON).unwrap().contains("5s"));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_dead_letter_names_the_handler_that_hung() {
    struct Hangs(&'static str);

    impl EventHandler<RoomClosed> for Hangs {
        async fn handle(&self, _: &RoomClosed, _: &Context<'_>) -> Result<()> {
            if self.0 == "second" { std::future::pending().await } else { Ok(()) }
        }

        fn name(&self) -> &str {
            self.0
        }
    }

    let broker = Script::new();
    let map = EventMap::new()
        .subscribe::<RoomClosed>("rooms", Hangs("first"))
        .subscribe::<RoomClosed>("rooms", Hangs("second"))
        .subscribe::<RoomClosed>("rooms", Hangs("third"));
    let consumer = consumer(&broker, mediator(map)).handler_timeout(Duration::from_secs(5)).build().unwrap();
    broker.deliver([message(0, None)]);
    let running = run(&consumer);
    until(|| broker.acked() == [0]).await;
    let letter = &broker.published()[0];
    let reason = letter.headers.get_str(cqrs_consumer::header::REASON).unwrap();
    assert!(reason.ends_with("the handler `second` or a middleware around it was at work"), "{reason}");
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn handlers_see_until_when_they_have_time() {
    let (broker, left) = (Script::new(), Arc::new(OnceLock::new()));
    let seen = left.clone();
    let map = EventMap::new().subscribe::<RoomClosed>("rooms", Sees(seen));
    let consumer = consumer(&broker, mediator(map)).handler_timeout(Duration::from_secs(5)).build().unwrap();
    broker.deliver([message(0, None)]);
    let running = run(&consumer);
    until(|| broker.acked() == [0]).await;
    assert_eq!(left.get(), Some(&Duration::from_secs(5)));
    running.stop().await.unwrap();
}

struct Sees(Arc<OnceLock<Duration>>);

impl EventHandler<RoomClosed> for Sees {
    async fn handle(&self, _: &RoomClosed, cx: &Context<'_>) -> Result<()> {
        self.0.get_or_init(|| cx.deadline().unwrap() - Instant::now().into_std());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn the_second_handler_fails_and_the_message_is_retried_as_a_whole() {
    let (broker, first, second) = (Script::new(), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (one, two) = (first.clone(), second.clone());
    let map = EventMap::new()
        .subscribe::<RoomClosed>(
            "rooms",
            crate::support::On(move |_| {
                one.fetch_add(1, Ordering::SeqCst);
                async { Ok(()) }
            }),
        )
        .subscribe::<RoomClosed>(
            "rooms",
            crate::support::On(move |_| {
                let fails = two.fetch_add(1, Ordering::SeqCst) == 0;
                async move { if fails { Err(Error::handler("once")) } else { Ok(()) } }
            }),
        );
    let consumer = consumer(&broker, mediator(map)).build().unwrap();
    broker.deliver([message(0, None)]);
    let running = run(&consumer);
    until(|| broker.acked() == [0]).await;
    assert_eq!((first.load(Ordering::SeqCst), second.load(Ordering::SeqCst)), (2, 2));
    assert_eq!(consumer.stats().handled, 1);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn for_ever_means_beyond_the_attempts_without_a_dead_letter() {
    let broker = Script::new();
    let (events, attempts) = failing(20, || Error::handler("busy"));
    let consumer = consumer(&broker, events)
        .retry(retry().with_max_delay(Duration::from_secs(4)))
        .on_failure(OnFailure::RetryForever)
        .build()
        .unwrap();
    broker.deliver([message(0, Some("a"))]);
    let running = run(&consumer);
    until(|| broker.acked() == [0]).await;
    assert_eq!(attempts.lock().unwrap().len(), 21);
    assert!(broker.published().is_empty());
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn for_ever_keeps_what_cannot_be_decoded_at_the_longest_delay() {
    let broker = Script::new();
    let (events, _) = failing(0, || Error::handler("never"));
    let consumer = consumer(&broker, events).on_failure(OnFailure::RetryForever).build().unwrap();
    broker.deliver([undecodable(Some("a")), message(1, Some("a")), message(2, Some("b"))]);
    let running = run(&consumer);
    until(|| broker.acked() == [2]).await;
    sleep(Duration::from_secs(90)).await;
    assert_eq!(consumer.stats().failed_attempts, 2);
    assert_eq!(broker.acked(), [2]);
    running.stop().await.unwrap();
    assert_eq!(broker.released(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_away_takes_no_message_to_the_dead_letters() {
    takes_no_message_to_the_dead_letters(|| {
        Error::new(ErrorKind::Store, "connection refused").with_retryable(true)
    })
    .await;
}

/// The message may have been handled, which its inbox knows.
#[tokio::test(start_paused = true)]
async fn a_commit_in_doubt_takes_no_message_to_the_dead_letters() {
    takes_no_message_to_the_dead_letters(|| Error::new(ErrorKind::CommitUnknown, "cut")).await;
}

async fn takes_no_message_to_the_dead_letters(error: fn() -> Error) {
    let broker = Script::new();
    let (events, attempts) = failing(8, error);
    let consumer = consumer(&broker, events).build().unwrap();
    broker.deliver([message(0, Some("a"))]);
    let running = run(&consumer);
    until(|| broker.acked() == [0]).await;
    assert_eq!(attempts.lock().unwrap().len(), 9);
    assert!(broker.published().is_empty());
    assert_eq!(consumer.stats().dead_lettered, 0);
    running.stop().await.unwrap();
}
