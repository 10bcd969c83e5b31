//! Middlewares: their order, which requests they stand around, and handlers that are tried again.

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cqrs_core::*;
use futures_util::future::{Either, select};

use crate::support::*;

#[derive(Clone, Request)]
struct Act;

#[derive(Clone, Request)]
struct Other;

/// Notes when a request comes and goes.
struct Note(&'static str, &'static Journal);

impl<R: Request> Middleware<R> for Note {
    async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
        self.1.note(format!("{} > {}", self.0, R::name()));
        let reply = next.run(request, cx).await;
        self.1.note(format!("{} <", self.0));
        reply
    }
}

/// Tries up to three times.
struct Retry;

impl<R: Request + Clone> Middleware<R> for Retry
where
    R: Sync,
{
    async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
        for _ in 0..2 {
            if let Ok(response) = next.run(request.clone(), cx).await {
                return Ok(response);
            }
        }
        next.run(request, cx).await
    }
}

struct Timeout;

impl<R: Request> Middleware<R> for Timeout {
    async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
        match tokio::time::timeout(Duration::from_secs(1), next.run(request, cx)).await {
            Ok(reply) => reply,
            Err(_) => Err(Error::new(ErrorKind::Timeout, "too slow").into()),
        }
    }
}

/// Answers in place of a handler that fails, and says so.
struct Instead;

impl Middleware<Act> for Instead {
    async fn call<N: Next<Act>>(&self, request: Act, cx: &Context<'_>, next: &N) -> Result<()> {
        if next.run(request, cx).await.is_err() {
            cx.emit(Happened(99));
        }
        Ok(())
    }
}

fn acting<R: Request<Response = (), Error = Error>>(journal: &'static Journal) -> impl RequestHandler<R> {
    on_request(move |_: R, _| {
        journal.note("the handler");
        Box::pin(async { Ok(()) })
    })
}

fn noting(journal: &'static Journal) -> EventEmitter {
    EventEmitter::new(EventMap::new().bind(on_event(move |Happened(number): &Happened, _| {
        journal.note(format!("happened {number}"));
        Box::pin(async { Ok(()) })
    })))
}

#[tokio::test]
async fn the_first_middleware_is_the_outermost_and_that_of_the_request_the_innermost() {
    let journal = Journal::new();
    let requests = RequestMap::new()
        .middleware(Note("a", journal))
        .middleware(Note("b", journal))
        .bind_with::<Act>(Note("own", journal), acting(journal))
        .bind::<Other>(acting(journal));
    let mediator = RequestMediator::new(requests, EventEmitter::default()).unwrap();

    mediator.send(Act).await.unwrap();
    assert_eq!(journal.entries(), ["a > Act", "b > Act", "own > Act", "the handler", "own <", "b <", "a <"]);
    journal.clear();
    mediator.send(Other).await.unwrap();
    assert_eq!(journal.entries(), ["a > Other", "b > Other", "the handler", "b <", "a <"]);
}

#[tokio::test]
async fn a_middleware_stands_around_the_requests_that_are_bound_after_it() {
    let journal = Journal::new();
    let requests = RequestMap::new()
        .bind::<Act>(acting(journal))
        .middleware(Note("a", journal))
        .bind::<Other>(acting(journal));
    let mediator = RequestMediator::new(requests, EventEmitter::default()).unwrap();

    mediator.send(Act).await.unwrap();
    assert_eq!(journal.entries(), ["the handler"]);
    journal.clear();
    mediator.send(Other).await.unwrap();
    assert_eq!(journal.entries(), ["a > Other", "the handler", "a <"]);
}

#[tokio::test]
async fn the_map_can_go_on_with_other_middlewares() {
    let journal = Journal::new();
    let requests = RequestMap::new().middleware(Note("a", journal));
    let before = requests.current_middleware().clone();
    let requests = requests
        .with_middleware(NoMiddleware)
        .bind::<Act>(acting(journal))
        .with_middleware(before)
        .bind::<Other>(acting(journal));
    let mediator = RequestMediator::new(requests, EventEmitter::default()).unwrap();

    mediator.send(Act).await.unwrap();
    mediator.send(Other).await.unwrap();
    assert_eq!(journal.entries(), ["the handler", "a > Other", "the handler", "a <"]);
}

#[tokio::test]
async fn nested_requests_go_through_their_middlewares() {
    let journal = Journal::new();
    let requests = RequestMap::new()
        .middleware(Note("a", journal))
        .bind(on_request(|_: Act, cx| Box::pin(async move { cx.send(Other).await })))
        .bind::<Other>(acting(journal));
    let mediator = RequestMediator::new(requests, EventEmitter::default()).unwrap();
    mediator.send(Act).await.unwrap();
    assert_eq!(journal.entries(), ["a > Act", "a > Other", "the handler", "a <", "a <"]);
}

