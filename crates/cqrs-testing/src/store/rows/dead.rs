//! Dead letters, and the way back.

use std::time::Duration;

use cqrs_outbox::{Fenced, Lane, LaterEvents, OutboxRow, Place};
use uuid::Uuid;

use crate::store::bench::{Bench, Checked, LONG, Owner, ensure_eq, event, labels, labels_at, skip};
use crate::store::{Asked, Request, StoreUnderTest};

const NONE: [&str; 0] = [];

/// Two lanes with two rows each; the first of `a` is buried.
async fn buried<S: StoreUnderTest>(
    bench: &Bench<'_, S>,
    later: LaterEvents,
) -> Checked<(Owner<S>, OutboxRow)> {
    let owner = bench.owned().await?;
    owner
        .commit([
            event(Some("a"), "a1"),
            event(Some("b"), "b1"),
            event(Some("a"), "a2"),
            event(Some("b"), "b2"),
        ])
        .await?;
    let row = owner.find("a1").await?;
    owner.bury(&row, later, "not readable").await?;
    if let Some(dead) = bench.dead_letters(&owner.table).await? {
        let seen: Vec<_> = dead.iter().map(|dead| (dead.event_id, dead.attempts, &dead.error[..])).collect();
        ensure_eq("the dead letters", seen, [(row.event_id, 1, "not readable")])?;
    }
    Ok((owner, row))
}

pub(super) async fn bury<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let (owner, _) = buried(bench, LaterEvents::GoOn).await?;
    ensure_eq("the free rows", labels_at(&owner.read().await?, Place::Hot), ["b1", "a2", "b2"])?;
    ensure_eq("the rows aside", labels(&owner.parked().await?), NONE)
}

pub(super) async fn lane_waits<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let (owner, row) = buried(bench, LaterEvents::Wait).await?;
    let rows = owner.read().await?;
    ensure_eq("the free rows", labels_at(&rows, Place::Hot), ["b1", "b2"])?;
    ensure_eq("the gated rows", labels_at(&rows, Place::Gated), ["a2"])?;
    // As a relay asked for it before, and gave it up. Nothing stands aside yet.
    let late = owner.open_gate(owner.lease_of(&row)?, &row.lane).await?;
    ensure_eq("opening the gate behind a dead letter", late, Fenced::Done(false))?;
    ensure_eq("the gated rows", labels_at(&owner.read().await?, Place::Gated), ["a2"])?;
    let gated = owner.find("a2").await?;
    let answer = owner.set_aside(owner.lease_of(&row)?, &row.lane, &[gated.id]).await?;
    ensure_eq("setting aside behind a dead letter", answer, Fenced::Done(true))?;
    ensure_eq("the rows that are due", labels(&owner.parked().await?), NONE)?;

    // A row that was parked before it was buried closes its gate for good, too.
    let b = owner.find("b1").await?;
    owner.park(&b, Duration::ZERO).await?;
    owner.bury(&b, LaterEvents::Wait, "not readable").await?;
    ensure_eq("the gated rows", labels_at(&owner.read().await?, Place::Gated), ["b2"])?;
    ensure_eq("the rows that are due", labels(&owner.parked().await?), NONE)
}

