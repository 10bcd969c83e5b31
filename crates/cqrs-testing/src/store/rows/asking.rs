//! What a writer asks for beside the event: once only, a version of its key, a lock of its key.

use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use cqrs_core::{
    AddOutcome, Added, AddedEvent, Dedup, Deliver, Error, ErrorKind, Message, Outgoing, ScheduleChange,
    Transaction, VersionConflict,
};
use cqrs_outbox::LaterEvents;
use tokio::task::JoinHandle;
use tokio::time;
use uuid::Uuid;

use crate::store::bench::{Bench, Checked, LONG, Table, ensure, ensure_eq, event, fail, labels, skip};
use crate::store::rows::dead::ask;
use crate::store::{Request, StoreUnderTest};

/// An event that is to be the only one with this key for so long.
fn once(label: &str, key: impl Into<Bytes>, window: Duration) -> Outgoing {
    let mut outgoing = Outgoing::from(event(None, label));
    outgoing.options.dedup = Some(Dedup::new(key, window));
    outgoing
}

/// The same, for a time that does not come.
fn later(label: &str, key: impl Into<Bytes>) -> Outgoing {
    let mut outgoing = once(label, key, LONG);
    outgoing.options.deliver = Some(Deliver::After(LONG));
    outgoing
}

/// The id of the only event of a call.
fn only(added: &Added) -> Uuid {
    added.ids().next().and_then(|id| id.to_uuid()).unwrap_or_default()
}

/// An event with a version of its key.
fn version(key: &str, version: u64) -> Outgoing {
    let mut outgoing = Outgoing::from(event(Some(key), &format!("{key}{version}")));
    outgoing.options.key_version = Some(version);
    outgoing
}

fn outcomes(added: &Added) -> Vec<AddOutcome> {
    added.outcomes().collect()
}

/// The error, if it is a conflict of versions.
fn conflict(written: Result<Added, Error>) -> Checked<VersionConflict> {
    match written {
        Ok(added) => fail(format!("a version that is not above the last one was written: {added:?}")),
        Err(error) if error.kind() == ErrorKind::Conflict => match error.downcast_ref::<VersionConflict>() {
            Some(conflict) => Ok(conflict.clone()),
            None => fail(format!("a conflict that does not say which versions: {error:?}")),
        },
        Err(error) => Err(error.into()),
    }
}

const WRITTEN: AddOutcome = AddOutcome::Written;
const DUPLICATE: AddOutcome = AddOutcome::Duplicate;
const SCHEDULED: AddOutcome = AddOutcome::Scheduled;

pub(super) async fn dedup<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    let table = &owner.table;
    let first = table.add([once("1", "a", LONG)]).await?;
    ensure_eq("the first", outcomes(&first), [WRITTEN])?;
    let again = table.add([once("2", "a", LONG), event(None, "3").into(), once("4", "b", LONG)]).await?;
    ensure_eq("a duplicate among others", outcomes(&again), [DUPLICATE, WRITTEN, WRITTEN])?;
    ensure_eq("the id that a duplicate is said to have", &again.events[0].id, &first.events[0].id)?;
    let twice = table.add([once("5", "c", LONG), once("6", "c", LONG)]).await?;
    ensure_eq("twice in one call", outcomes(&twice), [WRITTEN, DUPLICATE])?;
    ensure_eq("the id of the second", &twice.events[1].id, &twice.events[0].id)?;

    // The same event once more, as when a command is tried again.
    let mut same = once("7", "a", LONG);
    same.message.id = Some(first.events[0].id.clone());
    ensure_eq("the same event again", outcomes(&table.add([same]).await?), [DUPLICATE])?;

    let mut tx = table.begin().await?;
    let own = tx.write(table.outgoing([once("8", "d", LONG)])?).await?;
    ensure_eq("a new key", outcomes(&own), [WRITTEN])?;
    let own = tx.write(table.outgoing([once("9", "d", LONG)])?).await?;
    ensure_eq("again in the same transaction", outcomes(&own), [DUPLICATE])?;
    tx.rollback().await?;
    let new = table.add([once("10", "d", LONG)]).await?;
    ensure_eq("after the first was rolled back", outcomes(&new), [WRITTEN])?;
    ensure_eq("what was written", labels(&owner.read().await?), ["1", "3", "4", "5", "10"])
}

