//! What goes along with a request: a deadline, a token, a scope.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cqrs_core::*;
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::support::*;

#[derive(Clone, Request)]
#[request(retry)]
struct Act;

#[derive(Request)]
#[request(response = Option<Duration>)]
struct HowLong;

#[derive(Request)]
struct Inner;

const SECOND: Duration = Duration::from_secs(1);

fn mediator<S>(requests: RequestMap<S>) -> RequestMediator {
    RequestMediator::new(requests, EventEmitter::default()).unwrap()
}

fn left(cx: &Context<'_>) -> Option<Duration> {
    cx.deadline().map(|deadline| deadline - Instant::now().into_std())
}

#[tokio::test(start_paused = true)]
async fn a_deadline_drops_the_handler_and_its_transaction() {
    let db = FakeDb::new();
    let handler = in_transaction(|_: Act, tx, _| {
        Box::pin(async move {
            tx.insert("row");
            sleep(SECOND * 10).await;
            Ok(())
        })
    });
    let mediator = mediator(RequestMap::new().bind::<Act>(Transactional::new(db.unit(), handler)));
    let began = Instant::now();
    let error = mediator.send_with(Act, &SendOptions::default().with_timeout(SECOND)).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Timeout, true));
    assert_eq!(error.to_string(), "the time for `Act` is up");
    assert_eq!(began.elapsed(), SECOND);
    assert_eq!(db.journal().entries(), ["begin", "insert row", "dropped"]);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_behind_a_commit_is_a_commit_in_doubt() {
    // By its options, by a middleware, and by the options of a request within it.
    for way in 0..3 {
        let db = FakeDb::new();
        let events = EventMap::new().bind(on_event(|_: &Happened, _| {
            Box::pin(async {
                sleep(SECOND * 10).await;
                Ok(())
            })
        }));
        let handler = in_transaction(|_: Act, tx, cx| {
            Box::pin(async move {
                tx.insert("row");
                cx.emit(Happened(1));
                Ok(())
            })
        });
        let outer = on_request(|_: Inner, cx| {
            Box::pin(async move { cx.send_with(Act, &SendOptions::default().with_timeout(SECOND)).await })
        });
        let requests = RequestMap::new().bind::<Act>(Transactional::new(db.unit(), handler)).bind(outer);
        let mediator = RequestMediator::new(requests, EventEmitter::new(events)).unwrap();
        let options = SendOptions::default().with_timeout(SECOND);
        let error = match way {
            0 => mediator.send_with(Act, &options).await.unwrap_err(),
            1 => mediator.handle_of::<Act>().unwrap().send_with(Act, &options).await.unwrap_err(),
            _ => mediator.send(Inner).await.unwrap_err(),
        };
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::CommitUnknown, false), "way {way}");
        assert_eq!(db.rows(), ["row"]);
    }
}

/// Of a stream, too, whoever is slow: its handler or its reader.
#[tokio::test(start_paused = true)]
async fn a_streams_deadline_behind_a_commit_is_a_commit_in_doubt() {
    for (handler_takes, reader_takes) in [(SECOND * 10, Duration::ZERO), (Duration::ZERO, SECOND * 10)] {
        for fails in [false, true] {
            let db = FakeDb::new();
            let act = in_transaction(|_: Act, tx, _| {
                Box::pin(async move {
                    tx.insert("row");
                    Ok(())
                })
            });
            let requests = RequestMap::new()
                .bind::<Act>(Transactional::new(db.unit(), act))
                .bind_stream::<Acts>(Acting { fails, takes: handler_takes });
            let mediator = mediator(requests);
            let options = SendOptions::default().with_timeout(SECOND);
            let mut items = mediator.stream_with(Acts, &options);
            assert_eq!(items.next().await.unwrap().is_err(), fails);
            sleep(reader_takes).await;
            let error = items.next().await.unwrap().unwrap_err();
            assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::CommitUnknown, false));
            assert_eq!(db.rows(), ["row"]);
        }
    }
}

