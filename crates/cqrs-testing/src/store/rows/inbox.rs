//! Each message once.

use std::sync::Arc;

use bytes::Bytes;
use cqrs_consumer::Inbox;
use cqrs_core::{MessageId, Transaction};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time;

use crate::store::StoreUnderTest;
use crate::store::bench::{Bench, Checked, Stop, Table, ensure, ensure_eq, fail, skip};

/// A store with its inbox.
struct Desk<S: StoreUnderTest> {
    table: Table<S>,
    inbox: Arc<dyn Inbox<S::Database>>,
}

impl<S: StoreUnderTest> Clone for Desk<S> {
    fn clone(&self) -> Self {
        Self { table: self.table.clone(), inbox: Arc::clone(&self.inbox) }
    }
}

impl<S: StoreUnderTest> Desk<S> {
    async fn open(bench: &Bench<'_, S>) -> Checked<Self> {
        let table = bench.open().await?;
        match bench.adapter.inbox(&table.store) {
            Some(inbox) => Ok(Self { table, inbox }),
            None => skip("this store has no inbox (`StoreUnderTest::inbox`)"),
        }
    }

    /// Admits in a transaction of its own, which is committed if the message is new.
    async fn handle(&self, consumer: &str, id: impl Into<MessageId>) -> Checked<bool> {
        let mut tx = self.inbox.begin().await?;
        let admitted = self.inbox.admit(&mut tx, consumer, &id.into()).await?;
        if admitted {
            tx.commit().await?
        } else {
            tx.rollback().await?
        }
        Ok(admitted)
    }
}

pub(super) async fn twice<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let desk = Desk::open(bench).await?;
    ensure_eq("admitted the first time", desk.handle("c", "1").await?, true)?;
    ensure_eq("admitted the second time", desk.handle("c", "1").await?, false)?;
    ensure_eq("another one, admitted", desk.handle("c", "2").await?, true)?;
    ensure_eq("admitted the third time", desk.handle("c", "1").await?, false)?;

    // Within one transaction, too.
    let mut tx = desk.inbox.begin().await?;
    let id = MessageId::from("3");
    ensure_eq("admitted", desk.inbox.admit(&mut tx, "c", &id).await?, true)?;
    ensure_eq("admitted again in the same transaction", desk.inbox.admit(&mut tx, "c", &id).await?, false)?;
    Ok(tx.rollback().await?)
}

pub(super) async fn at_once<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let desk = Desk::open(bench).await?;
    let (admitted, mut admissions) = mpsc::unbounded_channel();
    let go = watch::Sender::new(false);
    let mut tasks = JoinSet::new();
    for _ in 0..3 {
        let (desk, admitted, mut go) = (desk.clone(), admitted.clone(), go.subscribe());
        tasks.spawn(async move {
            let mut tx = desk.inbox.begin().await?;
            let new = desk.inbox.admit(&mut tx, "c", &"1".into()).await?;
            admitted.send(new).ok();
            if new {
                go.wait_for(|go| *go).await.ok();
                tx.commit().await?;
            } else {
                tx.rollback().await?;
            }
            Ok::<_, Stop>(new)
        });
    }
    let first = bench.bounded("admitting one of three", admissions.recv()).await?;
    ensure_eq("the first answer", first, Some(true))?;
    if let Ok(answer) = time::timeout(bench.settings.quiet, admissions.recv()).await {
        return fail(format!("another was answered ({answer:?}) while the first had not committed"));
    }
    go.send_replace(true);
    let mut outcomes = Vec::new();
    while let Some(ended) = bench.bounded("answering the others", tasks.join_next()).await? {
        outcomes.push(ended.unwrap_or_else(|error| fail(format!("a task of this row failed: {error}")))?);
    }
    outcomes.sort();
    ensure_eq("admitted", outcomes, [false, false, true])
}

pub(super) async fn rollback<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let desk = Desk::open(bench).await?;
    for id in ["rolled back", "dropped"] {
        let mut first = desk.inbox.begin().await?;
        let new = desk.inbox.admit(&mut first, "c", &id.into()).await?;
        ensure_eq("the first, admitted", new, true)?;
        let second: JoinHandle<Checked<bool>> = tokio::spawn({
            let desk = desk.clone();
            async move { desk.handle("c", id).await }
        });
        time::sleep(bench.settings.quiet).await;
        ensure(!second.is_finished(), || "the second did not wait for the first".to_owned())?;
        if id == "dropped" {
            drop(first)
        } else {
            first.rollback().await?
        }
        let new = bench.bounded("admitting the second", second).await?;
        let new = new.unwrap_or_else(|error| fail(format!("a task of this row failed: {error}")))?;
        ensure_eq(&format!("the second, after the first was {id}, admitted"), new, true)?;
        ensure_eq("the third, admitted", desk.handle("c", id).await?, false)?;
    }
    Ok(())
}

pub(super) async fn ids<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let desk = Desk::open(bench).await?;
    let ids = [
        &b"order-a1"[..],
        b"ORDER-A1",
        b"order-a1 ",
        b" order-a1",
        b"order-a1\0",
        b"order-a",
        "caf\u{e9}".as_bytes(),
        "cafe\u{301}".as_bytes(),
        b"\xff",
        b"\xfe",
        b"\xff\0",
        b"\0",
        b"\\xff",
        b"1",
        b"01",
    ]
    .map(|id| MessageId::from(Bytes::from_static(id)));
    for wanted in [true, false] {
        for id in &ids {
            ensure_eq(&format!("`{id}` admitted"), desk.handle("c", id.clone()).await?, wanted)?;
        }
    }
    Ok(())
}

pub(super) async fn consumers<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let desk = Desk::open(bench).await?;
    for wanted in [true, false] {
        for consumer in ["billing/charge", "Billing/charge", "billing/charge ", "billing/chargé", "billing"]
        {
            ensure_eq(&format!("admitted for `{consumer}`"), desk.handle(consumer, "1").await?, wanted)?;
        }
    }
    // Name and id are not run together.
    ensure_eq("admitted for `bill`", desk.handle("bill", "ing1").await?, true)?;
    ensure_eq("admitted for `billing`", desk.handle("billi", "ng1").await?, true)
}
