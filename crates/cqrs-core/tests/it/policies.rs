//! What happens when handlers of events fail, when several run at the same time, and when events lead to themselves.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use cqrs_core::codec::Encoder;
use cqrs_core::*;
use tokio::sync::Barrier;
use tokio::time::{Instant, sleep};

use crate::support::*;

#[derive(Request)]
struct Act;

#[derive(Debug, DomainEvent)]
struct Followed(u32);

/// A mediator whose one handler says that 1 and 2 happened, and tells others of 7.
fn acting(emitter: EventEmitter) -> RequestMediator {
    let requests = RequestMap::new().bind(on_request(|_: Act, cx| {
        Box::pin(async move {
            cx.emit(Happened(1));
            cx.emit(Happened(2));
            cx.emit(Told(7));
            Ok(())
        })
    }));
    RequestMediator::new(requests, emitter).unwrap()
}

/// Three handlers: the second fails for both events, and says something before it does.
fn second_fails(journal: &'static Journal) -> EventMap {
    let noting = move |name: &'static str| {
        on_event(move |Happened(number): &Happened, cx| {
            journal.note(format!("{name} {number}"));
            Box::pin(async move {
                cx.emit(Followed(*number));
                if name == "second" { Err(Error::handler(format!("second of {number}"))) } else { Ok(()) }
            })
        })
    };
    EventMap::new().bind(noting("first")).bind(noting("second")).bind(noting("third")).bind(on_event(
        move |Followed(number): &Followed, _| {
            journal.note(format!("followed {number}"));
            Box::pin(async { Ok(()) })
        },
    ))
}

#[tokio::test]
async fn by_default_the_first_failure_stops_the_other_handlers() {
    for concurrency in [0, 1] {
        let (journal, broker) = (Journal::new(), Recorder::new());
        let emitter = EventEmitter::new(second_fails(journal)).direct(broker.clone());
        let error = acting(emitter.with_concurrency(concurrency)).send(Act).await.unwrap_err();
        assert_eq!(error.to_string(), "second of 1");
        assert_eq!(journal.entries(), ["first 1", "second 1"]);
        assert_eq!(broker.payloads(), ["7"]);
    }
}

#[tokio::test]
async fn all_handlers_can_run_and_every_error_is_returned() {
    for concurrency in [1, 2, 10] {
        let (journal, broker) = (Journal::new(), Recorder::new());
        let emitter = EventEmitter::new(second_fails(journal))
            .direct(broker.clone())
            .with_on_failure(OnEventFailure::RunAll)
            .with_concurrency(concurrency);
        let error = acting(emitter).send(Act).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Handler);
        assert_eq!(error.to_string(), "2 failures on the way of the events: second of 1; second of 2");
        let errors: Vec<_> =
            error.downcast_ref::<EventErrors>().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(errors, ["second of 1", "second of 2"]);
        assert_eq!(
            journal.entries(),
            [
                "first 1",
                "second 1",
                "third 1",
                "first 2",
                "second 2",
                "third 2",
                // What the failed ones said is dropped.
                "followed 1",
                "followed 1",
                "followed 2",
                "followed 2"
            ]
        );
        assert_eq!(broker.payloads(), ["7"]);
    }
}

#[tokio::test]
async fn a_single_failure_of_all_is_returned_as_it_is() {
    let events = EventMap::new().bind(on_event(|Happened(number): &Happened, _| {
        let failed = *number == 1;
        Box::pin(async move { if failed { Err(std::io::Error::other("disk").into()) } else { Ok(()) } })
    }));
    let emitter = EventEmitter::new(events).direct(Recorder::new()).with_on_failure(OnEventFailure::RunAll);
    let error = acting(emitter).send(Act).await.unwrap_err();
    assert!(error.downcast_ref::<std::io::Error>().is_some());
}

#[tokio::test]
async fn failures_can_be_left_to_the_log() {
    for concurrency in [1, 3] {
        let journal = Journal::new();
        let emitter = EventEmitter::new(second_fails(journal))
            .direct(Recorder::new())
            .with_on_failure(OnEventFailure::Log)
            .with_concurrency(concurrency);
        acting(emitter).send(Act).await.unwrap();
        assert_eq!(journal.entries().len(), 10);
    }
}