/// What was said for an item that failed is over with it, too.
#[tokio::test(start_paused = true)]
async fn a_streams_deadline_behind_an_error_is_not_one_of_events_that_went_out_before() {
    let events = EventMap::new().bind(on_event(|_: &Happened, _| Box::pin(async { Ok(()) })));
    let act = on_request(|_: Act, cx| {
        cx.emit(Happened(1));
        Box::pin(async { Ok(()) })
    });
    let requests =
        RequestMap::new().bind::<Act>(act).bind_stream::<Acts>(Acting { fails: true, takes: Duration::ZERO });
    let mediator = RequestMediator::new(requests, EventEmitter::new(events)).unwrap();
    let options = SendOptions::default().with_timeout(SECOND);
    let mut items = mediator.stream_with(Acts, &options);
    items.next().await.unwrap().unwrap_err();
    sleep(SECOND * 2).await;
    let error = items.next().await.unwrap().unwrap_err();
    assert!(error.to_string().starts_with("the time for `Acts` is up"), "{error}");
    assert!(!error.to_string().contains("events go out"), "{error}");
}

#[derive(StreamRequest)]
#[request(item = ())]
struct Acts;

/// Acts, gives an item or an error, and takes so long for the next one.
struct Acting {
    fails: bool,
    takes: Duration,
}