#[tokio::test]
async fn a_retry_drops_what_the_failed_tries_said() {
    let journal = Journal::new();
    let tries = AtomicU32::new(0);
    let requests = RequestMap::new().middleware(Retry).bind(on_request(move |_: Act, cx| {
        let this = tries.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            cx.emit(Happened(this));
            if this < 2 { Err(Error::handler("not yet")) } else { Ok(()) }
        })
    }));
    let mediator = RequestMediator::new(requests, noting(journal)).unwrap();
    mediator.send(Act).await.unwrap();
    assert_eq!(journal.entries(), ["happened 2"]);
}

#[tokio::test]
async fn a_middleware_that_answers_instead_of_a_failed_handler_speaks_for_itself_alone() {
    let journal = Journal::new();
    let requests = RequestMap::new().middleware(Instead).bind(on_request(|_: Act, cx| {
        Box::pin(async move {
            cx.emit(Happened(1));
            Err(Error::handler("no"))
        })
    }));
    let mediator = RequestMediator::new(requests, noting(journal)).unwrap();
    mediator.send(Act).await.unwrap();
    assert_eq!(journal.entries(), ["happened 99"]);
}

#[tokio::test(start_paused = true)]
async fn a_try_that_is_cut_off_leaves_nothing_behind() {
    let journal = Journal::new();
    let tries = AtomicU32::new(0);
    let requests =
        RequestMap::new().middleware(Retry).middleware(Timeout).bind(on_request(move |_: Act, cx| {
            let this = tries.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                cx.emit(Happened(this));
                if this == 0 {
                    std::future::pending::<()>().await;
                }
                Ok(())
            })
        }));
    let mediator = RequestMediator::new(requests, noting(journal)).unwrap();
    mediator.send(Act).await.unwrap();
    assert_eq!(journal.entries(), ["happened 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_transactional_try_that_is_cut_off_is_rolled_back_and_tried_again() {
    let db = FakeDb::new();
    let tries = AtomicU32::new(0);
    let handler = in_transaction(move |_: Act, tx, cx| {
        let this = tries.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            tx.insert(format!("try {this}"));
            cx.emit(Told(this));
            match this {
                0 => std::future::pending().await,
                1 => Err(Error::handler("not yet")),
                _ => Ok(()),
            }
        })
    });
    let requests = RequestMap::new()
        .middleware(Retry)
        .middleware(Timeout)
        .bind::<Act>(Transactional::new(db.unit(), handler));
    let mediator = RequestMediator::new(requests, EventEmitter::default()).unwrap();
    mediator.send(Act).await.unwrap();
    assert_eq!(db.rows(), ["try 2"]);
    assert_eq!(payloads(&db.outbox()), ["2"]);
    assert_eq!(
        db.journal().entries(),
        [
            "begin",
            "insert try 0",
            "dropped", //
            "begin",
            "insert try 1",
            "rollback", //
            "begin",
            "insert try 2",
            "write",
            "commit",
        ]
    );
}

#[tokio::test]
async fn tracing_lets_replies_and_errors_through() {
    let requests = RequestMap::new()
        .middleware(Tracing)
        .bind(on_request(|_: Act, _| Box::pin(async { Err(Error::handler("no")) })))
        .bind::<Other>(acting(Journal::new()));
    let mediator = RequestMediator::new(requests, EventEmitter::default()).unwrap();
    assert_eq!(mediator.send(Act).await.unwrap_err().to_string(), "no");
    mediator.send(Other).await.unwrap();
}

/// Tries twice at the same time, and takes the first that answers.
struct Hedge;

impl<R: Request + Clone> Middleware<R> for Hedge {
    async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
        let (one, two) = (next.run(request.clone(), cx), next.run(request, cx));
        match select(pin!(one), pin!(two)).await {
            Either::Left((reply, _)) | Either::Right((reply, _)) => reply,
        }
    }
}

#[tokio::test]
async fn a_try_that_is_given_up_takes_nothing_from_the_one_that_succeeded() {
    let journal = Journal::new();
    let tries = AtomicU32::new(0);
    let requests = RequestMap::new().middleware(Hedge).bind(on_request(move |_: Act, cx| {
        let this = tries.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            cx.emit(Happened(this));
            if this == 0 {
                std::future::pending::<()>().await;
            }
            Ok(())
        })
    }));
    let mediator = RequestMediator::new(requests, noting(journal)).unwrap();
    mediator.send(Act).await.unwrap();
    assert_eq!(journal.entries(), ["happened 1"]);
}

#[tokio::test]
async fn a_middleware_speaks_before_and_after_the_handler() {
    struct Speak;

    impl Middleware<Act> for Speak {
        async fn call<N: Next<Act>>(&self, request: Act, cx: &Context<'_>, next: &N) -> Result<()> {
            cx.emit(Happened(1));
            next.run(request, cx).await?;
            cx.emit(Happened(3));
            Ok(())
        }
    }

    let journal = Journal::new();
    let requests = RequestMap::new().middleware(Speak).bind(on_request(|_: Act, cx| {
        Box::pin(async move {
            cx.emit(Happened(2));
            Ok(())
        })
    }));
    let mediator = RequestMediator::new(requests, noting(journal)).unwrap();
    mediator.send(Act).await.unwrap();
    assert_eq!(journal.entries(), ["happened 1", "happened 2", "happened 3"]);
}
