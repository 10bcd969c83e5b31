//! Transactional handlers: what is committed, what is rolled back, and what runs when.

use std::sync::Arc;

use cqrs_core::*;
use tokio::sync::Notify;

use crate::support::*;

#[derive(Request)]
struct Close;

#[derive(Request)]
struct Inner;

fn noting(db: FakeDb) -> impl EventHandler<Happened> {
    on_event(move |Happened(number): &Happened, cx| {
        assert!(!cx.is_in_transaction());
        db.journal().note(format!("happened {number}"));
        Box::pin(async { Ok(()) })
    })
}

/// A row, a domain event, two integration events.
fn closing() -> impl TransactionalHandler<Close, FakeDb> {
    in_transaction(|_: Close, tx, cx| {
        Box::pin(async move {
            assert!(cx.is_in_transaction());
            tx.insert("closed");
            cx.emit(Told(1));
            cx.emit(Happened(1));
            cx.emit(Told(2));
            Ok(())
        })
    })
}

fn mediator(
    db: FakeDb,
    before_commit: BeforeCommit<FakeDb>,
    handler: impl TransactionalHandler<Close, FakeDb>,
) -> RequestMediator {
    let requests = RequestMap::new().bind::<Close>(Transactional::new(db.unit_with(before_commit), handler));
    RequestMediator::new(requests, EventEmitter::new(EventMap::new().bind(noting(db)))).unwrap()
}

/// Nothing was committed, and nobody heard of anything.
fn assert_nothing_happened(db: FakeDb) {
    assert!(db.rows().is_empty());
    assert!(db.outbox().is_empty());
    let journal = db.journal().entries();
    assert!(!journal.iter().any(|entry| entry.starts_with("happened")), "{journal:?}");
}

#[tokio::test]
async fn rows_and_messages_are_committed_together_and_domain_events_follow() {
    let db = FakeDb::new();
    mediator(db, BeforeCommit::new(), closing()).send(Close).await.unwrap();
    assert_eq!(db.journal().entries(), ["begin", "insert closed", "write", "commit", "happened 1"]);
    assert_eq!(db.rows(), ["closed"]);
    assert_eq!(payloads(&db.outbox()), ["1", "2"]);
}

#[tokio::test]
async fn a_handler_that_says_nothing_writes_no_messages() {
    let db = FakeDb::new();
    let handler = in_transaction(|_: Close, tx, _| {
        tx.insert("closed");
        Box::pin(async { Ok(()) })
    });
    mediator(db, BeforeCommit::new(), handler).send(Close).await.unwrap();
    assert_eq!(db.journal().entries(), ["begin", "insert closed", "commit"]);
}

#[tokio::test]
async fn handlers_before_the_commit_work_in_the_transaction() {
    let db = FakeDb::new();
    let before_commit = BeforeCommit::new()
        .bind(before_the_commit(|Happened(number): &Happened, tx, cx| {
            Box::pin(async move {
                assert!(cx.is_in_transaction());
                tx.insert(format!("first {number}"));
                if *number == 1 {
                    cx.emit(Told(3));
                    cx.emit(Happened(2));
                }
                Ok(())
            })
        }))
        .bind(before_the_commit(|Happened(number): &Happened, tx, _| {
            tx.insert(format!("second {number}"));
            Box::pin(async { Ok(()) })
        }));
    mediator(db, before_commit, closing()).send(Close).await.unwrap();
    assert_eq!(
        db.journal().entries(),
        [
            "begin",
            "insert closed",
            "insert first 1",
            "insert second 1",
            "insert first 2",
            "insert second 2",
            "write",
            "commit",
            "happened 1",
            "happened 2",
        ]
    );
    assert_eq!(db.rows(), ["closed", "first 1", "second 1", "first 2", "second 2"]);
    assert_eq!(payloads(&db.outbox()), ["1", "2", "3"]);
}

#[tokio::test]
async fn a_failed_handler_rolls_everything_back() {
    let db = FakeDb::new();
    let handler = in_transaction(|_: Close, tx, cx| {
        Box::pin(async move {
            tx.insert("closed");
            cx.emit(Told(1));
            cx.emit(Happened(1));
            "five".parse::<u32>()?;
            Ok(())
        })
    });
    let error = mediator(db, BeforeCommit::new(), handler).send(Close).await.unwrap_err();
    assert!(error.downcast_ref::<std::num::ParseIntError>().is_some());
    assert_eq!(db.journal().entries(), ["begin", "insert closed", "rollback"]);
    assert_nothing_happened(db);
}

