//! Sending requests: replies, errors, nested and concurrent sends.

use std::sync::Arc;

use cqrs_core::*;
use tokio::sync::{Barrier, Notify};

use crate::support::*;

#[derive(Request)]
#[request(response = u32)]
struct Double(u32);

fn double() -> impl RequestHandler<Double> {
    on_request(|Double(number): Double, _| Box::pin(async move { Ok(number * 2) }))
}

#[derive(Request)]
struct Outer;

#[derive(Request)]
struct Inner;

/// What a user's own error looks like.
#[derive(Debug, thiserror::Error)]
enum BookingError {
    #[error("room {0} is taken")]
    Taken(u32),
    #[error(transparent)]
    Toolkit(#[from] Error),
}

#[derive(Request)]
#[request(response = u32, error = BookingError)]
struct Book {
    room: u32,
}

fn mediator(requests: RequestMap) -> RequestMediator {
    RequestMediator::new(requests, EventEmitter::default()).unwrap()
}

#[tokio::test]
async fn a_request_is_answered_by_its_handler() {
    let mediator = mediator(RequestMap::new().bind(double()));
    assert_eq!(mediator.send(Double(21)).await.unwrap(), 42);
}

#[tokio::test]
async fn nothing_runs_before_the_reply_is_awaited() {
    let journal = Journal::new();
    let mediator = mediator(RequestMap::new().bind(on_request(move |_: Outer, _| {
        journal.note("ran");
        Box::pin(async { Ok(()) })
    })));
    let reply = mediator.send(Outer);
    assert!(journal.entries().is_empty());
    reply.await.unwrap();
    assert_eq!(journal.entries(), ["ran"]);
}

#[tokio::test]
async fn a_handle_sends_as_its_mediator_does() {
    let journal = Journal::new();
    let bound = mediator(RequestMap::new().bind(on_request(|_: Outer, cx| {
        journal.note(cx.correlation().correlation_id.as_deref().unwrap_or("alone"));
        Box::pin(async { Ok(()) })
    })));
    let handle = bound.handle_of::<Outer>().unwrap();
    drop(bound);
    handle.send(Outer).await.unwrap();
    handle.clone().send_correlated(Outer, &Correlation::new("order 7")).await.unwrap();
    assert_eq!(journal.entries(), ["alone", "order 7"]);
    assert!(format!("{handle:?}").contains("Outer"));

    let error = mediator(RequestMap::new()).handle_of::<Outer>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingHandler);
    assert!(error.to_string().contains("Outer"), "{error}");
}

#[tokio::test]
async fn a_request_without_a_handler_is_an_error_that_says_what_to_do() {
    let mediator = mediator(RequestMap::new().bind(double()));
    let error = mediator.send(Outer).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingHandler);
    assert_eq!(
        error.to_string(),
        "no handler is bound to the request `Outer`: bind one with `RequestMap::bind`, \
         or `.request(..)` or `.transactional(..)` of the bootstrap"
    );
}

#[tokio::test]
async fn every_one_of_many_requests_finds_its_own_handler() {
    struct Numbered<const N: usize>;

    impl<const N: usize> Request for Numbered<N> {
        type Response = usize;
        type Error = Error;
    }

    fn numbered<const N: usize>() -> impl RequestHandler<Numbered<N>> {
        on_request(|_: Numbered<N>, _| Box::pin(async { Ok(N) }))
    }

    macro_rules! check {
        ($($number:literal)*) => {
            let mediator = mediator(RequestMap::new()$(.bind(numbered::<$number>()))*);
            $(assert_eq!(mediator.send(Numbered::<$number>).await.unwrap(), $number);)*
            let missing = mediator.send(Numbered::<99>).await.unwrap_err();
            assert_eq!(missing.kind(), ErrorKind::MissingHandler);
        };
    }
    check!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39);
    check!(7);
    check!();
}