#[tokio::test]
async fn a_failed_handler_and_a_failed_publish_are_both_told() {
    let broker = Arc::new(Recorder { refused: HashSet::from(["told"]), ..Recorder::default() });
    let emitter = EventEmitter::new(second_fails(Journal::new())).direct(broker);
    let error = acting(emitter).send(Act).await.unwrap_err();
    assert!(
        error.to_string().starts_with("2 failures on the way of the events: second of 1; `told` "),
        "{error}"
    );
    assert!(error.to_string().ends_with(": nobody takes `told` (destination)"), "{error}");
}

#[tokio::test]
async fn as_many_handlers_of_an_event_run_at_once_as_the_limit_says() {
    // Each waits for two others: less would wait for ever.
    let barrier = Arc::new(Barrier::new(3));
    let waiting = || {
        let barrier = Arc::clone(&barrier);
        on_event(move |_: &Happened, _| {
            let barrier = Arc::clone(&barrier);
            Box::pin(async move {
                barrier.wait().await;
                Ok(())
            })
        })
    };
    let events = EventMap::new().bind(waiting()).bind(waiting()).bind(waiting());
    let emitter = EventEmitter::new(events).direct(Recorder::new()).with_concurrency(3);
    acting(emitter).send(Act).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_more_handlers_run_at_once_than_the_limit_says() {
    let slow = || {
        on_event(|_: &Happened, _| {
            Box::pin(async {
                sleep(Duration::from_secs(1)).await;
                Ok(())
            })
        })
    };
    let events = EventMap::new().bind(slow()).bind(slow()).bind(slow()).bind(slow());
    let mediator = EventMediator::new(EventEmitter::new(events).with_concurrency(2)).unwrap();
    let began = Instant::now();
    mediator.emit(Happened(1)).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_said_at_once_goes_out_in_the_order_of_binding() {
    let journal = Journal::new();
    let saying = |number: u32, after: u64| {
        on_event(move |_: &Happened, cx| {
            Box::pin(async move {
                sleep(Duration::from_secs(after)).await;
                cx.emit(Followed(number));
                Ok(())
            })
        })
    };
    let events = EventMap::new().bind(saying(1, 3)).bind(saying(2, 1)).bind(saying(3, 2)).bind(on_event(
        move |Followed(number): &Followed, _| {
            journal.note(number.to_string());
            Box::pin(async { Ok(()) })
        },
    ));
    let mediator = EventMediator::new(EventEmitter::new(events).with_concurrency(3)).unwrap();
    mediator.emit(Happened(1)).await.unwrap();
    assert_eq!(journal.entries(), ["1", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn those_that_run_when_one_fails_come_to_their_end() {
    let journal = Journal::new();
    let handler = |name: &'static str, after: u64, fails: bool| {
        on_event(move |_: &Happened, _| {
            Box::pin(async move {
                sleep(Duration::from_secs(after)).await;
                journal.note(name);
                if fails { Err(Error::handler(name)) } else { Ok(()) }
            })
        })
    };
    // Wherever the one that fails stands.
    for fails_first in [true, false] {
        let mut both = [handler("fails", 1, true), handler("runs", 5, false)].into_iter();
        let (Some(fails), Some(runs)) = (both.next(), both.next()) else { unreachable!() };
        let events = if fails_first {
            EventMap::new().bind(fails).bind(runs)
        } else {
            EventMap::new().bind(runs).bind(fails)
        };
        let events = events.bind(handler("has not begun", 1, false));
        let mediator = EventMediator::new(EventEmitter::new(events).with_concurrency(2)).unwrap();
        assert_eq!(mediator.emit(Happened(1)).await.unwrap_err().to_string(), "fails");
        assert_eq!(journal.entries(), ["fails", "runs"]);
        journal.clear();
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_keeps_no_place_but_its_own() {
    let taking = |seconds: u64| {
        on_event(move |_: &Happened, _| {
            Box::pin(async move {
                sleep(Duration::from_secs(seconds)).await;
                Ok(())
            })
        })
    };
    let events = EventMap::new().bind(taking(4)).bind(taking(1)).bind(taking(1)).bind(taking(1));
    let mediator = EventMediator::new(EventEmitter::new(events).with_concurrency(2)).unwrap();
    let began = Instant::now();
    mediator.emit(Happened(1)).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 4);
}

#[tokio::test]
async fn handlers_that_send_and_say_at_once_never_wait_for_one_another() {
    // A request within each of two handlers at once, whose events have two handlers again.
    let journal = Journal::new();
    let requests = RequestMap::new().bind(on_request(|_: Act, cx| {
        Box::pin(async move {
            cx.emit(Followed(1));
            Ok(())
        })
    }));
    let sending = || on_event(|_: &Happened, cx| Box::pin(async move { cx.send(Act).await }));
    let noting = || {
        on_event(move |_: &Followed, _| {
            journal.note("followed");
            Box::pin(async { Ok(()) })
        })
    };
    let events = EventMap::new().bind(sending()).bind(sending()).bind(noting()).bind(noting());
    let emitter = EventEmitter::new(events).with_concurrency(2);
    let mediator = RequestMediator::new(requests, emitter).unwrap();
    tokio::time::timeout(Duration::from_secs(5), mediator.events().emit(Happened(1))).await.unwrap().unwrap();
    assert_eq!(journal.entries().len(), 4);
}

/// Happened leads to Followed, and that to Happened.
fn circle() -> EventMap {
    EventMap::new()
        .bind(on_event(|Happened(number): &Happened, cx| {
            Box::pin(async move {
                cx.emit(Followed(*number));
                Ok(())
            })
        }))
        .bind(on_event(|Followed(number): &Followed, cx| {
            Box::pin(async move {
                cx.emit(Happened(*number));
                Ok(())
            })
        }))
}

#[tokio::test]
async fn a_flood_shows_how_events_led_to_it() {
    let mediator = EventMediator::new(EventEmitter::new(circle()).with_max_events(4)).unwrap();
    let error = mediator.emit(Happened(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::EventFlood);
    assert!(
        error.to_string().starts_with(
            "one request led to more than 4 events, `happened` the last, behind 4 others: happened → followed → happened → \
             followed → happened. If its handlers"
        ),
        "{error}"
    );
    let mediator = EventMediator::new(EventEmitter::new(circle()).with_max_events(1000)).unwrap();
    let error = mediator.emit(Happened(1)).await.unwrap_err();
    assert!(
        error.to_string().contains("behind 1000 others: … → followed → happened → followed → happened"),
        "{error}"
    );
}

#[tokio::test]
async fn a_flood_keeps_nothing_from_other_services_that_was_said() {
    let broker = Recorder::new();
    let events = EventMap::new().bind(on_event(|Happened(number): &Happened, cx| {
        Box::pin(async move {
            cx.emit(Happened(*number + 1));
            cx.emit(Told(*number));
            Ok(())
        })
    }));
    let emitter = EventEmitter::new(events).direct(broker.clone()).with_max_events(4);
    let mediator = EventMediator::new(emitter).unwrap();
    assert_eq!(mediator.emit(Happened(1)).await.unwrap_err().kind(), ErrorKind::EventFlood);
    // Happened 1 and 2, Told 1, Happened 3: the fifth is one too many, and what was said before is told.
    assert_eq!(broker.payloads(), ["1", "2", "3"]);
}

#[tokio::test]
async fn a_flood_without_a_path_is_the_requests_own() {
    let requests = RequestMap::new().bind(on_request(|_: Act, cx| {
        Box::pin(async move {
            (0..6).for_each(|number| cx.emit(Happened(number)));
            Ok(())
        })
    }));
    let mediator = RequestMediator::new(requests, EventEmitter::default().with_max_events(5)).unwrap();
    let error = mediator.send(Act).await.unwrap_err();
    assert!(error.to_string().contains("`happened` the last, said by the request itself"), "{error}");
}

#[tokio::test]
async fn a_flood_before_the_commit_shows_its_path_too() {
    let db = FakeDb::new();
    let before = BeforeCommit::new().bind(before_the_commit(|Happened(number): &Happened, _, cx| {
        Box::pin(async move {
            cx.emit(Happened(*number + 1));
            Ok(())
        })
    }));
    let handler = in_transaction(|_: Act, _, cx| {
        Box::pin(async move {
            cx.emit(Happened(0));
            Ok(())
        })
    });
    let requests = RequestMap::new().bind::<Act>(Transactional::new(db.unit_with(before), handler));
    let mediator = RequestMediator::new(requests, EventEmitter::default().with_max_events(3)).unwrap();
    let error = mediator.send(Act).await.unwrap_err();
    assert!(
        error.to_string().contains("behind 3 others: happened → happened → happened → happened"),
        "{error}"
    );
    assert_eq!(db.rows(), Vec::<String>::new());
}

#[tokio::test]
async fn the_policies_are_those_of_an_event_from_outside_too() {
    for concurrency in [1, 2] {
        let (journal, error) = outside(|emitter| emitter.with_concurrency(concurrency)).await;
        assert_eq!(error.as_deref(), Some("second of 1"));
        // The third may have begun when the second failed.
        assert_eq!(journal[..2], ["first 1", "second 1"]);
        assert!(journal.len() == 2 || concurrency == 2);

        let run_all = |emitter: EventEmitter| {
            emitter.with_concurrency(concurrency).with_on_failure(OnEventFailure::RunAll)
        };
        let (journal, error) = outside(run_all).await;
        assert_eq!(error.as_deref(), Some("second of 1"));
        assert_eq!(journal, ["first 1", "second 1", "third 1", "followed 1", "followed 1"]);

        let log = |emitter: EventEmitter| {
            emitter.with_concurrency(concurrency).with_on_failure(OnEventFailure::Log)
        };
        let (journal, error) = outside(log).await;
        assert_eq!(error, None);
        assert_eq!(journal, ["first 1", "second 1", "third 1", "followed 1", "followed 1"]);
    }
    let (journal, error) =
        outside(|emitter| emitter.with_max_events(1).with_on_failure(OnEventFailure::Log)).await;
    assert!(error.unwrap().contains("one request led to more than 1 events"));
    assert_eq!(journal, ["first 1", "second 1", "third 1"]);
}

#[test]
fn limits_of_nothing_are_refused_all_at_once() {
    let emitter = || {
        EventEmitter::default()
            .with_max_events(0)
            .with_max_depth(0)
            .with_confirm_timeout(Duration::ZERO)
            .with_encoder(Encoder::default().with_max_message_bytes(0))
    };
    let by_requests = RequestMediator::new(RequestMap::new(), emitter()).unwrap_err();
    let by_events = EventMediator::new(emitter()).unwrap_err();
    assert_eq!(by_requests.to_string(), by_events.to_string());
    assert_eq!(by_events.kind(), ErrorKind::Configuration);
    let text = by_events.to_string();
    let said: Vec<_> = text.lines().collect();
    assert_eq!(said.len(), 4, "{text}");
    assert!(said[0].contains("the confirm timeout of the `EventEmitter` is zero"), "{text}");
    assert!(said[1].contains("lead to 0 events: raise its `with_max_events`"), "{text}");
    assert!(said[2].contains("lets 0 requests stand within one another"), "{text}");
    assert!(
        said[3].contains("messages of 0 bytes, and no event has so few: raise its `with_max_message_bytes`"),
        "{text}"
    );
}

/// What three handlers noted of which the second fails, and the error.
async fn outside(with: impl Fn(EventEmitter) -> EventEmitter) -> (Vec<String>, Option<String>) {
    let journal = Journal::new();
    let events = EventMediator::new(with(EventEmitter::new(second_fails(journal)))).unwrap();
    let error = events.emit(Happened(1)).await.err();
    (journal.entries(), error.map(|error| error.to_string()))
}
