use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cqrs_consumer::{Inboxed, MissingId};
use cqrs_core::codec::header;
use cqrs_core::{
    BeforeCommit, Context, DomainEvent, Error, ErrorKind, EventEmitter, EventHandler, EventMap,
    EventMediator, Message, NotificationEvent, Request, RequestHandler, RequestMap, RequestMediator, Result,
    Timeout, Transactional, TransactionalEventHandler, TransactionalHandler, UnitOfWork,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::support::{
    Ledger, LedgerDb, LedgerTx, RoomClosed, Script, consumer, mediator, message, run, undecodable, until,
};

#[derive(Serialize, Deserialize, NotificationEvent)]
#[event(name = "invoice_sent", topic = "invoices")]
struct InvoiceSent;

#[derive(DomainEvent)]
struct InvoiceWritten;

/// Writes a row, says two events, and then does what it was told to.
struct Bill {
    name: &'static str,
    fails: AtomicU32,
    runs: AtomicU32,
    gate: Semaphore,
}

impl Bill {
    fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self { name, fails: AtomicU32::new(0), runs: AtomicU32::new(0), gate: Semaphore::new(1000) })
    }

    fn failing(name: &'static str, times: u32) -> Arc<Self> {
        let bill = Self::new(name);
        bill.fails.store(times, Ordering::SeqCst);
        bill
    }

    fn runs(&self) -> u32 {
        self.runs.load(Ordering::SeqCst)
    }
}

struct Shared(Arc<Bill>);

impl TransactionalEventHandler<RoomClosed, LedgerDb> for Shared {
    async fn handle(&self, event: &RoomClosed, tx: &mut LedgerTx, cx: &Context<'_>) -> Result<()> {
        let bill = &self.0;
        bill.runs.fetch_add(1, Ordering::SeqCst);
        tx.insert(format!("{} {}", bill.name, event.n));
        cx.emit(InvoiceSent);
        cx.emit(InvoiceWritten);
        bill.gate.acquire().await?.forget();
        match bill.fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => Err(Error::handler("told to fail")),
            Err(_) => Ok(()),
        }
    }
}

struct Audit;

impl TransactionalEventHandler<InvoiceWritten, LedgerDb> for Audit {
    async fn handle(&self, _: &InvoiceWritten, tx: &mut LedgerTx, _: &Context<'_>) -> Result<()> {
        tx.insert("audit");
        Ok(())
    }
}

fn inboxed(ledger: &Ledger, bill: &Arc<Bill>) -> Inboxed<LedgerDb, RoomClosed, Shared> {
    let ledger = Arc::new(ledger.clone());
    let unit = UnitOfWork::new(ledger.clone(), BeforeCommit::new().bind::<InvoiceWritten>(Audit));
    Inboxed::new("billing", Shared(bill.clone()), unit, ledger).with_name(bill.name)
}

fn events(handlers: impl IntoIterator<Item = Inboxed<LedgerDb, RoomClosed, Shared>>) -> EventMediator {
    mediator(handlers.into_iter().fold(EventMap::new(), |map, handler| {
        map.subscribe_messages("rooms", "room_closed", Arc::new(handler))
    }))
}

#[tokio::test]
async fn the_same_id_twice_has_one_effect() {
    let (ledger, bill) = (Ledger::default(), Bill::new("bill"));
    let events = events([inboxed(&ledger, &bill)]);
    let first = events.handle(message(1, None)).await.unwrap();
    assert_eq!((first.handled, first.duplicates), (1, 0));
    let second = events.handle(message(1, None)).await.unwrap();
    assert_eq!((second.handled, second.duplicates), (0, 1));

    assert_eq!(bill.runs(), 1);
    // What the handler said and what stands before the commit are in the same transaction.
    assert_eq!(ledger.rows(), ["bill 1", "audit"]);
    let outbox = ledger.outbox();
    assert_eq!(outbox.len(), 1);
    assert_eq!(outbox[0].topic, "invoices");
    assert_eq!(outbox[0].headers.get_str(header::CAUSATION_ID), Some("id-1"));
    assert_eq!(ledger.consumers(), ["billing/bill"]);
}

#[tokio::test]
async fn ids_are_compared_as_bytes() {
    let (ledger, bill) = (Ledger::default(), Bill::new("bill"));
    let events = events([inboxed(&ledger, &bill)]);
    for id in ["A", "a", "a "] {
        let mut message = message(1, None);
        message.headers.set(header::ID, id);
        assert_eq!(events.handle(message).await.unwrap().handled, 1, "{id:?}");
    }
}