/// Writes in a task, in a transaction of its own, which is committed.
fn spawn<S: StoreUnderTest>(
    table: &Table<S>,
    outgoing: Outgoing,
) -> JoinHandle<Checked<Result<Added, Error>>> {
    let table = table.clone();
    tokio::spawn(async move {
        let mut tx = table.begin().await?;
        let added = tx.write(table.outgoing([outgoing])?).await;
        if added.is_ok() {
            tx.commit().await?
        } else {
            tx.rollback().await?
        }
        Ok(added)
    })
}

/// A second writer waits for the first, which commits, is rolled back or is dropped; then it gets this.
async fn second<S: StoreUnderTest>(
    bench: &Bench<'_, S>,
    table: &Table<S>,
    outgoing: [Outgoing; 2],
    end: &str,
) -> Checked<(Added, Result<Added, Error>)> {
    let [first, second] = outgoing;
    let mut tx = table.begin().await?;
    let first = tx.write(table.outgoing([first])?).await?;
    let second = spawn(table, second);
    time::sleep(bench.settings.quiet).await;
    ensure(!second.is_finished(), || "the second did not wait for the first".to_owned())?;
    match end {
        "committed" => tx.commit().await?,
        "rolled back" => tx.rollback().await?,
        _ => drop(tx),
    }
    let second = bench.bounded("writing the second", second).await?;
    let second = second.unwrap_or_else(|error| fail(format!("a task of this row failed: {error}")))?;
    Ok((first, second))
}

pub(super) async fn dedup_at_once<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    for (end, wanted) in [("committed", DUPLICATE), ("rolled back", WRITTEN), ("dropped", WRITTEN)] {
        let both = [once(&format!("first, {end}"), end, LONG), once(&format!("second, {end}"), end, LONG)];
        let (first, added) = second(bench, &owner.table, both, end).await?;
        let added = added?;
        ensure_eq(&format!("the second, after the first was {end}"), outcomes(&added), [wanted])?;
        if wanted == DUPLICATE {
            ensure_eq("the id that it is said to have", &added.events[0].id, &first.events[0].id)?;
        }
    }
    let written = ["first, committed", "second, rolled back", "second, dropped"];
    ensure_eq("what was written", labels(&owner.read().await?), written)
}

pub(super) async fn dedup_window<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    let window = bench.settings.lease;
    for (label, wanted) in [("1", WRITTEN), ("2", WRITTEN)] {
        let added = owner.table.add([once(label, "a", window)]).await?;
        ensure_eq("when no window lasts", outcomes(&added), [wanted])?;
        time::sleep(window + window / 10).await;
    }
    // Whoever takes an expired key over has it for a window of its own.
    let third = owner.table.add([once("3", "a", LONG)]).await?;
    ensure_eq("the third", outcomes(&third), [WRITTEN])?;
    let fourth = owner.table.add([once("4", "a", LONG)]).await?;
    ensure_eq("the fourth", &fourth.events, &[AddedEvent::new(third.events[0].id.clone(), DUPLICATE)])?;
    ensure_eq("what was written", labels(&owner.read().await?), ["1", "2", "3"])
}

