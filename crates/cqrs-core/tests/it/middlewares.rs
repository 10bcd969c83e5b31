//! The middlewares that come with the crate, around requests and around events.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cqrs_core::*;
use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::support::*;

#[derive(Clone, Debug, Request)]
#[request(retry)]
struct Act;

#[derive(Debug, Request)]
struct Once;

#[derive(Request)]
struct Outer;

const SECOND: Duration = Duration::from_secs(1);

fn mediator<S>(requests: RequestMap<S>) -> RequestMediator {
    RequestMediator::new(requests, EventEmitter::default()).unwrap()
}

fn events<S>(events: EventMap<S>) -> EventMediator {
    EventMediator::new(EventEmitter::new(events)).unwrap()
}

fn lost() -> Error {
    Error::handler("the connection is lost").with_retryable(true)
}

/// Fails so many times, each time with `error`, and says which time it was.
fn failing<R: Request<Response = (), Error = Error>>(
    times: u32,
    tries: &'static AtomicU32,
    error: fn() -> Error,
) -> impl RequestHandler<R> {
    on_request(move |_: R, cx| {
        Box::pin(async move {
            let number = tries.fetch_add(1, Ordering::Relaxed) + 1;
            cx.emit(Happened(number));
            if number <= times { Err(error()) } else { Ok(()) }
        })
    })
}

fn counter() -> &'static AtomicU32 {
    Box::leak(Box::default())
}

fn three_times() -> Retry {
    Retry::new(RetryPolicy::default().with_max_attempts(3).with_first_delay(SECOND).with_jitter(0.0))
}