/// It was parked behind another one, with the next behind it; the third is read when the gate is closed already.
pub(super) async fn follow<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    let events = [("a", "a0"), ("a", "a1"), ("b", "b1"), ("a", "a2"), ("a", "a3"), ("a", "a4")];
    owner.commit(events.map(|(key, label)| event(Some(key), label))).await?;
    let (a1, a2, a3) = (owner.find("a1").await?, owner.find("a2").await?, owner.find("a3").await?);
    owner.park(&owner.find("a0").await?, Duration::ZERO).await?;
    for row in [&a1, &a2] {
        let aside = owner.set_aside_to_follow(row).await?;
        ensure_eq("setting aside behind a row that is parked", aside, Fenced::Done(true))?;
    }
    let parked = owner.parked().await?;
    ensure_eq("the rows that are due", labels(&parked), ["a0", "a1", "a2"])?;
    // The first was sent, and its settling has failed so far.
    owner.bury(&parked[1], LaterEvents::Follow, "not readable").await?;
    ensure_eq("the rows that are due", labels(&owner.parked().await?), NONE)?;
    owner.settle(parked[..1].to_vec()).await?;
    let dead = bench.dead_letters(&owner.table).await?;
    ensure_eq("how many dead letters there are", dead.map_or(2, |dead| dead.len()), 2)?;
    let rows = owner.read().await?;
    ensure_eq("the gated rows", labels_at(&rows, Place::Gated), ["a3", "a4"])?;
    ensure_eq("the free rows", labels_at(&rows, Place::Hot), ["b1"])?;
    let aside = owner.set_aside_to_follow(&a3).await?;
    ensure_eq("setting aside behind a dead letter", aside, Fenced::Done(true))?;
    if let Some(dead) = bench.dead_letters(&owner.table).await? {
        let seen: Vec<_> = dead.iter().map(|dead| (dead.event_id, dead.attempts)).collect();
        ensure_eq("the dead letters", seen, [(a1.event_id, 1), (a2.event_id, 0), (a3.event_id, 0)])?;
    }
    // What is replayed alone waits for the others, whatever follows them meanwhile.
    let mut owner = owner;
    ask(bench, &mut owner, Request::Replay, a2.event_id).await?;
    let a4 = owner.find("a4").await?;
    let aside = owner.set_aside_to_follow(&a4).await?;
    ensure_eq("setting aside behind dead letters", aside, Fenced::Done(true))?;
    if let Some(dead) = bench.dead_letters(&owner.table).await? {
        let seen: Vec<_> = dead.iter().map(|dead| dead.event_id).collect();
        ensure_eq("the dead letters", seen, [a1.event_id, a3.event_id, a4.event_id])?;
    }
    // All of them go back, and in their order.
    for event in [a3.event_id, a1.event_id, a4.event_id] {
        ensure_eq(
            "the rows that are due before the last is asked for",
            labels(&owner.parked().await?),
            NONE,
        )?;
        ask(bench, &mut owner, Request::Replay, event).await?;
    }
    ensure_eq("the rows that are due", labels(&owner.parked().await?), ["a1", "a2", "a3", "a4"])
}

/// As a relay does that sends the events of a topic without regard to their keys.
pub(super) async fn own_lane<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let mut owner = bench.owned().await?;
    owner.commit(["a1", "a2", "a3"].map(|label| event(Some("a"), label))).await?;
    let (a1, a2) = (owner.find("a1").await?, owner.find("a2").await?);
    let own = |row: &OutboxRow| OutboxRow { lane: Lane::of(None, row.event_id), ..row.clone() };
    let (a1, a2) = (own(&a1), own(&a2));
    owner.park(&a1, Duration::ZERO).await?;
    owner.bury(&a2, LaterEvents::GoOn, "not readable").await?;
    ensure_eq("the free rows", labels_at(&owner.read().await?, Place::Hot), ["a3"])?;
    let due = owner.parked().await?;
    let expected = OutboxRow { attempts: 1, place: Place::Parked, ..a1.clone() };
    ensure_eq("the rows that are due", &due[..], &[expected][..])?;
    let lease = owner.lease_of(&a1)?;
    ensure_eq("opening the gate before", owner.open_gate(lease, &a1.lane).await?, Fenced::Done(false))?;
    owner.settle(due).await?;
    ensure_eq("opening the gate", owner.open_gate(lease, &a1.lane).await?, Fenced::Done(true))?;
    ask(bench, &mut owner, Request::Replay, a2.event_id).await?;
    let due = owner.parked().await?;
    ensure_eq("the rows that are due", labels(&due), ["a2"])?;
    ensure_eq("the lane of a replayed row", &due[0].lane, &a2.lane)?;
    ensure_eq("the free rows", labels_at(&owner.read().await?, Place::Hot), ["a3"])
}

pub(super) async fn ask<S: StoreUnderTest>(
    bench: &Bench<'_, S>,
    owner: &mut Owner<S>,
    request: Request,
    event_id: Uuid,
) -> Checked {
    let (adapter, store) = (bench.adapter, &owner.table.store);
    match adapter.request(store, request, event_id).await? {
        Asked::Accepted => {}
        Asked::Unknown => ensure_eq("asked for a dead letter", Asked::Unknown, Asked::Accepted)?,
        Asked::Unsupported => {
            return skip("this store has no requests for dead letters (`StoreUnderTest::request`)");
        }
    }
    let unknown = adapter.request(store, request, Uuid::new_v4()).await?;
    ensure_eq("asked for a dead letter that is none", unknown, Asked::Unknown)?;
    owner.beat(LONG, 0, Vec::new()).await?;
    Ok(())
}