impl StreamHandler<Acts> for Acting {
    fn handle(&self, _: Acts, cx: &Context<'_>) -> impl Stream<Item = Result<()>> + Send {
        async_stream::stream! {
            let acted = cx.send(Act).await;
            yield if self.fails { Err(Error::new(ErrorKind::Handler, "not well")) } else { acted };
            sleep(self.takes).await;
            yield Ok(());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_behind_a_commit_that_has_failed_is_no_commit_in_doubt() {
    let db = FakeDb::new();
    db.fail("commit", ErrorKind::Transaction);
    let handler = in_transaction(|_: Act, _, _| Box::pin(async { Ok(()) }));
    let outer = on_request(|_: Inner, cx| {
        Box::pin(async move {
            let _ = cx.send(Act).await;
            sleep(SECOND * 10).await;
            Ok(())
        })
    });
    let requests = RequestMap::new().bind::<Act>(Transactional::new(db.unit(), handler)).bind(outer);
    let (mediator, options) = (mediator(requests), SendOptions::default().with_timeout(SECOND));
    assert_eq!(mediator.send_with(Inner, &options).await.unwrap_err().kind(), ErrorKind::Timeout);
    let options = SendOptions::default().with_timeout(SECOND);
    // The next one is committed.
    assert_eq!(mediator.send_with(Inner, &options).await.unwrap_err().kind(), ErrorKind::CommitUnknown);
}

#[tokio::test(start_paused = true)]
async fn a_time_that_is_up_while_it_is_committed_is_never_tried_again() {
    /// Goes on behind the commit.
    struct Linger;

    impl<R: Request> Middleware<R> for Linger {
        async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
            let reply = next.run(request, cx).await;
            sleep(SECOND * 10).await;
            reply
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
        .middleware(Retry::default())
        .middleware(Timeout::after(SECOND))
        .middleware(Linger)
        .bind::<Act>(Transactional::new(db.unit(), handler));
    let error = mediator(requests).send(Act).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommitUnknown);
    assert_eq!(db.rows(), ["row"]);
}

#[tokio::test(start_paused = true)]
async fn the_earliest_deadline_goes_down_through_requests_and_events() {
    let journal = Journal::new();
    let requests = RequestMap::new()
        .bind(on_request(|_: HowLong, cx| {
            Box::pin(async move {
                cx.emit(Happened(1));
                Ok(left(cx))
            })
        }))
        .bind(on_request(|_: Act, cx| {
            Box::pin(async move {
                assert_eq!(left(cx), Some(SECOND * 5));
                let longer = SendOptions::default().with_timeout(SECOND * 9);
                assert_eq!(cx.send_with(HowLong, &longer).await?, Some(SECOND * 5));
                let shorter = SendOptions::default().with_timeout(SECOND * 2);
                assert_eq!(cx.send_with(HowLong, &shorter).await?, Some(SECOND * 2));
                assert_eq!(cx.send(HowLong).await?, Some(SECOND * 5));
                Ok(())
            })
        }));
    let events = EventMap::new().bind(on_event(move |_: &Happened, cx| {
        journal.note(format!("{:?}", left(cx).unwrap().as_secs()));
        Box::pin(async { Ok(()) })
    }));
    let mediator = RequestMediator::new(requests, EventEmitter::new(events)).unwrap();
    mediator.send_with(Act, &SendOptions::default().with_timeout(SECOND * 5)).await.unwrap();
    assert_eq!(journal.entries(), ["5", "2", "5"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_any_more_when_the_time_is_up_or_the_token_is_cancelled() {
    let inner = || on_request(|_: Inner, _| Box::pin(async { panic!("it is not to begin") }));
    let kinds = |work: fn(CancellationToken) -> futures_util::future::BoxFuture<'static, ()>| {
        let token = CancellationToken::new();
        let given = token.clone();
        let outer = on_request(move |_: Act, cx| {
            let token = given.clone();
            Box::pin(async move {
                work(token).await;
                cx.send(Inner).await
            })
        });
        let options = SendOptions::default().with_timeout(SECOND).with_cancellation(token);
        (mediator(RequestMap::new().bind(inner()).bind(outer)), options)
    };
    let (mediator, options) = kinds(|token| {
        Box::pin(async move {
            token.cancel();
        })
    });
    let error = mediator.send_with(Act, &options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(error.to_string(), "`Inner` was cancelled before it began");
    // It is cancelled now, so not even the first one begins.
    let error = mediator.send_with(Act, &options).await.unwrap_err();
    assert_eq!(error.to_string(), "`Act` was cancelled before it began");

    let past = SendOptions::default().with_timeout(Duration::ZERO);
    assert_eq!(mediator.send_with(Act, &past).await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn a_time_that_is_up_while_events_go_out_is_told_as_that() {
    let requests = RequestMap::new().bind(on_request(|_: Act, cx| {
        Box::pin(async move {
            cx.emit(Happened(1));
            Ok(())
        })
    }));
    let events = EventMap::new().bind(on_event(|_: &Happened, _| {
        Box::pin(async {
            sleep(SECOND * 2).await;
            Ok(())
        })
    }));
    let mediator = RequestMediator::new(requests, EventEmitter::new(events)).unwrap();
    let options = SendOptions::default().with_timeout(SECOND);
    let error = mediator.send_with(Act, &options).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Timeout, false));
    assert!(error.to_string().contains("what came before them is done"), "{error}");
    let options = SendOptions::default().with_timeout(SECOND);
    let error = mediator.events().emit_with(Happened(1), &options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn requests_that_send_one_another_without_end_are_an_error() {
    let depth: &'static AtomicU32 = Box::leak(Box::default());
    let requests = RequestMap::new().bind(on_request(move |_: Act, cx| {
        Box::pin(async move {
            depth.fetch_add(1, Ordering::Relaxed);
            cx.emit(Happened(1));
            Ok(())
        })
    }));
    let events =
        EventMap::new().bind(on_event(|_: &Happened, cx| Box::pin(async move { cx.send(Act).await })));
    let mediator = RequestMediator::new(requests, EventEmitter::new(events).with_max_depth(7)).unwrap();
    let error = mediator.send(Act).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::EventFlood);
    assert!(error.to_string().starts_with("`Act` would be sent from within 7 other requests"), "{error}");
    assert_eq!(depth.load(Ordering::Relaxed), 7);
}

#[tokio::test]
async fn a_token_stops_what_is_sent_from_deep_within() {
    let token = CancellationToken::new();
    let cancel = token.clone();
    let requests = RequestMap::new()
        .bind(on_request(|_: Act, cx| Box::pin(async move { cx.send(HowLong).await.map(drop) })))
        .bind(on_request(move |_: HowLong, cx| {
            cancel.cancel();
            Box::pin(async move { cx.send(Inner).await.map(|()| None) })
        }))
        .bind(on_request(|_: Inner, _| Box::pin(async { Ok(()) })));
    let options = SendOptions::default().with_cancellation(token);
    let error = mediator(requests).send_with(Act, &options).await.unwrap_err();
    assert_eq!(error.to_string(), "`Inner` was cancelled before it began");
}

#[tokio::test]
async fn a_handler_sees_that_it_is_cancelled_and_ends_as_it_sees_fit() {
    let requests = RequestMap::new()
        .bind(on_request(|_: Act, cx| Box::pin(async move { cx.send(Inner).await })))
        .bind(on_request(|_: Inner, cx| {
            Box::pin(async move {
                cx.cancellation().cancelled().await;
                Ok(())
            })
        }));
    let mediator = mediator(requests);
    let token = CancellationToken::new();
    let options = SendOptions::default().with_cancellation(token.clone());
    let (reply, ()) = tokio::join!(mediator.send_with(Act, &options), async { token.cancel() });
    reply.unwrap();
}

#[tokio::test]
async fn a_token_of_its_own_is_cancelled_by_those_around_it_and_not_the_other_way_round() {
    let (outer, inner) = (CancellationToken::new(), CancellationToken::new());
    let given = inner.clone();
    let requests = RequestMap::new()
        .bind(on_request(move |_: Act, cx| {
            let options = SendOptions::default().with_cancellation(given.clone());
            Box::pin(async move { cx.send_with(HowLong, &options).await.map(drop) })
        }))
        .bind(on_request(|_: HowLong, cx| {
            Box::pin(async move {
                cx.cancellation().cancelled().await;
                Ok(None)
            })
        }));
    let mediator = mediator(requests);
    let options = SendOptions::default().with_cancellation(outer.clone());
    let (reply, ()) = tokio::join!(mediator.send_with(Act, &options), async { outer.cancel() });
    reply.unwrap();
    assert!(!inner.is_cancelled());
    let (reply, ()) = tokio::join!(mediator.send(Act), async { inner.cancel() });
    reply.unwrap();
}

#[tokio::test]
async fn without_a_token_nothing_is_ever_cancelled() {
    let requests = RequestMap::new().bind(on_request(|_: Act, cx| {
        Box::pin(async move {
            cx.cancellation().cancel();
            assert!(!cx.cancellation().is_cancelled());
            cx.send(Inner).await
        })
    }));
    let requests = requests.bind(on_request(|_: Inner, _| Box::pin(async { Ok(()) })));
    mediator(requests).send(Act).await.unwrap();
}

/// Says when it is dropped.
struct Session(&'static Journal, u32);

impl Drop for Session {
    fn drop(&mut self) {
        self.0.note("dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn what_goes_along_with_an_event_is_there_for_its_handlers_and_what_they_lead_to() {
    let journal = Journal::new();
    let look = move |who: &'static str, cx: &Context<'_>| {
        let scope = cx.scope().get::<&str>();
        journal.note(format!("{who} {:?} {:?} {:?}", left(cx), cx.correlation().correlation_id, scope));
    };
    let requests = RequestMap::new().bind(on_request(move |_: Inner, cx| {
        look("request", cx);
        Box::pin(async { Ok(()) })
    }));
    let events = EventMap::new().bind(on_event(move |_: &Happened, cx| {
        Box::pin(async move {
            look("event", cx);
            cx.send(Inner).await
        })
    }));
    let events = RequestMediator::new(requests, EventEmitter::new(events)).unwrap().events();
    let (token, scope) = (CancellationToken::new(), Scope::default());
    scope.set("who asked");
    let options = SendOptions::default()
        .with_timeout(SECOND)
        .with_correlation(Correlation::new("mine"))
        .with_scope(scope)
        .with_cancellation(token.clone());
    events.emit_with(Happened(1), &options).await.unwrap();
    let seen = r#"Some(1s) Some("mine") Some("who asked")"#;
    assert_eq!(journal.entries(), [format!("event {seen}"), format!("request {seen}")]);

    journal.clear();
    token.cancel();
    let error = events.emit_with(Happened(2), &options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(error.to_string(), "`happened` was cancelled before it began");
    assert!(journal.entries().is_empty());
}

/// Once more would be twice.
#[tokio::test(start_paused = true)]
async fn a_time_that_is_up_for_an_event_from_outside_is_retryable_only_if_nothing_was_done() {
    let journal = Journal::new();
    let events = EventMap::new()
        .bind(on_event(move |_: &Happened, _| {
            journal.note("first");
            Box::pin(async { Ok(()) })
        }))
        .bind(on_event(|_: &Happened, _| Box::pin(std::future::pending())));
    let events = EventMediator::new(EventEmitter::new(events)).unwrap();
    let past = SendOptions::default().with_deadline(Instant::now().into_std());
    let error = events.emit_with(Happened(1), &past).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Timeout, true));
    assert_eq!(error.to_string(), "the time for `happened` is up");
    assert!(journal.entries().is_empty());

    let options = SendOptions::default().with_timeout(SECOND);
    let error = events.emit_with(Happened(1), &options).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Timeout, false));
    assert!(error.is_out_of_time());
    assert_eq!(journal.entries(), ["first"]);
}

#[derive(Serialize, Deserialize, NotificationEvent)]
#[event(topic = "rooms")]
struct Closed;

fn closed() -> Message {
    Encoder::default().encode(Envelope::new(Closed), &Correlation::new("theirs")).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_goes_along_with_a_received_message_is_there_for_all_its_handlers() {
    let journal = Journal::new();
    let look = || {
        on_event(move |_: &Closed, cx| {
            let (scope, message) = (cx.scope().get::<&str>(), cx.message().map(|message| &message.name));
            let correlation = cx.correlation().correlation_id;
            journal.note(format!("{:?} {correlation:?} {scope:?} {message:?}", left(cx)));
            cx.scope().set("the first handler");
            Box::pin(async { Ok(()) })
        })
    };
    let events = EventMap::new().subscribe::<Closed>("rooms", look()).subscribe::<Closed>("rooms", look());
    let events = EventMediator::new(EventEmitter::new(events)).unwrap();
    let (token, scope) = (CancellationToken::new(), Scope::default());
    scope.set("the caller");
    let options = SendOptions::default().with_timeout(SECOND).with_cancellation(token.clone());
    let dispatched = events.handle_with(closed(), &options.clone().with_scope(scope)).await.unwrap();
    assert_eq!((dispatched.event.as_str(), dispatched.handled), ("closed", 2));
    let seen = |from, scope| format!(r#"Some(1s) Some("{from}") {scope} Some("closed")"#);
    assert_eq!(
        journal.entries(),
        [seen("theirs", r#"Some("the caller")"#), seen("theirs", r#"Some("the first handler")"#)]
    );

    // What was not given is the message's.
    let mine = SendOptions::default().with_correlation(Correlation::new("mine"));
    let causes = Arc::new(std::sync::Mutex::new(None));
    let told = causes.clone();
    let event = on_event(move |_: &Closed, cx| {
        *told.lock().unwrap() = Some(cx.correlation());
        Box::pin(async { Ok(()) })
    });
    let looking = EventMediator::new(EventEmitter::new(EventMap::new().subscribe::<Closed>("rooms", event)));
    let message = closed();
    looking.unwrap().handle_with(message.clone(), &mine).await.unwrap();
    let correlation = causes.lock().unwrap().take().unwrap();
    assert_eq!(correlation.correlation_id.as_deref(), Some("mine"));
    assert_eq!(correlation.causation_id.as_deref(), message.id.map(|id| id.to_string()).as_deref());

    // A conversation of one's own; without a scope each handler has one for itself.
    journal.clear();
    events.handle_with(closed(), &options.clone().with_correlation(Correlation::new("mine"))).await.unwrap();
    assert_eq!(journal.entries(), [seen("mine", "None"), seen("mine", "None")]);

    journal.clear();
    token.cancel();
    assert_eq!(events.handle_with(closed(), &options).await.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(journal.entries().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_received_message_is_that_of_all_its_handlers_together() {
    struct Slow(&'static str);

    impl EventHandler<Closed> for Slow {
        async fn handle(&self, _: &Closed, _: &Context<'_>) -> Result<()> {
            sleep(SECOND * 2 / 3).await;
            Ok(())
        }

        fn name(&self) -> &str {
            self.0
        }
    }

    let events = EventMap::new()
        .subscribe::<Closed>("elsewhere", Slow("not asked"))
        .subscribe::<Closed>("rooms", Slow("in time"))
        .subscribe::<Closed>("rooms", Slow("too slow"))
        .subscribe::<Closed>("rooms", Slow("not begun"));
    let events = EventMediator::new(EventEmitter::new(events)).unwrap();
    let began = Instant::now();
    let error = events.handle_with(closed(), &SendOptions::default().with_timeout(SECOND)).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Timeout, true));
    assert_eq!(
        error.to_string(),
        "the time for `closed` is up; the handler `too slow` or a middleware around it was at work"
    );
    assert_eq!(began.elapsed(), SECOND);
    let past = SendOptions::default().with_deadline(Instant::now().into_std());
    let error = events.handle_with(closed(), &past).await.unwrap_err();
    assert_eq!(error.to_string(), "the time for `closed` is up");
}

/// Of its own, or one that hears what the message led to; it hangs if it says so.
struct Hears(&'static str, bool);

impl<E: Event> EventHandler<E> for Hears {
    async fn handle(&self, _: &E, _: &Context<'_>) -> Result<()> {
        if self.1 { std::future::pending().await } else { Ok(()) }
    }

    fn name(&self) -> &str {
        self.0
    }
}

/// Says how many events, or asks for a request that does.
fn leads_to(happened: u32, asks: bool) -> impl EventHandler<Closed> {
    on_event(move |_: &Closed, cx| {
        for number in 0..happened {
            cx.emit(Happened(number));
        }
        Box::pin(async move { if asks { cx.send(Act).await } else { Ok(()) } })
    })
}

#[tokio::test(start_paused = true)]
async fn of_several_handlers_those_that_are_at_work_when_the_messages_time_is_up_are_named() {
    let hung = async |events: EventMap, at_once| {
        let act = on_request(|_: Act, cx| {
            cx.emit(Happened(7));
            Box::pin(async { Ok(()) })
        });
        let emitter = EventEmitter::new(events).with_concurrency(at_once);
        let mediator = RequestMediator::new(RequestMap::new().bind::<Act>(act), emitter).unwrap();
        let options = SendOptions::default().with_timeout(SECOND);
        let error = mediator.events().handle_with(closed(), &options).await.unwrap_err().to_string();
        error.strip_prefix("the time for `closed` is up; ").unwrap_or(&error).to_owned()
    };
    let said = |happened| EventMap::new().subscribe::<Closed>("rooms", leads_to(happened, false));
    let many = |events: EventMap| {
        events
            .bind::<Happened>(Hears("quick", false))
            .bind::<Happened>(Hears("hung", true))
            .bind::<Happened>(Hears("hung, too", true))
            .bind::<Happened>(Hears("third", true))
            .bind::<Happened>(Hears("fourth", true))
    };
    // One after the other, whether the event is the only one or the second.
    for happened in [1, 2] {
        assert_eq!(
            hung(many(said(happened)), 1).await,
            "the handler `hung` or a middleware around it was at work"
        );
    }
    // In whichever order they were dropped.
    let three = hung(many(said(1)), 3).await;
    let named = ["`hung`", "`hung, too`", "`third`"].iter().filter(|name| three.contains(**name)).count();
    assert!(named == 3 && three.ends_with("or middlewares around them were at work"), "{three}");
    let four = hung(many(said(1)), 10).await;
    assert!(four.contains(" and 1 more or middlewares around them were at work"), "{four}");
    // One that waits for what hangs is at work, too.
    let asks = EventMap::new().subscribe::<Closed>("rooms", leads_to(0, true));
    let text = hung(many(asks), 1).await;
    assert!(text.contains("; the handlers `hung`, `") && text.contains("leads_to"), "{text}");

    struct Stands;

    impl<E: Event> EventMiddleware<E> for Stands {
        async fn call<N: EventHandler<E>>(&self, _: &E, _: &Context<'_>, _: &N) -> Result<()> {
            std::future::pending().await
        }
    }

    let stands = EventMap::new().middleware(Stands).subscribe::<Closed>("rooms", Hears("idle", false));
    assert_eq!(
        hung(stands.with_middleware(NoMiddleware), 1).await,
        "the handler `idle` or a middleware around it was at work"
    );
}

/// Somebody else has what it takes to begin one.
struct NeverBegins(Encoder);

#[async_trait]
impl BeginTransaction<FakeDb> for NeverBegins {
    async fn begin(&self) -> Result<FakeTx> {
        std::future::pending().await
    }

    fn encoder(&self) -> &Encoder {
        &self.0
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_transaction_when_the_messages_time_is_up_is_told_from_who_hangs() {
    let hung = async |unit: UnitOfWork<FakeDb>| {
        let events = EventMap::new().subscribe::<Closed>("rooms", Asks);
        let hangs = in_transaction(|_: Act, _, _| Box::pin(std::future::pending()));
        let requests = RequestMap::new().bind::<Act>(Transactional::new(unit, hangs));
        let mediator = RequestMediator::new(requests, EventEmitter::new(events)).unwrap();
        let options = SendOptions::default().with_timeout(SECOND);
        mediator.events().handle_with(closed(), &options).await.unwrap_err().to_string()
    };
    assert_eq!(
        hung(FakeDb::new().unit()).await,
        "the time for `closed` is up; the handler `asks` or a middleware around it was at work"
    );
    let never = UnitOfWork::new(Arc::new(NeverBegins(Encoder::default())), BeforeCommit::new());
    assert_eq!(
        hung(never).await,
        "the time for `closed` is up; the handler `asks` (which waited for a transaction to begin) or a middleware around it \
         was at work"
    );
}

/// Who hangs beside one that waits has not waited.
#[tokio::test(start_paused = true)]
async fn who_waits_for_a_transaction_is_not_taken_for_who_hangs_beside_it() {
    let both = on_event(|_: &Closed, cx| {
        Box::pin(async move { futures_util::try_join!(cx.send(Inner), cx.send(Act)).map(drop) })
    });
    let hangs = in_transaction(|_: Act, _, _| Box::pin(std::future::pending()));
    let says = on_request(|_: Inner, cx| {
        cx.emit(Happened(1));
        Box::pin(async { Ok(()) })
    });
    let never = UnitOfWork::new(Arc::new(NeverBegins(Encoder::default())), BeforeCommit::new());
    let requests = RequestMap::new().bind::<Act>(Transactional::new(never, hangs)).bind(says);
    let events = EventMap::new().subscribe::<Closed>("rooms", both).bind::<Happened>(Hears("hung", true));
    let mediator = RequestMediator::new(requests, EventEmitter::new(events)).unwrap();
    let options = SendOptions::default().with_timeout(SECOND);
    let error = mediator.events().handle_with(closed(), &options).await.unwrap_err().to_string();
    assert!(error.contains("the handlers `hung`, `"), "{error}");
    assert_eq!(error.matches("(which waited for a transaction to begin)").count(), 1, "{error}");
}

struct Asks;

impl EventHandler<Closed> for Asks {
    async fn handle(&self, _: &Closed, cx: &Context<'_>) -> Result<()> {
        cx.send(Act).await
    }

    fn name(&self) -> &str {
        "asks"
    }
}

/// What an inner deadline cut off is not at work any more.
#[tokio::test(start_paused = true)]
async fn what_a_deadline_within_has_cut_off_is_not_named_when_the_messages_time_is_up() {
    struct TriesAndHangs;

    impl EventHandler<Closed> for TriesAndHangs {
        async fn handle(&self, _: &Closed, cx: &Context<'_>) -> Result<()> {
            cx.send_with(Act, &SendOptions::default().with_timeout(SECOND)).await.unwrap_err();
            std::future::pending().await
        }

        fn name(&self) -> &str {
            "hangs"
        }
    }

    let act = on_request(|_: Act, cx| {
        cx.emit(Happened(1));
        Box::pin(async { Ok(()) })
    });
    let events = EventMap::new()
        .subscribe::<Closed>("rooms", TriesAndHangs)
        .bind::<Happened>(Hears("was cut off before", true));
    let mediator =
        RequestMediator::new(RequestMap::new().bind::<Act>(act), EventEmitter::new(events)).unwrap();
    let options = SendOptions::default().with_timeout(SECOND * 2);
    let error = mediator.events().handle_with(closed(), &options).await.unwrap_err();
    let text = error.to_string();
    assert!(text.ends_with("; the handler `hangs` or a middleware around it was at work"), "{text}");
}

/// It is a request within the handler that hangs, or who hears what the handler has said.
#[tokio::test(start_paused = true)]
async fn only_the_handler_that_is_at_work_when_the_messages_time_is_up_is_named() {
    let asks = on_event(|_: &Closed, cx| {
        Box::pin(async move { cx.send_with(Act, &SendOptions::default().with_timeout(SECOND)).await })
    });
    let says = on_event(|_: &Closed, cx| {
        cx.emit(Happened(1));
        Box::pin(async { Ok(()) })
    });
    let hangs = Hears("hangs", true);
    let act = || RequestMap::new().bind::<Act>(on_request(|_: Act, _| Box::pin(std::future::pending())));
    let events = [
        (EventMap::new().subscribe::<Closed>("rooms", asks), "the time for `Act` is up"),
        (
            EventMap::new().subscribe::<Closed>("rooms", says).bind::<Happened>(hangs),
            "the time for `closed` is up; the handler `hangs` or a middleware around it was at work",
        ),
    ];
    for (events, said) in events {
        let mediator = RequestMediator::new(act(), EventEmitter::new(events)).unwrap();
        let options = SendOptions::default().with_timeout(SECOND * 2);
        let error = mediator.events().handle_with(closed(), &options).await.unwrap_err();
        assert_eq!(error.to_string(), said);
    }
}

/// The number of the session of the scope.
async fn session(cx: &Context<'_>, journal: &'static Journal, made: &'static AtomicU32) -> Result<u32> {
    let make = async || Result::<_>::Ok(Session(journal, made.fetch_add(1, Ordering::Relaxed)));
    Ok(cx.scope().get_or_try_init(make).await?.1)
}

#[tokio::test]
async fn a_scope_lives_as_long_as_the_request_and_its_events() {
    let journal = Journal::new();
    let made: &'static AtomicU32 = Box::leak(Box::default());
    let requests = RequestMap::new()
        .bind(on_request(move |_: Inner, cx| {
            Box::pin(async move {
                journal.note(format!("inner {}", session(cx, journal, made).await?));
                Ok(())
            })
        }))
        .bind(on_request(move |_: Act, cx| {
            Box::pin(async move {
                cx.send(Inner).await?;
                cx.emit(Happened(1));
                journal.note(format!("outer {}", session(cx, journal, made).await?));
                Ok(())
            })
        }));
    let events = EventMap::new().bind(on_event(move |_: &Happened, cx| {
        Box::pin(async move {
            journal.note(format!("event {}", session(cx, journal, made).await?));
            cx.send(Inner).await
        })
    }));
    let mediator = RequestMediator::new(requests, EventEmitter::new(events)).unwrap();
    mediator.send(Act).await.unwrap();
    assert_eq!(journal.entries(), ["inner 0", "outer 0", "event 0", "inner 0", "dropped"]);
    journal.clear();
    mediator.send(Act).await.unwrap();
    assert_eq!(journal.entries(), ["inner 1", "outer 1", "event 1", "inner 1", "dropped"]);
}

#[tokio::test]
async fn a_scope_can_be_given_along() {
    let requests = RequestMap::new().bind(on_request(|_: Act, cx| {
        Box::pin(async move {
            assert_eq!(cx.scope().get::<&str>().as_deref(), Some(&"who asked"));
            cx.scope().set(7_u32);
            // A request within another keeps its scope, whatever is given.
            cx.send_with(Inner, &SendOptions::default().with_scope(Scope::default())).await
        })
    }));
    let requests = requests.bind(on_request(|_: Inner, cx| {
        Box::pin(async move {
            assert_eq!(cx.scope().get::<&str>().as_deref(), Some(&"who asked"));
            Ok(())
        })
    }));
    let scope = Scope::default();
    scope.set("who asked");
    mediator(requests).send_with(Act, &SendOptions::default().with_scope(scope.clone())).await.unwrap();
    assert_eq!(scope.get::<u32>().as_deref(), Some(&7));
    assert!(scope.get::<u64>().is_none());
}

#[tokio::test]
async fn a_value_of_a_scope_is_made_once_and_again_if_it_failed() {
    let scope = Scope::default();
    let failed: Result<Arc<u32>, &str> = scope.get_or_try_init(async || Err("no")).await;
    assert_eq!(failed, Err("no"));
    let slow = || {
        scope.get_or_try_init(async || {
            tokio::task::yield_now().await;
            Result::<u32, &str>::Ok(1)
        })
    };
    let fast = || scope.get_or_try_init(async || Result::<u32, &str>::Ok(2));
    let (one, other) = tokio::join!(slow(), fast());
    assert_eq!((*one.unwrap(), *other.unwrap()), (1, 1));
    scope.set(3_u32);
    assert_eq!(*fast().await.unwrap(), 3);
}

#[tokio::test]
async fn a_correlation_in_the_options_holds_for_what_is_said() {
    let requests = RequestMap::new().bind(on_request(|_: Act, cx| {
        Box::pin(async move {
            assert_eq!(cx.correlation(), Correlation::new("mine"));
            let other = SendOptions::default().with_correlation(Correlation::new("other"));
            cx.send_with(Inner, &other).await?;
            cx.send_with(Inner, &SendOptions::default()).await.unwrap_err();
            Ok(())
        })
    }));
    let requests = requests.bind(on_request(|_: Inner, cx| {
        Box::pin(async move {
            if cx.correlation() == Correlation::new("other") { Ok(()) } else { Err(Error::handler("mine")) }
        })
    }));
    let options = SendOptions::default().with_correlation(Correlation::new("mine"));
    mediator(requests).send_with(Act, &options).await.unwrap();
}