pub(super) async fn dedup_cancel<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    use ScheduleChange::{Done, TooLate};
    let owner = bench.owned().await?;
    let table = &owner.table;
    let add = async |outgoing| Checked::Ok(outcomes(&table.add([outgoing]).await?));
    let first = only(&table.add([later("1", "a")]).await?);
    ensure_eq("a scheduled one with another key", add(later("2", "b")).await?, [SCHEDULED])?;

    // Others wait for what becomes of it.
    let mut tx = table.begin().await?;
    match tx.cancel(first).await {
        Err(error) if error.kind() == ErrorKind::Configuration => {
            return skip(format!("{error} (`Transaction::cancel`)"));
        }
        done => ensure_eq("cancelling", done?, Done)?,
    }
    let waiting = spawn(table, later("3", "a"));
    time::sleep(bench.settings.quiet).await;
    ensure(!waiting.is_finished(), || "a writer did not wait for who cancels".to_owned())?;
    tx.rollback().await?;
    let waited = bench.bounded("writing after the rollback", waiting).await?;
    let waited = waited.unwrap_or_else(|error| fail(format!("a task of this row failed: {error}")))??;
    ensure_eq("when the cancelling was rolled back", outcomes(&waited), [DUPLICATE])?;

    let mut tx = table.begin().await?;
    ensure_eq("moving it", tx.reschedule(first, Utc::now() + LONG * 2).await?, Done)?;
    tx.commit().await?;
    ensure_eq("when it was moved", add(later("4", "a")).await?, [DUPLICATE])?;

    // As whoever replaces it.
    let mut tx = table.begin().await?;
    ensure_eq("cancelling", tx.cancel(first).await?, Done)?;
    let replaced = tx.write(table.outgoing([later("5", "a")])?).await?;
    ensure_eq("in the transaction that cancels it", outcomes(&replaced), [SCHEDULED])?;
    let other = tx.write(table.outgoing([later("6", "b")])?).await?;
    ensure_eq("another key there", outcomes(&other), [DUPLICATE])?;
    tx.commit().await?;
    ensure_eq("when it was replaced", add(later("7", "a")).await?, [DUPLICATE])?;
    let mut tx = table.begin().await?;
    ensure_eq("cancelling the first again", tx.cancel(first).await?, TooLate)?;
    tx.commit().await?;
    ensure_eq("when the first was cancelled again", add(later("8", "a")).await?, [DUPLICATE])?;
    let mut tx = table.begin().await?;
    ensure_eq("cancelling the second", tx.cancel(only(&replaced)).await?, Done)?;
    tx.commit().await?;
    let sent = table.add([once("9", "a", LONG)]).await?;
    ensure_eq("when the second was cancelled", outcomes(&sent), [WRITTEN])?;

    // What is to be sent, or was, keeps it.
    let mut tx = table.begin().await?;
    ensure_eq("cancelling what was not scheduled", tx.cancel(only(&sent)).await?, TooLate)?;
    let own = tx.write(table.outgoing([later("10", "c")])?).await?;
    ensure_eq("cancelling what this transaction wrote", tx.cancel(only(&own)).await?, Done)?;
    tx.commit().await?;
    ensure_eq("when it was too late", add(later("11", "a")).await?, [DUPLICATE])?;
    ensure_eq("when it was written and cancelled at once", add(later("12", "c")).await?, [SCHEDULED])?;
    ensure_eq("what is to be sent", labels(&owner.read().await?), ["9"])
}

pub(super) async fn dedup_discard<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let mut owner = bench.owned().await?;
    let mut dead = Vec::new();
    for (label, key) in [("1", "a"), ("2", "b"), ("3", "c")] {
        dead.push(only(&owner.table.add([once(label, key, LONG)]).await?));
        owner.bury(&owner.find(label).await?, LaterEvents::GoOn, "not readable").await?;
    }
    ask(bench, &mut owner, Request::Discard, dead[0]).await?;
    ask(bench, &mut owner, Request::Replay, dead[1]).await?;
    let again = owner.table.add([once("4", "a", LONG), once("5", "b", LONG), once("6", "c", LONG)]).await?;
    ensure_eq(
        "of one discarded, one replayed and one dead",
        outcomes(&again),
        [WRITTEN, DUPLICATE, DUPLICATE],
    )
}

pub(super) async fn dedup_keys<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    let keys = [
        &b"order-a1"[..],
        b"ORDER-A1",
        b"order-a1 ",
        b" order-a1",
        b"order-a1\0",
        b"",
        b"\0",
        "caf\u{e9}".as_bytes(),
        "cafe\u{301}".as_bytes(),
        b"\xff",
        b"\xfe",
        b"\\xff",
    ];
    for wanted in [WRITTEN, DUPLICATE] {
        for key in keys {
            let added = owner.table.add([once("x", key, LONG)]).await?;
            ensure_eq(&format!("`{}`", key.escape_ascii()), outcomes(&added), [wanted])?;
        }
    }
    Ok(())
}