#[tokio::test]
async fn the_same_id_at_once_waits_for_the_first() {
    let (ledger, bill) = (Ledger::default(), Bill::failing("bill", 1));
    bill.gate.forget_permits(1000);
    let events = events([inboxed(&ledger, &bill)]);
    let attempts: Vec<_> = (0..3)
        .map(|_| {
            let events = events.clone();
            tokio::spawn(async move { events.handle(message(1, None)).await })
        })
        .collect();
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bill.runs(), 1, "the others wait for the first transaction");
    bill.gate.add_permits(1000);
    let mut outcomes = Vec::new();
    for attempt in attempts {
        outcomes
            .push(attempt.await.unwrap().map(|dispatched| (dispatched.handled, dispatched.duplicates)).ok());
    }
    outcomes.sort();
    // The first rolls back, the second runs, the third is a duplicate.
    assert_eq!(outcomes, [None, Some((0, 1)), Some((1, 0))]);
    assert_eq!(ledger.rows(), ["bill 1", "audit"]);
}

#[tokio::test]
async fn a_handler_that_fails_after_writing_leaves_nothing() {
    let (ledger, bill) = (Ledger::default(), Bill::failing("bill", 1));
    let events = events([inboxed(&ledger, &bill)]);
    let error = events.handle(message(1, None)).await.unwrap_err();
    assert_eq!(error.to_string(), "told to fail");
    assert!(ledger.rows().is_empty() && ledger.outbox().is_empty() && ledger.consumers().is_empty());
    assert_eq!(events.handle(message(1, None)).await.unwrap().handled, 1);
    assert_eq!(ledger.rows(), ["bill 1", "audit"]);
}

#[tokio::test]
async fn a_commit_that_fails_leaves_nothing() {
    let (ledger, bill) = (Ledger::default(), Bill::new("bill"));
    ledger.fail_commits(1);
    let events = events([inboxed(&ledger, &bill)]);
    assert_eq!(events.handle(message(1, None)).await.unwrap_err().kind(), ErrorKind::Transaction);
    assert!(ledger.rows().is_empty() && ledger.consumers().is_empty());
    assert_eq!(events.handle(message(1, None)).await.unwrap().handled, 1);
}

#[tokio::test]
async fn two_handlers_see_the_message_once_each() {
    let (ledger, one, two) = (Ledger::default(), Bill::new("one"), Bill::failing("two", 1));
    let events = events([inboxed(&ledger, &one), inboxed(&ledger, &two)]);
    events.handle(message(1, None)).await.unwrap_err();
    let again = events.handle(message(1, None)).await.unwrap();
    assert_eq!((again.handled, again.duplicates), (1, 1));
    assert_eq!((one.runs(), two.runs()), (1, 2));
    assert_eq!(ledger.rows(), ["one 1", "audit", "two 1", "audit"]);
    assert_eq!(ledger.consumers(), ["billing/one", "billing/two"]);
}

#[tokio::test]
async fn the_default_name_is_that_of_the_type() {
    use cqrs_core::MessageHandler;
    let ledger = Arc::new(Ledger::default());
    let unit = UnitOfWork::new(ledger.clone(), BeforeCommit::new());
    let handler = Inboxed::<LedgerDb, RoomClosed, _>::new("billing", Shared(Bill::new("bill")), unit, ledger);
    assert_eq!(handler.name(), format!("billing/{}", std::any::type_name::<Shared>()));
}

fn without_id(empty: bool) -> Message {
    let mut message = message(1, None);
    message.id = None;
    message.headers.remove(header::ID);
    if empty {
        message.headers.set(header::ID, "");
    }
    message
}

#[tokio::test]
async fn a_message_without_an_id_is_refused_or_handled_without_protection() {
    for empty in [false, true] {
        let (ledger, bill) = (Ledger::default(), Bill::new("bill"));
        let strict = events([inboxed(&ledger, &bill)]);
        let error = strict.handle(without_id(empty)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode);
        assert!(error.to_string().contains("billing/bill"), "{error}");
        assert_eq!((ledger.begun(), bill.runs()), (0, 0));

        let lenient = events([inboxed(&ledger, &bill).with_missing_id(MissingId::Accept)]);
        for _ in 0..2 {
            assert_eq!(lenient.handle(without_id(empty)).await.unwrap().handled, 1);
        }
        assert_eq!(bill.runs(), 2);
        assert!(ledger.consumers().is_empty());
        // One with an id is protected all the same.
        lenient.handle(message(2, None)).await.unwrap();
        assert_eq!(lenient.handle(message(2, None)).await.unwrap().duplicates, 1);
    }
}