#[tokio::test]
async fn a_second_handler_and_every_other_mistake_are_reported_together_when_the_mediator_is_built() {
    let requests = RequestMap::new()
        .bind(double())
        .bind(on_request(|_: Outer, _| Box::pin(async { Ok(()) })))
        .bind(double())
        .bind(on_request(|_: Outer, _| Box::pin(async { Ok(()) })));
    let events = EventMap::new().subscribe("", on_event(|_: &Told, _| Box::pin(async { Ok(()) })));
    let error = RequestMediator::new(requests, EventEmitter::new(events)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let text = error.to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert_eq!(
        lines[0],
        "two handlers are bound to the request `Double`: a request has exactly one, remove the second"
    );
    assert!(lines[1].contains("`Outer`"), "{}", lines[1]);
    assert!(lines[2].contains("the event `told` of the topic ``: neither may be empty"), "{}", lines[2]);
}

#[tokio::test]
async fn an_error_of_a_handler_keeps_its_type() {
    let mediator = mediator(RequestMap::new().bind(on_request(|_: Outer, _| {
        Box::pin(async {
            "five".parse::<u32>()?;
            Ok(())
        })
    })));
    let error = mediator.send(Outer).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Handler);
    assert!(error.downcast_ref::<std::num::ParseIntError>().is_some());
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn an_error_keeps_its_kind_through_a_handler_that_passes_it_on() {
    let mediator = mediator(
        RequestMap::new()
            .bind(on_request(|_: Outer, cx| Box::pin(async move { cx.send(Inner).await })))
            .bind(on_request(|_: Inner, _| {
                Box::pin(async { Err(BrokerError::new(ErrorClass::Outage, "the broker is away").into()) })
            })),
    );
    let error = mediator.send(Outer).await.unwrap_err();
    assert_eq!((error.kind(), error.class()), (ErrorKind::Broker, Some(ErrorClass::Outage)));
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_request_can_have_an_error_type_of_its_own() {
    let bound = mediator(RequestMap::new().bind(on_request(|Book { room }: Book, _| {
        Box::pin(async move { if room == 5 { Err(BookingError::Taken(room)) } else { Ok(room) } })
    })));
    assert_eq!(bound.send(Book { room: 4 }).await.unwrap(), 4);
    assert!(matches!(bound.send(Book { room: 5 }).await, Err(BookingError::Taken(5))));

    let unbound = mediator(RequestMap::new());
    match unbound.send(Book { room: 4 }).await {
        Err(BookingError::Toolkit(error)) => assert_eq!(error.kind(), ErrorKind::MissingHandler),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_a_nested_request_says_goes_out_when_it_has_succeeded() {
    let journal = Journal::new();
    let requests = RequestMap::new()
        .bind(on_request(move |_: Outer, cx| {
            Box::pin(async move {
                cx.emit(Happened(1));
                cx.send(Inner).await?;
                journal.note("the outer goes on");
                cx.emit(Happened(3));
                Ok(())
            })
        }))
        .bind(on_request(move |_: Inner, cx| {
            Box::pin(async move {
                cx.emit(Happened(2));
                journal.note("the inner ends");
                Ok(())
            })
        }));
    let events = EventMap::new().bind(on_event(move |event: &Happened, _| {
        journal.note(format!("happened {}", event.0));
        Box::pin(async { Ok(()) })
    }));
    let mediator = RequestMediator::new(requests, EventEmitter::new(events)).unwrap();
    mediator.send(Outer).await.unwrap();
    assert_eq!(
        journal.entries(),
        ["the inner ends", "happened 2", "the outer goes on", "happened 1", "happened 3"]
    );
}

#[tokio::test]
async fn what_a_nested_request_said_is_dropped_with_its_failure_alone() {
    let journal = Journal::new();
    let requests = RequestMap::new()
        .bind(on_request(move |_: Outer, cx| {
            Box::pin(async move {
                cx.emit(Happened(1));
                assert_eq!(cx.send(Inner).await.unwrap_err().to_string(), "the inner failed");
                Ok(())
            })
        }))
        .bind(on_request(|_: Inner, cx| {
            Box::pin(async move {
                cx.emit(Happened(2));
                Err(Error::handler("the inner failed"))
            })
        }));
    let events = EventMap::new().bind(on_event(move |event: &Happened, _| {
        journal.note(format!("happened {}", event.0));
        Box::pin(async { Ok(()) })
    }));
    let mediator = RequestMediator::new(requests, EventEmitter::new(events)).unwrap();
    mediator.send(Outer).await.unwrap();
    assert_eq!(journal.entries(), ["happened 1"]);
}

#[tokio::test]
async fn one_handler_can_send_two_requests_at_once() {
    let barrier: &'static Barrier = Box::leak(Box::new(Barrier::new(2)));
    let mediator = mediator(
        RequestMap::new()
            .bind(on_request(|_: Outer, cx| {
                Box::pin(async move {
                    let (one, two) = tokio::join!(cx.send(Double(1)), cx.send(Double(2)));
                    assert_eq!((one?, two?), (2, 4));
                    Ok(())
                })
            }))
            .bind(on_request(move |Double(number): Double, _| {
                Box::pin(async move {
                    // Neither gets past this without the other.
                    barrier.wait().await;
                    Ok(number * 2)
                })
            })),
    );
    mediator.send(Outer).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_share_one_mediator() {
    let mediator = mediator(RequestMap::new().bind(on_request(|Double(number): Double, _| {
        Box::pin(async move {
            tokio::task::yield_now().await;
            Ok(number * 2)
        })
    })));
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let mediator = mediator.clone();
            tokio::spawn(async move {
                for number in task..task + 100 {
                    assert_eq!(mediator.send(Double(number)).await.unwrap(), number * 2);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_send_that_is_dropped_stops_the_handler_and_says_nothing() {
    let journal = Journal::new();
    let reached = Arc::new(Notify::new());
    let requests = RequestMap::new().bind(on_request({
        let reached = Arc::clone(&reached);
        move |_: Outer, cx| {
            let reached = Arc::clone(&reached);
            Box::pin(async move {
                cx.emit(Happened(1));
                reached.notify_one();
                std::future::pending::<()>().await;
                journal.note("went on");
                Ok(())
            })
        }
    }));
    let events = EventMap::new().bind(on_event(move |_: &Happened, _| {
        journal.note("happened");
        Box::pin(async { Ok(()) })
    }));
    let mediator = RequestMediator::new(requests, EventEmitter::new(events)).unwrap();
    tokio::select! {
        biased;
        _ = mediator.send(Outer) => panic!("it cannot end"),
        () = reached.notified() => {}
    }
    assert!(journal.entries().is_empty());
}
