use std::sync::Arc;
use std::time::Duration;

use cqrs_core::{Error, ErrorClass, ErrorKind};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::support::{Log, Script, consumer, message, on, run, until};

#[tokio::test(start_paused = true)]
async fn it_subscribes_to_what_the_handlers_want() {
    let broker = Script::new();
    let running = run(&consumer(&broker, on(|_| async { Ok(()) })).prefetch(7).build().unwrap());
    until(|| broker.log().contains(&Log::Subscribed)).await;
    let options = broker.options.lock().unwrap().clone().unwrap();
    assert_eq!(
        (options.group.as_str(), options.topics, options.prefetch),
        ("billing", vec!["rooms".to_owned()], 7)
    );
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn failures_that_pass_are_waited_out() {
    let broker = Script::new();
    broker.refuse_subscribing([ErrorClass::Outage, ErrorClass::Destination]);
    let consumer = consumer(&broker, on(|_| async { Ok(()) })).build().unwrap();
    broker.fail_next(ErrorClass::Outage);
    broker.fail_next(ErrorClass::Fatal);
    broker.deliver([message(0, None)]);
    broker.fail_next(ErrorClass::Unknown);
    broker.deliver([message(1, None)]);
    let began = Instant::now();
    let running = run(&consumer);
    until(|| broker.acked().len() == 2).await;
    let since = |of: &dyn Fn(&Log) -> bool| -> Vec<_> {
        broker.times(of).into_iter().map(|at| (at - began).as_secs()).collect()
    };
    // Subscribing waits for one second and for two. So does receiving, and begins anew after a success.
    assert_eq!(since(&|log| *log == Log::Subscribed), [3]);
    assert_eq!(since(&|log| *log == Log::NextFailed), [3, 4, 6]);
    assert_eq!(since(&|log| matches!(log, Log::Acked(_))), [6, 7]);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_back_off_stands_while_tasks_end() {
    let broker = Script::new();
    let events = on(|n| async move {
        sleep(Duration::from_millis(100 * u64::from(n))).await;
        Ok(())
    });
    let consumer = consumer(&broker, events).build().unwrap();
    broker.deliver((1..8).map(|n| message(n, None)));
    broker.fail_next(ErrorClass::Outage);
    broker.fail_next(ErrorClass::Outage);
    let running = run(&consumer);
    until(|| broker.times(|log| *log == Log::NextFailed).len() == 2).await;
    let failures = broker.times(|log| *log == Log::NextFailed);
    assert_eq!((failures[1] - failures[0]).as_secs(), 1);
    assert_eq!(broker.acked().len(), 7);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failure_for_good_drains_and_ends_the_run() {
    let broker = Script::new();
    let begun = Arc::new(Notify::new());
    let begins = begun.clone();
    let events = on(move |_| {
        begins.notify_one();
        async {
            sleep(Duration::from_secs(3)).await;
            Ok(())
        }
    });
    let consumer = consumer(&broker, events).build().unwrap();
    broker.deliver([message(0, None)]);
    let running = run(&consumer);
    begun.notified().await;
    broker.fail_next(ErrorClass::Event);
    let error = running.ended().await.unwrap_err();
    assert_eq!(error.class(), Some(ErrorClass::Event));
    assert_eq!(broker.log(), [Log::Subscribed, Log::NextFailed, Log::Acked(0), Log::Closed]);
}

#[tokio::test(start_paused = true)]
async fn subscribing_fails_for_good() {
    let broker = Script::new();
    broker.refuse_subscribing([ErrorClass::Event]);
    let error = run(&consumer(&broker, on(|_| async { Ok(()) })).build().unwrap()).ended().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Broker);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_closed_first_ends_the_run_with_an_error() {
    let broker = Script::new();
    broker.end();
    let error: Error =
        run(&consumer(&broker, on(|_| async { Ok(()) })).build().unwrap()).ended().await.unwrap_err();
    assert!(error.is_retryable());
    assert!(error.to_string().contains("billing"), "{error}");
}