#[tokio::test]
async fn a_failed_handler_before_the_commit_rolls_everything_back() {
    let db = FakeDb::new();
    let before_commit = BeforeCommit::new()
        .bind(before_the_commit(|_: &Happened, _, _| Box::pin(async { Err(Error::handler("no")) })));
    let error = mediator(db, before_commit, closing()).send(Close).await.unwrap_err();
    assert_eq!(error.to_string(), "no");
    assert_eq!(db.journal().entries(), ["begin", "insert closed", "rollback"]);
    assert_nothing_happened(db);
}

#[tokio::test]
async fn a_refused_event_rolls_back_before_anything_is_written() {
    for (text, refused) in REFUSED {
        let db = FakeDb::new();
        let handler = in_transaction(move |_: Close, tx, cx| {
            Box::pin(async move {
                tx.insert("closed");
                cx.emit(Happened(1));
                cx.emit(Told(1));
                refused(cx);
                Ok(())
            })
        });
        let error = mediator(db, BeforeCommit::new(), handler).send(Close).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidEvent);
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(db.journal().entries(), ["begin", "insert closed", "rollback"]);
        assert_nothing_happened(db);
    }
}

#[tokio::test]
async fn a_flood_rolls_back_before_anything_is_written() {
    let db = FakeDb::new();
    let before_commit = BeforeCommit::new().bind(before_the_commit(|Happened(number): &Happened, _, cx| {
        Box::pin(async move {
            cx.emit(Happened(*number + 1));
            Ok(())
        })
    }));
    let requests =
        RequestMap::new().bind::<Close>(Transactional::new(db.unit_with(before_commit), closing()));
    let emitter = EventEmitter::new(EventMap::new().bind(noting(db))).with_max_events(5);
    let error = RequestMediator::new(requests, emitter).unwrap().send(Close).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::EventFlood);
    assert_eq!(db.journal().entries(), ["begin", "insert closed", "rollback"]);
    assert_nothing_happened(db);
}

#[tokio::test]
async fn a_database_that_fails_is_an_error_and_nothing_happened() {
    for (step, kind, journal) in [
        ("begin", ErrorKind::Store, vec!["begin"]),
        ("write", ErrorKind::Store, vec!["begin", "insert closed", "write", "rollback"]),
        ("commit", ErrorKind::Transaction, vec!["begin", "insert closed", "write", "commit", "dropped"]),
    ] {
        let db = FakeDb::new();
        db.fail(step, kind);
        let mediator = mediator(db, BeforeCommit::new(), closing());
        let error = mediator.send(Close).await.unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (kind, format!("{step} failed")));
        assert_eq!(db.journal().entries(), journal);
        assert_nothing_happened(db);

        mediator.send(Close).await.unwrap();
        assert_eq!(db.rows(), ["closed"]);
    }
}

#[tokio::test]
async fn a_rollback_that_fails_does_not_hide_the_handlers_error() {
    let db = FakeDb::new();
    db.fail("rollback", ErrorKind::Transaction);
    let handler = in_transaction(|_: Close, _, _| Box::pin(async { Err(Error::handler("the cause")) }));
    let error = mediator(db, BeforeCommit::new(), handler).send(Close).await.unwrap_err();
    assert_eq!(error.to_string(), "the cause");
    assert_eq!(db.journal().entries(), ["begin", "rollback", "dropped"]);
}

#[tokio::test]
async fn a_failed_handler_after_the_commit_undoes_nothing() {
    let db = FakeDb::new();
    let requests = RequestMap::new().bind::<Close>(Transactional::new(db.unit(), closing()));
    let events =
        EventMap::new().bind(on_event(|_: &Happened, _| Box::pin(async { Err(Error::handler("no")) })));
    let mediator = RequestMediator::new(requests, EventEmitter::new(events)).unwrap();
    assert_eq!(mediator.send(Close).await.unwrap_err().to_string(), "no");
    assert_eq!(db.rows(), ["closed"]);
    assert_eq!(db.outbox().len(), 2);
}

#[tokio::test]
async fn after_the_commit_an_integration_event_needs_a_target_again() {
    let db = FakeDb::new();
    let events = EventMap::new().bind(on_event(|_: &Happened, cx| {
        Box::pin(async move {
            cx.emit(Told(9));
            Ok(())
        })
    }));
    let requests = || RequestMap::new().bind::<Close>(Transactional::new(db.unit(), closing()));
    let mediator = RequestMediator::new(requests(), EventEmitter::new(events)).unwrap();
    assert_eq!(mediator.send(Close).await.unwrap_err().kind(), ErrorKind::NoTarget);
    assert_eq!(payloads(&db.outbox()), ["1", "2"]);
}

