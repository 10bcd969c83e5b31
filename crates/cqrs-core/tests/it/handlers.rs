//! Handlers that are made of others.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, Ordering};

use cqrs_core::*;

use crate::support::*;

#[derive(Clone, Request)]
#[request(response = u32)]
struct Ask(u32);

#[derive(Clone, Debug, DomainEvent)]
struct Opened(u32);

#[derive(Clone, Debug, DomainEvent)]
struct Closed(u32);

fn noting(journal: &'static Journal) -> EventMap {
    EventMap::new().bind(on_event(move |Happened(number): &Happened, _| {
        journal.note(format!("happened {number}"));
        Box::pin(async { Ok(()) })
    }))
}

fn mediator(handler: impl RequestHandler<Ask>, journal: &'static Journal) -> RequestMediator {
    RequestMediator::new(RequestMap::new().bind::<Ask>(handler), EventEmitter::new(noting(journal))).unwrap()
}

/// Answers what is below, adds one to the others and passes them on, says so in both cases, and fails for 99.
struct Below(u32);

impl Link<Ask> for Below {
    async fn handle(&self, Ask(number): Ask, cx: &Context<'_>) -> Result<ControlFlow<u32, Ask>> {
        cx.emit(Happened(self.0));
        match number {
            99 => Err(Error::handler("99")),
            answered if answered < self.0 => Ok(ControlFlow::Break(answered)),
            other => Ok(ControlFlow::Continue(Ask(other + 1))),
        }
    }
}

#[tokio::test]
async fn the_first_link_that_answers_is_the_last_that_is_asked() {
    let journal = Journal::new();
    let mediator = mediator(Chain::new().link(Below(10)).link(Below(20)).link(Below(30)), journal);
    assert_eq!(mediator.send(Ask(5)).await.unwrap(), 5);
    assert_eq!(journal.entries(), ["happened 10"]);
    journal.clear();
    // As the link before has changed it; and what both said goes out.
    assert_eq!(mediator.send(Ask(15)).await.unwrap(), 16);
    assert_eq!(journal.entries(), ["happened 10", "happened 20"]);
}

#[tokio::test]
async fn a_chain_without_an_answer_or_with_an_error_fails_and_says_nothing() {
    let journal = Journal::new();
    let mediator = mediator(Chain::new().link(Below(10)).link(Below(20)), journal);
    let error = mediator.send(Ask(50)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingHandler);
    assert_eq!(error.to_string(), "no link of the chain for the request `Ask` has answered it");
    assert_eq!(mediator.send(Ask(98)).await.unwrap_err().to_string(), "99");
    assert!(journal.entries().is_empty());
}

/// Answers with its number.
struct Numbered(u32);

impl RequestHandler<Ask> for Numbered {
    async fn handle(&self, _: Ask, _: &Context<'_>) -> Result<u32> {
        Ok(self.0)
    }
}

impl EventHandler<Opened> for Numbered {
    async fn handle(&self, _: &Opened, cx: &Context<'_>) -> Result<()> {
        cx.emit(Happened(self.0));
        Ok(())
    }
}

#[tokio::test]
async fn a_factory_makes_a_handler_for_each_request_and_may_fail() {
    let made: &'static AtomicU32 = Box::leak(Box::default());
    let factory = move |scope: Scope| async move {
        assert!(scope.get::<u64>().is_none());
        match made.fetch_add(1, Ordering::Relaxed) {
            2 => Err(Error::new(ErrorKind::Store, "no connection")),
            number => Ok(Numbered(number)),
        }
    };
    let journal = Journal::new();
    let requests = RequestMap::new().bind::<Ask>(Factory::new(factory));
    let events = noting(journal).bind::<Opened>(Factory::new(factory));
    let mediator = RequestMediator::new(requests, EventEmitter::new(events)).unwrap();
    assert_eq!(mediator.send(Ask(0)).await.unwrap(), 0);
    assert_eq!(mediator.send(Ask(0)).await.unwrap(), 1);
    assert_eq!(mediator.send(Ask(0)).await.unwrap_err().kind(), ErrorKind::Store);
    mediator.events().emit(Opened(0)).await.unwrap();
    assert_eq!(journal.entries(), ["happened 3"]);
}

/// Fails, and says that it happened.
struct Fails;