pub(super) async fn replay<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    for later in [LaterEvents::Wait, LaterEvents::GoOn] {
        let (mut owner, row) = buried(bench, later).await?;
        ask(bench, &mut owner, Request::Replay, row.event_id).await?;
        let due = owner.parked().await?;
        ensure_eq("the rows that are due", labels(&due), ["a1"])?;
        let expected = OutboxRow { attempts: 0, place: Place::Parked, ..row.clone() };
        ensure_eq("the row that goes again", &due[0], &expected)?;
        ensure_eq("the gated rows", labels_at(&owner.read().await?, Place::Gated), ["a2"])?;
        if let Some(dead) = bench.dead_letters(&owner.table).await? {
            ensure_eq("the dead letters", dead, [])?;
        }
        // The request is done: it does not come true a second time.
        owner.bury(&due[0], later, "not readable").await?;
        owner.beat(LONG, 0, Vec::new()).await?;
        ensure_eq("the rows that are due, with the same buried again", labels(&owner.parked().await?), NONE)?;
    }
    Ok(())
}

/// Asked for the later one first, while the key lives on.
pub(super) async fn replay_several<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let mut owner = bench.owned().await?;
    owner.commit(["a1", "a2", "a3"].map(|label| event(Some("a"), label))).await?;
    let (first, second) = (owner.find("a1").await?, owner.find("a2").await?);
    for row in [&first, &second] {
        owner.bury(row, LaterEvents::GoOn, "not readable").await?;
    }
    let asked = bench.adapter.request(&owner.table.store, Request::Replay, second.event_id).await?;
    if asked == Asked::Unsupported {
        return skip("this store has no requests for dead letters (`StoreUnderTest::request`)");
    }
    owner.commit([event(Some("a"), "a4")]).await?;
    ask(bench, &mut owner, Request::Replay, first.event_id).await?;
    owner.commit([event(Some("a"), "a5")]).await?;
    let due = owner.parked().await?;
    ensure_eq("the rows that are due", labels(&due), ["a1", "a2"])?;
    ensure_eq("the gated rows", labels_at(&owner.read().await?, Place::Gated), ["a3", "a4", "a5"])?;
    // The gate opens when all of them are through.
    let (lease, lane) = (owner.lease_of(&first)?, first.lane);
    owner.settle(due[..1].to_vec()).await?;
    ensure_eq(
        "opening the gate before the second",
        owner.open_gate(lease, &lane).await?,
        Fenced::Done(false),
    )?;
    owner.settle(due[1..].to_vec()).await?;
    ensure_eq("opening the gate", owner.open_gate(lease, &lane).await?, Fenced::Done(true))?;
    ensure_eq("the free rows", labels_at(&owner.read().await?, Place::Hot), ["a3", "a4", "a5"])
}

pub(super) async fn replay_waits<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    use Request::{Discard, Replay};
    for (first, second, due) in [
        (Replay, Replay, &["a1", "a2", "a3"][..]),
        (Replay, Discard, &["a1", "a3"]),
        (Discard, Replay, &["a2", "a3"]),
    ] {
        let mut owner = bench.owned().await?;
        owner.commit(["a1", "a2", "a3"].map(|label| event(Some("a"), label))).await?;
        let (a1, a2, a3) = (owner.find("a1").await?, owner.find("a2").await?, owner.find("a3").await?);
        owner.bury(&a1, LaterEvents::Wait, "not readable").await?;
        owner.bury(&a2, LaterEvents::Wait, "not readable").await?;
        let answer = owner.set_aside(owner.lease_of(&a3)?, &a3.lane, &[a3.id]).await?;
        ensure_eq("setting aside behind dead letters", answer, Fenced::Done(true))?;
        ask(bench, &mut owner, first, a1.event_id).await?;
        ensure_eq("the rows that are due before the last", labels(&owner.parked().await?), NONE)?;
        ask(bench, &mut owner, second, a2.event_id).await?;
        ensure_eq("the rows that are due", &labels(&owner.parked().await?)[..], due)?;
    }
    Ok(())
}

pub(super) async fn discard<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let (mut owner, row) = buried(bench, LaterEvents::Wait).await?;
    let next = owner.find("a2").await?;
    let lease = owner.lease_of(&row)?;
    let answer = owner.set_aside(lease, &row.lane, &[next.id]).await?;
    ensure_eq("setting aside behind a dead letter", answer, Fenced::Done(true))?;
    ask(bench, &mut owner, Request::Discard, row.event_id).await?;
    if let Some(dead) = bench.dead_letters(&owner.table).await? {
        ensure_eq("the dead letters", dead, [])?;
    }
    let due = owner.parked().await?;
    ensure_eq("the rows that are due", labels(&due), ["a2"])?;
    owner.settle(due).await?;
    ensure_eq("opening the gate", owner.open_gate(lease, &row.lane).await?, Fenced::Done(true))?;
    owner.commit([event(Some("a"), "a3")]).await?;
    ensure_eq("the free rows", labels_at(&owner.read().await?, Place::Hot), ["b1", "b2", "a3"])
}