/// `Close` sends `Inner`, in its transaction, and says something before and after it.
fn nesting() -> impl TransactionalHandler<Close, FakeDb> {
    in_transaction(|_: Close, tx, cx| {
        Box::pin(async move {
            tx.insert("closed");
            cx.emit(Told(1));
            cx.send(Inner).await?;
            cx.emit(Told(3));
            Ok(())
        })
    })
}

#[tokio::test]
async fn what_a_nested_request_says_goes_with_the_transaction() {
    for outer_fails in [false, true] {
        let db = FakeDb::new();
        let before_commit = BeforeCommit::new().bind(before_the_commit(|_: &Happened, tx, _| {
            tx.insert("before the commit");
            Box::pin(async { Ok(()) })
        }));
        let handler = in_transaction(move |_: Close, tx, cx| {
            Box::pin(async move {
                tx.insert("closed");
                cx.emit(Told(1));
                cx.send(Inner).await?;
                cx.emit(Told(3));
                if outer_fails { Err(Error::handler("no")) } else { Ok(()) }
            })
        });
        let requests = RequestMap::new()
            .bind::<Close>(Transactional::new(db.unit_with(before_commit), handler))
            .bind(on_request(|_: Inner, cx| {
                Box::pin(async move {
                    assert!(cx.is_in_transaction());
                    cx.emit(Told(2));
                    cx.emit(Happened(2));
                    Ok(())
                })
            }));
        let emitter = EventEmitter::new(EventMap::new().bind(noting(db)));
        let sent = RequestMediator::new(requests, emitter).unwrap().send(Close).await;
        if outer_fails {
            sent.unwrap_err();
            assert_eq!(db.journal().entries(), ["begin", "insert closed", "rollback"]);
            assert_nothing_happened(db);
        } else {
            sent.unwrap();
            assert_eq!(payloads(&db.outbox()), ["1", "2", "3"]);
            assert_eq!(db.rows(), ["closed", "before the commit"]);
            assert_eq!(db.journal().entries().last().unwrap(), "happened 2");
        }
    }
}

#[tokio::test]
async fn an_event_that_is_refused_fails_the_nested_request_that_said_it() {
    let db = FakeDb::new();
    let handler = in_transaction(|_: Close, tx, cx| {
        Box::pin(async move {
            let error = cx.send(Inner).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidEvent);
            tx.insert("closed without the inner");
            Ok(())
        })
    });
    let requests = RequestMap::new().bind::<Close>(Transactional::new(db.unit(), handler)).bind(on_request(
        |_: Inner, cx| {
            Box::pin(async move {
                cx.emit(Told(2));
                cx.emit(Unspeakable);
                Ok(())
            })
        },
    ));
    RequestMediator::new(requests, EventEmitter::default()).unwrap().send(Close).await.unwrap();
    assert_eq!(db.rows(), ["closed without the inner"]);
    assert!(db.outbox().is_empty());
}

#[tokio::test]
async fn a_transactional_request_within_a_transaction_is_refused() {
    let db = FakeDb::new();
    let inner = in_transaction(|_: Inner, tx, _| {
        tx.insert("inner");
        Box::pin(async { Ok(()) })
    });
    let requests = RequestMap::new()
        .bind::<Close>(Transactional::new(db.unit(), nesting()))
        .bind::<Inner>(Transactional::new(db.unit(), inner));
    let mediator = RequestMediator::new(requests, EventEmitter::default()).unwrap();
    let error = mediator.send(Close).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transaction);
    assert!(
        error.to_string().starts_with("a transactional request was sent from within a transaction"),
        "{error}"
    );
    assert_eq!(db.journal().entries(), ["begin", "insert closed", "rollback"]);

    mediator.send(Inner).await.unwrap();
    assert_eq!(db.rows(), ["inner"]);
}

#[tokio::test]
async fn a_transaction_goes_on_after_the_refusal_of_another_within_it() {
    let db = FakeDb::new();
    let handler = in_transaction(|_: Close, _, cx| {
        Box::pin(async move {
            cx.emit(Told(1));
            assert!(cx.send(Inner).await.is_err());
            assert!(cx.is_in_transaction());
            assert!(cx.send(Inner).await.is_err());
            cx.emit(Told(2));
            Ok(())
        })
    });
    let inner = in_transaction(|_: Inner, _, _| Box::pin(async { Ok(()) }));
    let requests = RequestMap::new()
        .bind::<Close>(Transactional::new(db.unit(), handler))
        .bind::<Inner>(Transactional::new(db.unit(), inner));
    RequestMediator::new(requests, EventEmitter::default()).unwrap().send(Close).await.unwrap();
    assert_eq!(payloads(&db.outbox()), ["1", "2"]);
    assert_eq!(db.journal().entries(), ["begin", "write", "commit"]);
}