impl RequestHandler<Ask> for Fails {
    async fn handle(&self, Ask(number): Ask, cx: &Context<'_>) -> Result<u32> {
        cx.emit(Happened(number));
        Err(Error::handler("away").with_retryable(number == 1))
    }
}

impl EventHandler<Opened> for Fails {
    async fn handle(&self, Opened(number): &Opened, cx: &Context<'_>) -> Result<()> {
        cx.emit(Happened(*number));
        Err(Error::handler("away").with_retryable(*number == 1))
    }
}

#[tokio::test]
async fn a_fallback_answers_for_the_errors_it_is_there_for() {
    let journal = Journal::new();
    let always = mediator(Fallback::new(Fails, Numbered(7)), journal);
    assert_eq!(always.send(Ask(1)).await.unwrap(), 7);
    let picky =
        mediator(Fallback::new(Fails, Numbered(7)).when(|error: &Error| error.is_retryable()), journal);
    assert_eq!(picky.send(Ask(1)).await.unwrap(), 7);
    assert_eq!(picky.send(Ask(2)).await.unwrap_err().to_string(), "away");
    let useless = mediator(Fallback::new(Numbered(1), Fails), journal);
    assert_eq!(useless.send(Ask(1)).await.unwrap(), 1);
    // What the first one said is dropped.
    assert!(journal.entries().is_empty());

    let fallback = Fallback::new(Fails, Numbered(7)).when(|error: &Error| error.is_retryable());
    let events = EventMediator::new(EventEmitter::new(noting(journal).bind::<Opened>(fallback))).unwrap();
    events.emit(Opened(1)).await.unwrap();
    assert_eq!(events.emit(Opened(2)).await.unwrap_err().to_string(), "away");
    assert_eq!(journal.entries(), ["happened 7"]);
}

#[tokio::test]
async fn a_fallback_is_not_asked_where_a_commit_is_in_doubt() {
    #[derive(Clone, Request)]
    struct Act;
    for (kind, rows) in [(ErrorKind::CommitUnknown, 0), (ErrorKind::Transaction, 1)] {
        let db = FakeDb::new();
        db.fail("commit", kind);
        let handler = || {
            in_transaction(|_: Act, tx, _| {
                Box::pin(async move {
                    tx.insert("row");
                    Ok(())
                })
            })
        };
        let either =
            Fallback::new(Transactional::new(db.unit(), handler()), Transactional::new(db.unit(), handler()));
        let requests = RequestMap::new().bind::<Act>(either);
        let mediator = RequestMediator::new(requests, EventEmitter::default()).unwrap();
        assert_eq!(mediator.send(Act).await.is_err(), kind == ErrorKind::CommitUnknown);
        assert_eq!(db.rows().len(), rows);
    }
}

/// Handles all that is `Debug`.
struct Audit(&'static Journal);

impl<E: DomainEvent + std::fmt::Debug> EventHandler<E> for Audit {
    async fn handle(&self, event: &E, _: &Context<'_>) -> Result<()> {
        self.0.note(format!("{event:?}"));
        Ok(())
    }
}

enum Changed {
    Opened(Opened),
    Closed(Closed),
}

impl From<Opened> for Changed {
    fn from(opened: Opened) -> Self {
        Self::Opened(opened)
    }
}

impl From<Closed> for Changed {
    fn from(closed: Closed) -> Self {
        Self::Closed(closed)
    }
}

struct Count(&'static Journal);

impl FamilyHandler<Changed> for Count {
    async fn handle(&self, event: Changed, _: &Context<'_>) -> Result<()> {
        self.0.note(match event {
            Changed::Opened(opened) => format!("+{}", opened.0),
            Changed::Closed(closed) => format!("-{}", closed.0),
        });
        Ok(())
    }
}

#[tokio::test]
async fn one_handler_hears_of_a_family_of_events() {
    let journal = Journal::new();
    let events = EventMap::new()
        .bind_family::<(Opened, Closed), _>(Audit(journal))
        .bind_family::<(Opened, Closed), _>(OfFamily::new(Count(journal)));
    let mediator = EventMediator::new(EventEmitter::new(events)).unwrap();
    mediator.emit(Opened(5)).await.unwrap();
    mediator.emit(Closed(6)).await.unwrap();
    mediator.emit(Happened(7)).await.unwrap();
    assert_eq!(journal.entries(), ["Opened(5)", "+5", "Closed(6)", "-6"]);
}