#[tokio::test(start_paused = true)]
async fn a_retry_tries_again_behind_growing_waits_and_forgets_what_failed_tries_said() {
    let (tries, journal) = (counter(), Journal::new());
    let requests = RequestMap::new().middleware(three_times()).bind::<Act>(failing(2, tries, lost));
    let noting = EventMap::new().bind(on_event(move |Happened(number): &Happened, _| {
        journal.note(number.to_string());
        Box::pin(async { Ok(()) })
    }));
    let began = Instant::now();
    RequestMediator::new(requests, EventEmitter::new(noting)).unwrap().send(Act).await.unwrap();
    assert_eq!(began.elapsed(), SECOND * 3);
    assert_eq!(journal.entries(), ["3"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_middleware_within_a_retry_said_is_forgotten_too() {
    struct Speak;

    impl<R: Request> Middleware<R> for Speak {
        async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
            cx.emit(Happened(100));
            next.run(request, cx).await
        }
    }

    impl<E: Event> EventMiddleware<E> for Speak {
        async fn call<N: EventHandler<E>>(&self, event: &E, cx: &Context<'_>, next: &N) -> Result<()> {
            cx.emit(Followed(100));
            next.handle(event, cx).await
        }
    }

    let (tries, journal) = (counter(), Journal::new());
    let requests =
        RequestMap::new().middleware(three_times()).middleware(Speak).bind::<Act>(failing(2, tries, lost));
    let event_tries = counter();
    let map = EventMap::new()
        .bind(on_event(move |Followed(number): &Followed, _| {
            journal.note(format!("followed {number}"));
            Box::pin(async { Ok(()) })
        }))
        .middleware(three_times())
        .middleware(Speak)
        .bind(on_event(move |Happened(number): &Happened, _| {
            journal.note(format!("happened {number}"));
            let failed = event_tries.fetch_add(1, Ordering::Relaxed) == 0;
            Box::pin(async move { if failed { Err(lost()) } else { Ok(()) } })
        }));
    RequestMediator::new(requests, EventEmitter::new(map)).unwrap().send(Act).await.unwrap();
    assert_eq!(
        journal.entries(),
        ["happened 100", "happened 100", "happened 3", "followed 100", "followed 100"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_has_been_carried_out_is_not_sent_again() {
    let (db, tries) = (FakeDb::new(), counter());
    let handler = in_transaction(move |_: Once, tx, cx| {
        Box::pin(async move {
            tx.insert("row");
            cx.emit(Happened(1));
            Ok(())
        })
    });
    let requests = RequestMap::new()
        .middleware(three_times())
        .bind::<Once>(Transactional::new(db.unit(), handler))
        .bind(on_request(move |_: Act, cx| {
            tries.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move { cx.send(Once).await })
        }));
    let map = EventMap::new().bind(on_event(|_: &Happened, _| Box::pin(async { Err(lost()) })));
    let mediator = RequestMediator::new(requests, EventEmitter::new(map)).unwrap();
    let error = mediator.send(Act).await.unwrap_err();
    assert!(!error.is_retryable());
    assert_eq!((db.rows().len(), tries.load(Ordering::Relaxed)), (1, 1));
}

#[tokio::test]
async fn what_a_middleware_says_and_is_refused_fails_the_request_before_its_commit() {
    struct Speak;

    impl<R: Request> Middleware<R> for Speak {
        async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
            cx.emit(Told(1));
            next.run(request, cx).await
        }
    }

    let db = FakeDb::new();
    let handler = in_transaction(|_: Act, tx, _| {
        Box::pin(async move {
            tx.insert("row");
            Ok(())
        })
    });
    let requests = RequestMap::new()
        .middleware(Speak)
        .middleware(Timeout::after(SECOND))
        .bind::<Act>(Transactional::new(db.unit(), handler));
    let error = mediator(requests).send(Act).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoTarget);
    assert_eq!(db.journal().entries(), ["begin", "insert row", "rollback"]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_ends_with_the_last_error() {
    let tries = counter();
    let requests = RequestMap::new().middleware(three_times()).bind::<Act>(failing(9, tries, lost));
    assert_eq!(mediator(requests).send(Act).await.unwrap_err().to_string(), "the connection is lost");
    assert_eq!(tries.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn only_what_says_so_is_tried_again() {
    let tries = counter();
    let requests =
        RequestMap::new().middleware(three_times()).bind::<Act>(failing(9, tries, || Error::handler("no")));
    mediator(requests).send(Act).await.unwrap_err();
    let requests = RequestMap::new().middleware(three_times()).bind::<Once>(failing(9, tries, lost));
    mediator(requests).send(Once).await.unwrap_err();
    assert_eq!(tries.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn nothing_is_tried_again_within_a_transaction() {
    let (db, tries) = (FakeDb::new(), counter());
    let outer = in_transaction(|_: Outer, _, cx| Box::pin(async move { cx.send(Act).await }));
    let requests = RequestMap::new()
        .bind::<Outer>(Transactional::new(db.unit(), outer))
        .middleware(three_times())
        .bind::<Act>(failing(9, tries, lost));
    mediator(requests).send(Outer).await.unwrap_err();
    assert_eq!(tries.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_retry_opens_a_transaction_for_each_try() {
    let (db, tries) = (FakeDb::new(), counter());
    let handler = in_transaction(move |_: Act, tx, _| {
        Box::pin(async move {
            let number = tries.fetch_add(1, Ordering::Relaxed);
            tx.insert(number.to_string());
            if number < 2 { Err(lost()) } else { Ok(()) }
        })
    });
    let requests =
        RequestMap::new().middleware(three_times()).bind::<Act>(Transactional::new(db.unit(), handler));
    mediator(requests).send(Act).await.unwrap();
    assert_eq!(db.rows(), ["2"]);
    assert_eq!(db.journal().entries().iter().filter(|entry| *entry == "rollback").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_retry_does_not_wait_beyond_the_deadline() {
    let tries = counter();
    let requests = RequestMap::new().middleware(three_times()).bind::<Act>(failing(9, tries, lost));
    let (mediator, began) = (mediator(requests), Instant::now());
    let options = SendOptions::default().with_timeout(SECOND * 2);
    let error = mediator.send_with(Act, &options).await.unwrap_err();
    // One wait of 1 s fits, one of 2 s more does not: the handler's own error is told, at once.
    assert_eq!(error.to_string(), "the connection is lost");
    assert_eq!((began.elapsed(), tries.load(Ordering::Relaxed)), (SECOND, 2));
}

#[tokio::test(start_paused = true)]
async fn a_retry_ends_when_the_request_is_cancelled() {
    let tries = counter();
    let requests = RequestMap::new().middleware(three_times()).bind::<Act>(failing(9, tries, lost));
    let (mediator, token) = (mediator(requests), CancellationToken::new());
    let options = SendOptions::default().with_cancellation(token.clone());
    let (reply, ()) = tokio::join!(mediator.send_with(Act, &options), async {
        sleep(SECOND / 2).await;
        token.cancel();
    });
    assert_eq!(reply.unwrap_err().to_string(), "the connection is lost");
    assert_eq!(tries.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn handlers_of_events_are_tried_again_too() {
    let (tries, journal) = (counter(), Journal::new());
    let map = EventMap::new()
        .middleware(three_times())
        .bind(on_event(move |_: &Happened, cx| {
            Box::pin(async move {
                let number = tries.fetch_add(1, Ordering::Relaxed) + 1;
                cx.emit(Followed(number));
                if number < 3 { Err(lost()) } else { Ok(()) }
            })
        }))
        .bind(on_event(move |Followed(number): &Followed, _| {
            journal.note(number.to_string());
            Box::pin(async { Ok(()) })
        }));
    events(map).emit(Happened(1)).await.unwrap();
    assert_eq!(journal.entries(), ["3"]);
}

#[derive(Debug, DomainEvent)]
struct Followed(u32);

#[test]
fn what_makes_no_sense_is_refused_when_the_mediator_is_made() {
    let quiet = || on_request(|_: Act, _| Box::pin(async { Ok(()) }));
    let refused = |problems: Result<RequestMediator>| problems.unwrap_err().to_string();
    let build = |requests| RequestMediator::new(requests, EventEmitter::default());

    let twice = RequestMap::new().middleware(three_times()).middleware(Tracing).middleware(three_times());
    let text = refused(RequestMediator::new(twice.bind::<Act>(quiet()), EventEmitter::default()));
    assert!(text.starts_with("the request `Act`: a `Retry` stands within another one"), "{text}");
    let own = RequestMap::new().middleware(three_times()).bind_with::<Act>(three_times(), quiet());
    assert!(refused(RequestMediator::new(own, EventEmitter::default())).contains("within another"));

    let passed = RequestMap::new()
        .middleware(Except::new(three_times()).request::<Once>())
        .bind_with::<Act>(three_times(), quiet());
    assert!(refused(RequestMediator::new(passed, EventEmitter::default())).contains("within another"));
    let passing = RequestMap::new()
        .middleware(Except::new(three_times()).request::<Act>())
        .bind_with::<Act>(three_times(), quiet());
    RequestMediator::new(passing, EventEmitter::default()).unwrap();

    let never = Retry::new(RetryPolicy::default().with_max_attempts(0).with_jitter(2.0));
    let text = refused(RequestMediator::new(
        RequestMap::new().middleware(never).bind::<Act>(quiet()),
        EventEmitter::default(),
    ));
    assert!(text.contains("attempts is 0") && text.contains("jitter is 2"), "{text}");

    // All of it at once.
    let both = RequestMap::new()
        .middleware(ConcurrencyLimit::new(0))
        .middleware(Retry::new(RetryPolicy::default().with_max_attempts(0)));
    let text = refused(RequestMediator::new(both.bind::<Act>(quiet()), EventEmitter::default()));
    assert!(text.contains("lets nothing through") && text.contains("attempts is 0"), "{text}");

    let unasked = RequestMap::new().bind(on_request(|_: Book, _| Box::pin(async { Ok(()) })));
    let text = refused(RequestMediator::new(unasked.middleware(Validation), EventEmitter::default()));
    assert!(text.starts_with("the request `Book`: it says what is wrong with it"), "{text}");

    let hasty = RequestMap::new().middleware(Timeout::after(Duration::ZERO)).bind::<Act>(quiet());
    let text = refused(RequestMediator::new(hasty, EventEmitter::default()));
    assert_eq!(text, "the request `Act`: a `Timeout` of zero fails each handler: give them some time");

    let closed = RequestMap::new().middleware(ConcurrencyLimit::new(0)).bind::<Act>(quiet());
    assert!(refused(RequestMediator::new(closed, EventEmitter::default())).contains("lets nothing through"));
    build(RequestMap::new().bind::<Act>(quiet())).unwrap();

    let map = EventMap::new()
        .middleware(three_times())
        .middleware(three_times())
        .bind::<Happened>(on_event(|_: &Happened, _| Box::pin(async { Ok(()) })));
    let error = EventMediator::new(EventEmitter::new(map)).unwrap_err();
    assert!(error.to_string().starts_with("the event `happened`: a `Retry` stands within"), "{error}");

    let all = EventMap::new()
        .middleware(ConcurrencyLimit::new(0))
        .middleware(Timeout::after(Duration::ZERO))
        .middleware(Retry::new(RetryPolicy::default().with_max_attempts(0)))
        .bind::<Happened>(on_event(|_: &Happened, _| Box::pin(async { Ok(()) })));
    let text = EventMediator::new(EventEmitter::new(all)).unwrap_err().to_string();
    assert!(text.contains("lets nothing through") && text.contains("attempts is 0"), "{text}");
    assert!(text.contains("a `Timeout` of zero fails each handler"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_drops_the_handler_and_what_it_said() {
    let journal = Journal::new();
    let requests = RequestMap::new().middleware(Timeout::after(SECOND)).bind(on_request(|_: Act, cx| {
        Box::pin(async move {
            cx.emit(Happened(1));
            assert_eq!(cx.deadline(), Some((Instant::now() + SECOND).into_std()));
            sleep(SECOND * 2).await;
            Ok(())
        })
    }));
    let map = EventMap::new().middleware(Timeout::after(SECOND)).bind(on_event(move |_: &Happened, _| {
        journal.note("happened");
        Box::pin(async {
            sleep(SECOND * 2).await;
            Ok(())
        })
    }));
    let mediator = RequestMediator::new(requests, EventEmitter::new(map)).unwrap();
    let error = mediator.send(Act).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(journal.entries().is_empty());
    let error = mediator.events().emit(Happened(1)).await.unwrap_err();
    assert_eq!((error.kind(), journal.entries().len()), (ErrorKind::Timeout, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_said_in_time_goes_out() {
    let journal = Journal::new();
    let requests = RequestMap::new()
        .middleware(Timeout::after(SECOND))
        .middleware(ConcurrencyLimit::new(1))
        .bind(on_request(|_: Act, cx| {
            Box::pin(async move {
                cx.emit(Happened(1));
                Ok(())
            })
        }));
    let map = EventMap::new()
        .middleware(Timeout::after(SECOND))
        .middleware(ConcurrencyLimit::new(1))
        .bind(on_event(|Happened(number): &Happened, cx| {
            Box::pin(async move {
                cx.emit(Followed(*number));
                Ok(())
            })
        }))
        .bind(on_event(move |Followed(number): &Followed, _| {
            journal.note(format!("followed {number}"));
            Box::pin(async { Ok(()) })
        }));
    RequestMediator::new(requests, EventEmitter::new(map)).unwrap().send(Act).await.unwrap();
    assert_eq!(journal.entries(), ["followed 1"]);
}

#[tokio::test]
async fn a_panic_is_an_error_and_rolls_back() {
    let db = FakeDb::new();
    let handler = in_transaction(|_: Act, tx, _| {
        Box::pin(async move {
            tx.insert("row");
            panic!("seat {} is gone", 5)
        })
    });
    let requests =
        RequestMap::new().middleware(CatchPanic).bind::<Act>(Transactional::new(db.unit(), handler));
    // One that panics before it gives a future.
    let requests = requests.bind(on_request(|_: Once, _| panic!("at once")));
    let mediator = mediator(requests);
    let error = mediator.send(Act).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panic);
    assert_eq!(error.to_string(), "the handler of `Act` panicked: seat 5 is gone");
    assert_eq!(db.journal().entries(), ["begin", "insert row", "dropped"]);
    assert_eq!(mediator.send(Once).await.unwrap_err().to_string(), "the handler of `Once` panicked: at once");

    let map = EventMap::new()
        .middleware(CatchPanic)
        .bind(on_event(|_: &Happened, _| Box::pin(async { std::panic::panic_any(5) })));
    let error = events(map).emit(Happened(1)).await.unwrap_err();
    assert_eq!(error.to_string(), "the handler of `happened` panicked: without a word");
}

/// Handlers that wait until they are told, and how many run.
fn held(gate: Arc<Notify>, running: &'static AtomicU32) -> impl RequestHandler<Act> {
    on_request(move |_: Act, _| {
        let gate = Arc::clone(&gate);
        Box::pin(async move {
            running.fetch_add(1, Ordering::Relaxed);
            gate.notified().await;
            Ok(())
        })
    })
}

#[tokio::test]
async fn a_limit_lets_so_many_run_so_many_wait_and_refuses_the_rest() {
    let (gate, running) = (Arc::new(Notify::new()), counter());
    let limit = ConcurrencyLimit::new(2).with_max_waiting(1);
    let requests = RequestMap::new().middleware(limit).bind::<Act>(held(Arc::clone(&gate), running));
    let mediator = mediator(requests);
    let mut calls: Vec<_> = (0..3).map(|_| mediator.send(Act)).collect();
    for call in &mut calls {
        assert!(call.now_or_never().is_none());
    }
    assert_eq!(running.load(Ordering::Relaxed), 2);
    let error = mediator.send(Act).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Overloaded, true));
    assert_eq!(error.to_string(), "`Act`: 2 are at work, and 1 wait already");
    // One that gives up makes room for another one to wait.
    drop(calls.pop());
    let mut waits = mediator.send(Act);
    assert!((&mut waits).now_or_never().is_none());
    gate.notify_waiters();
    for call in calls {
        call.await.unwrap();
    }
    assert!((&mut waits).now_or_never().is_none());
    assert_eq!(running.load(Ordering::Relaxed), 3);
    gate.notify_waiters();
    waits.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_is_cancelled_waits_no_longer() {
    let (gate, running) = (Arc::new(Notify::new()), counter());
    let limit = ConcurrencyLimit::new(1).with_max_waiting(1);
    let requests = RequestMap::new().middleware(limit).bind::<Act>(held(Arc::clone(&gate), running));
    let (mediator, token) = (mediator(requests), CancellationToken::new());
    let mut holds = mediator.send(Act);
    assert!((&mut holds).now_or_never().is_none());
    let options = SendOptions::default().with_cancellation(token.clone());
    let waiting = timeout(SECOND, mediator.send_with(Act, &options));
    let (waited, ()) = tokio::join!(waiting, async { token.cancel() });
    assert_eq!(waited.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(running.load(Ordering::Relaxed), 1);
    // Now another one may wait, and gets the place when it is free.
    let mut waits = mediator.send(Act);
    assert!((&mut waits).now_or_never().is_none());
    gate.notify_one();
    holds.await.unwrap();
    gate.notify_one();
    timeout(SECOND, waits).await.unwrap().unwrap();
}

#[tokio::test]
async fn requests_within_one_that_has_a_place_use_its_place() {
    let requests = RequestMap::new()
        .middleware(ConcurrencyLimit::new(1).with_max_waiting(0))
        .bind(on_request(|_: Once, _| Box::pin(async { Ok(()) })))
        .bind(on_request(|_: Outer, cx| {
            Box::pin(async move {
                let (one, two) = tokio::join!(cx.send(Once), cx.send(Once));
                cx.emit(Happened(1));
                one.and(two)
            })
        }));
    // The place is free when events go out, so their handlers' requests have to find one, and do.
    let map = EventMap::new().bind(on_event(|_: &Happened, cx| Box::pin(async move { cx.send(Once).await })));
    let mediator = RequestMediator::new(requests, EventEmitter::new(map)).unwrap();
    mediator.send(Outer).await.unwrap();
    mediator.send(Outer).await.unwrap();
}

#[tokio::test]
async fn limits_that_were_cloned_are_one_and_others_are_others() {
    let (gate, running) = (Arc::new(Notify::new()), counter());
    let limit = ConcurrencyLimit::new(1).with_max_waiting(0);
    let requests = RequestMap::new()
        .bind_with::<Act>(limit.clone(), held(Arc::clone(&gate), running))
        .bind_with::<Once>(limit, on_request(|_: Once, _| Box::pin(async { Ok(()) })))
        .bind_with::<Outer>(
            ConcurrencyLimit::new(1).with_max_waiting(0),
            on_request(|_: Outer, _| Box::pin(async { Ok(()) })),
        );
    let mediator = mediator(requests);
    let mut holds = mediator.send(Act);
    assert!((&mut holds).now_or_never().is_none());
    assert_eq!(mediator.send(Once).await.unwrap_err().kind(), ErrorKind::Overloaded);
    mediator.send(Outer).await.unwrap();
    drop(holds);
    mediator.send(Once).await.unwrap();
}

#[derive(Request)]
#[request(validate)]
struct Book {
    seats: u32,
    room: &'static str,
}

impl Validate for Book {
    fn validate(&self) -> Result<(), ValidationErrors> {
        ValidationErrors::new()
            .unless(self.seats > 0, "seats", "at least one")
            .unless(!self.room.is_empty(), "room", "which one?")
            .into_result()
    }
}

#[derive(Request)]
#[request(validate = even)]
struct Even(u32);

fn even(number: &Even) -> std::result::Result<(), fmt::Error> {
    if number.0.is_multiple_of(2) { Ok(()) } else { Err(fmt::Error) }
}

#[derive(garde::Validate)]
struct Guest {
    #[garde(length(min = 1))]
    name: String,
}

#[derive(Request, garde::Validate)]
#[request(validate = validated_by_garde)]
struct Invite {
    #[garde(dive)]
    guests: Vec<Guest>,
    #[garde(range(max = 9))]
    room: u32,
}

#[tokio::test]
async fn what_a_request_says_of_itself_refuses_it_before_its_handler() {
    let seen = Journal::new();
    fn accepting<R: Request<Response = (), Error = Error>>(seen: &'static Journal) -> impl RequestHandler<R> {
        on_request(move |_: R, _| {
            seen.note(R::name());
            Box::pin(async { Ok(()) })
        })
    }
    let requests = RequestMap::new()
        .middleware(Validation)
        .bind::<Book>(accepting(seen))
        .bind::<Even>(accepting(seen))
        .bind::<Invite>(accepting(seen))
        .bind::<Act>(accepting(seen));
    let mediator = mediator(requests);
    let error = mediator.send(Book { seats: 0, room: "" }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert_eq!(error.to_string(), "the request `Book` was refused: seats: at least one; room: which one?");
    let fields: Vec<_> =
        error.downcast_ref::<ValidationErrors>().unwrap().iter().map(|error| &*error.field).collect();
    assert_eq!(fields, ["seats", "room"]);
    assert!(mediator.send(Even(3)).await.unwrap_err().downcast_ref::<fmt::Error>().is_some());
    let guests = vec![Guest { name: "Ada".into() }, Guest { name: String::new() }];
    let error = mediator.send(Invite { guests, room: 12 }).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("guests[1].name: ") && text.contains("room: greater than 9"), "{text}");
    assert!(seen.entries().is_empty());

    mediator.send(Book { seats: 1, room: "blue" }).await.unwrap();
    mediator.send(Even(2)).await.unwrap();
    mediator.send(Invite { guests: Vec::new(), room: 1 }).await.unwrap();
    mediator.send(Act).await.unwrap();
    assert_eq!(seen.entries(), ["Book", "Even", "Invite", "Act"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_can_pass_by_a_middleware() {
    let slow = || {
        Box::pin(async {
            sleep(SECOND * 2).await;
            Ok(())
        })
    };
    let limit = Except::new(Timeout::after(SECOND)).request::<Once>().request::<Outer>();
    let requests = RequestMap::new()
        .middleware(limit)
        .bind(on_request(move |_: Act, _| slow()))
        .bind(on_request(move |_: Once, _| slow()));
    let mediator = mediator(requests);
    mediator.send(Once).await.unwrap();
    assert_eq!(mediator.send(Act).await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn an_event_can_pass_by_a_middleware() {
    let journal = Journal::new();
    let map = EventMap::new()
        .middleware(Except::new(Note(journal, "around")).event::<Followed>())
        .bind(on_event(|_: &Happened, cx| {
            Box::pin(async move {
                cx.emit(Followed(1));
                Ok(())
            })
        }))
        .bind(on_event(move |_: &Followed, _| {
            journal.note("followed");
            Box::pin(async { Ok(()) })
        }));
    events(map).emit(Happened(1)).await.unwrap();
    assert_eq!(journal.entries(), ["around > happened", "around <", "followed"]);
}

#[test]
fn what_passes_by_a_middleware_does_not_mind_where_it_stands() {
    let quiet = on_request(|_: Act, _| Box::pin(async { Ok(()) }));
    let requests = RequestMap::new()
        .middleware(three_times())
        .middleware(Except::new(three_times()).request::<Act>())
        .bind::<Act>(quiet);
    mediator(requests);
}

/// Notes each event that comes and goes.
struct Note(&'static Journal, &'static str);

impl<E: Event> EventMiddleware<E> for Note {
    async fn call<N: EventHandler<E>>(&self, event: &E, cx: &Context<'_>, next: &N) -> Result<()> {
        self.0.note(format!("{} > {}", self.1, E::NAME));
        let handled = next.handle(event, cx).await;
        self.0.note(format!("{} <", self.1));
        handled
    }
}

#[tokio::test]
async fn middlewares_stand_around_the_events_that_are_bound_after_them() {
    let journal = Journal::new();
    let handler = |name: &'static str| {
        on_event(move |_: &Happened, _| {
            journal.note(name);
            Box::pin(async { Ok(()) })
        })
    };
    let map = EventMap::new()
        .bind(handler("one"))
        .middleware(Note(journal, "outer"))
        .middleware(Note(journal, "inner"))
        .bind(handler("two"))
        .subscribe(
            "told",
            on_event(move |_: &Told, _| {
                journal.note("received");
                Box::pin(async { Ok(()) })
            }),
        );
    let mediator = events(map);
    mediator.emit(Happened(1)).await.unwrap();
    assert_eq!(
        journal.entries(),
        ["one", "outer > happened", "inner > happened", "two", "inner <", "outer <"]
    );
    journal.clear();
    let mut message = Message::new("told", "7");
    message.name = "told".into();
    mediator.handle(message).await.unwrap();
    assert_eq!(journal.entries(), ["outer > told", "inner > told", "received", "inner <", "outer <"]);
}