#[tokio::test]
async fn a_plain_handler_can_send_transactional_requests_one_after_the_other() {
    let db = FakeDb::new();
    let inner = in_transaction(|_: Inner, tx, _| {
        tx.insert("inner");
        Box::pin(async { Ok(()) })
    });
    let requests = RequestMap::new().bind::<Inner>(Transactional::new(db.unit(), inner)).bind(on_request(
        |_: Close, cx| {
            Box::pin(async move {
                cx.send(Inner).await?;
                cx.send(Inner).await
            })
        },
    ));
    RequestMediator::new(requests, EventEmitter::default()).unwrap().send(Close).await.unwrap();
    assert_eq!(db.rows(), ["inner", "inner"]);
}

#[tokio::test]
async fn a_send_that_is_dropped_rolls_back() {
    let db = FakeDb::new();
    let reached = Arc::new(Notify::new());
    let handler = in_transaction({
        let reached = Arc::clone(&reached);
        move |_: Close, tx: &mut FakeTx, cx| {
            let reached = Arc::clone(&reached);
            Box::pin(async move {
                tx.insert("closed");
                cx.emit(Told(1));
                cx.emit(Happened(1));
                reached.notify_one();
                std::future::pending().await
            })
        }
    });
    let mediator = mediator(db, BeforeCommit::new(), handler);
    tokio::select! {
        biased;
        _ = mediator.send(Close) => panic!("it cannot end"),
        () = reached.notified() => {}
    }
    assert_eq!(db.journal().entries(), ["begin", "insert closed", "dropped"]);
    assert_nothing_happened(db);
}

#[tokio::test]
async fn a_handler_can_do_units_of_work_by_hand_one_after_the_other() {
    let db = FakeDb::new();
    let requests = RequestMap::new().bind(on_request(move |_: Close, cx| {
        let unit = db.unit();
        Box::pin(async move {
            let tx = unit.begin(cx).await?;
            cx.emit(Told(1));
            let failed: Result<()> = unit.complete(tx, cx, Err(Error::handler("no"))).await;
            assert_eq!(failed.unwrap_err().to_string(), "no");
            assert!(!cx.is_in_transaction());

            let tx = unit.begin(cx).await?;
            cx.emit(Told(2));
            unit.complete(tx, cx, Ok::<_, Error>(())).await?;

            db.fail("commit", ErrorKind::Transaction);
            let tx = unit.begin(cx).await?;
            cx.emit(Told(3));
            let failed: Result<()> = unit.complete(tx, cx, Ok(())).await;
            assert_eq!(failed.unwrap_err().kind(), ErrorKind::Transaction);
            assert!(!cx.is_in_transaction());

            let tx = unit.begin(cx).await?;
            cx.emit(Told(4));
            cx.emit(Happened(4));
            unit.complete(tx, cx, Ok::<_, Error>(())).await?;
            assert!(!cx.is_in_transaction());
            Ok(())
        })
    }));
    let emitter = EventEmitter::new(EventMap::new().bind(noting(db)));
    RequestMediator::new(requests, emitter).unwrap().send(Close).await.unwrap();
    assert_eq!(payloads(&db.outbox()), ["2", "4"]);
    assert_eq!(db.journal().entries().last().unwrap(), "happened 4");
}

/// Into a context where nothing was said, into one where something was, and behind what is said there later.
#[tokio::test]
async fn what_nested_requests_say_in_a_transaction_stands_where_they_were_sent() {
    let db = FakeDb::new();
    let handler = in_transaction(|_: Close, _, cx| {
        Box::pin(async move {
            cx.send(Say(1)).await?;
            cx.send(Say(2)).await?;
            cx.emit(Happened(3));
            cx.emit(Told(3));
            cx.send(Say(4)).await
        })
    });
    let requests = RequestMap::new().bind::<Close>(Transactional::new(db.unit(), handler)).bind(on_request(
        |Say(number), cx| {
            Box::pin(async move {
                cx.emit(Happened(number));
                cx.emit(Told(number));
                Ok(())
            })
        },
    ));
    let events = EventMap::new().bind(noting(db));
    let mediator = RequestMediator::new(requests, EventEmitter::new(events)).unwrap();
    mediator.send(Close).await.unwrap();
    assert_eq!(payloads(&db.outbox()), ["1", "2", "3", "4"]);
    let happened: Vec<_> =
        db.journal().entries().into_iter().filter(|entry| entry.starts_with("happened")).collect();
    assert_eq!(happened, ["happened 1", "happened 2", "happened 3", "happened 4"]);
}

#[derive(Request)]
struct Say(u32);