#[tokio::test]
async fn what_cannot_be_decoded_opens_no_transaction() {
    let (ledger, bill) = (Ledger::default(), Bill::new("bill"));
    let events = events([inboxed(&ledger, &bill)]);
    assert_eq!(events.handle(undecodable(None)).await.unwrap_err().kind(), ErrorKind::Decode);
    assert_eq!(ledger.begun(), 0);
}

#[tokio::test(start_paused = true)]
async fn through_the_consumer_duplicates_are_counted_and_a_time_out_rolls_back() {
    let (broker, ledger, bill) = (Script::new(), Ledger::default(), Bill::new("bill"));
    bill.gate.forget_permits(1000);
    let consumer = consumer(&broker, events([inboxed(&ledger, &bill)]))
        .handler_timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    broker.deliver([message(1, Some("a")), message(1, Some("a")), message(1, None), message(2, Some("a"))]);
    let running = run(&consumer);
    until(|| consumer.stats().failed_attempts >= 1).await;
    assert!(ledger.rows().is_empty());
    bill.gate.add_permits(1000);
    until(|| broker.acked().len() == 4).await;

    let mut rows = ledger.rows();
    rows.sort();
    assert_eq!(rows, ["audit", "audit", "bill 1", "bill 2"]);
    let stats = consumer.stats();
    assert_eq!((stats.received, stats.handled, stats.duplicates, stats.dead_lettered), (4, 2, 2, 0));
    running.stop().await.unwrap();
}

#[derive(Request)]
struct Book;

struct Books;

impl TransactionalHandler<Book, LedgerDb> for Books {
    async fn handle(&self, _: Book, tx: &mut LedgerTx, _: &Context<'_>) -> Result<()> {
        tx.insert("booked");
        Ok(())
    }
}

/// Sends, and is never done.
struct Hangs;

impl EventHandler<RoomClosed> for Hangs {
    async fn handle(&self, _: &RoomClosed, cx: &Context<'_>) -> Result<()> {
        cx.send(Book).await?;
        std::future::pending().await
    }
}

/// The commit before it is no reason to try for ever, whose time ever it is that is up.
#[tokio::test(start_paused = true)]
async fn a_time_out_behind_a_commit_is_a_failure_like_others() {
    let unit = |ledger: &Ledger| UnitOfWork::new(Arc::new(ledger.clone()), BeforeCommit::new());
    let requests = |ledger: &Ledger| RequestMap::new().bind(Transactional::new(unit(ledger), Books));
    let short = || Timeout::after(Duration::from_secs(1));
    let own = |ledger: &Ledger| {
        let events = EventMap::new().subscribe::<RoomClosed>("rooms", Hangs);
        RequestMediator::new(requests(ledger), EventEmitter::new(events)).unwrap().events()
    };
    let around_the_handler = |ledger: &Ledger| {
        let events = EventMap::new().middleware(short()).subscribe::<RoomClosed>("rooms", Hangs);
        RequestMediator::new(requests(ledger), EventEmitter::new(events)).unwrap().events()
    };
    let around_a_request = |ledger: &Ledger| {
        let requests = requests(ledger).middleware(short()).bind::<Charge>(Hangs);
        let events = EventMap::new().subscribe::<RoomClosed>("rooms", Sends);
        RequestMediator::new(requests, EventEmitter::new(events)).unwrap().events()
    };
    let kinds: [&dyn Fn(&Ledger) -> EventMediator; 3] = [&own, &around_the_handler, &around_a_request];
    for (number, events) in kinds.into_iter().enumerate() {
        let (broker, ledger) = (Script::new(), Ledger::default());
        let consumer =
            consumer(&broker, events(&ledger)).handler_timeout(Duration::from_secs(5)).build().unwrap();
        broker.deliver([message(1, Some("a"))]);
        let running = run(&consumer);
        until(|| broker.acked() == [0]).await;
        assert_eq!(ledger.rows(), ["booked"; 3], "{number}");
        let published = broker.published();
        let reason = published[0].headers.get_str(cqrs_consumer::header::REASON).unwrap();
        assert!(reason.contains(if number == 0 { "5s" } else { "is up" }), "{reason}");
        assert_eq!(consumer.stats().dead_lettered, 1);
        running.stop().await.unwrap();
    }
}

#[derive(Request)]
struct Charge;

impl RequestHandler<Charge> for Hangs {
    async fn handle(&self, _: Charge, cx: &Context<'_>) -> Result<()> {
        cx.send(Book).await?;
        std::future::pending().await
    }
}

struct Sends;

impl EventHandler<RoomClosed> for Sends {
    async fn handle(&self, _: &RoomClosed, cx: &Context<'_>) -> Result<()> {
        cx.send(Charge).await
    }
}