pub(super) async fn versions<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    let table = &owner.table;
    table.add([version("a", 0), version("b", 7)]).await?;
    table.add([version("a", 1), version("a", 2), version("b", 8), version("a", 5)]).await?;
    for (wanted, stored) in [(5, 5), (3, 5), (0, 5)] {
        let mut tx = table.begin().await?;
        let other = [event(None, "with a conflict").into(), once("once", "k", LONG), version("a", wanted)];
        let conflict = conflict(tx.write(table.outgoing(other)?).await)?;
        let said = (&conflict.key[..], conflict.wanted, conflict.stored);
        ensure_eq("the conflict", said, (&b"a"[..], wanted, stored))?;
        // Whoever goes on and commits has nothing of that call.
        tx.commit().await?;
    }
    let mut tx = table.begin().await?;
    let conflict = conflict(tx.write(table.outgoing([version("a", 7), version("a", 6)])?).await)?;
    ensure_eq("the conflict within one call", (conflict.wanted, conflict.stored), (6, 7))?;
    tx.rollback().await?;
    ensure_eq("once", outcomes(&table.add([once("once", "k", LONG)]).await?), [WRITTEN])?;

    // What is rolled back was no version, and a duplicate has none.
    let mut tx = table.begin().await?;
    tx.write(table.outgoing([version("a", 9)])?).await?;
    tx.rollback().await?;
    let duplicate = |number| {
        let mut duplicate = version("a", number);
        duplicate.options.dedup = Some(Dedup::new("k", LONG));
        duplicate
    };
    let added = table.add([duplicate(1), duplicate(100), version("a", 6)]).await?;
    ensure_eq("two duplicates", outcomes(&added), [DUPLICATE, DUPLICATE, WRITTEN])?;
    // Keys are bytes, and without a version nothing is compared.
    table.add([version("A", 1), version("a ", 1), event(Some("a"), "none").into()]).await?;
    let written = ["a0", "b7", "a1", "a2", "b8", "a5", "once", "a6", "A1", "a 1", "none"];
    ensure_eq("what was written", labels(&owner.read().await?), written)
}

pub(super) async fn versions_at_once<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    let (_, added) = second(bench, &owner.table, [version("a", 1), version("a", 1)], "committed").await?;
    let conflict = conflict(added)?;
    ensure_eq("the conflict of the second", (conflict.wanted, conflict.stored), (1, 1))?;
    let (_, added) = second(bench, &owner.table, [version("a", 2), version("a", 3)], "committed").await?;
    ensure_eq("the second, which comes next", outcomes(&added?), [WRITTEN])?;
    let (_, added) = second(bench, &owner.table, [version("b", 1), version("b", 1)], "rolled back").await?;
    ensure_eq("the second, after the first was rolled back", outcomes(&added?), [WRITTEN])?;
    ensure_eq("what was written", labels(&owner.read().await?), ["a1", "a2", "a3", "b1"])
}

fn is_unsupported(error: &Error) -> bool {
    error.kind() == ErrorKind::Configuration
}

pub(super) async fn lock_key<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    let table = &owner.table;
    let mut first = table.begin().await?;
    match first.lock_key(b"a").await {
        Err(error) if is_unsupported(&error) => return skip(format!("{error} (`Transaction::lock_key`)")),
        locked => locked?,
    }
    bench.bounded("locking the same key again", first.lock_key(b"a")).await??;
    let second = tokio::spawn({
        let table = table.clone();
        async move {
            let mut tx = table.begin().await?;
            tx.lock_key(b"a").await?;
            table.write(&mut tx, [event(Some("a"), "second")]).await?;
            Ok::<_, super::super::bench::Stop>(tx.commit().await?)
        }
    });
    time::sleep(bench.settings.quiet).await;
    ensure(!second.is_finished(), || "the second did not wait for the first".to_owned())?;
    if bench.adapter.writes_concurrently() {
        for other in [&b"b"[..], b"A", b"a ", b""] {
            let mut tx = table.begin().await?;
            bench.bounded("locking another key", tx.lock_key(other)).await??;
            tx.rollback().await?;
        }
    }
    table.write(&mut first, [event(Some("a"), "first")]).await?;
    first.commit().await?;
    let second = bench.bounded("locking after the first", second).await?;
    second.unwrap_or_else(|error| fail(format!("a task of this row failed: {error}")))?;
    // A dropped transaction locks nothing.
    let mut dropped = table.begin().await?;
    dropped.lock_key(b"a").await?;
    drop(dropped);
    let mut last = table.begin().await?;
    bench.bounded("locking after a drop", last.lock_key(b"a")).await??;
    last.rollback().await?;
    let messages: Vec<Message> = owner.read().await?.into_iter().map(|row| row.message).collect();
    ensure_eq("the number of rows", messages.len(), 2)?;
    ensure_eq("what was written", labels(&owner.read().await?), ["first", "second"])
}
