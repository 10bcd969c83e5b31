//! Rows that wait, and the lanes that wait with them.

use std::time::Duration;

use cqrs_outbox::{Fenced, LaterEvents, Place, ReadRequest, Verdict};
use tokio::time::{self, Instant};

use crate::store::StoreUnderTest;
use crate::store::bench::{Bench, Checked, LONG, Owner, ensure, ensure_eq, event, label, labels, labels_at};

const NONE: [&str; 0] = [];

pub(super) async fn park<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    owner
        .commit([event(Some("a"), "a1"), event(Some("b"), "b1"), event(None, "n1"), event(Some("a"), "a2")])
        .await?;
    owner.park(&owner.find("a1").await?, LONG).await?;
    owner.commit([event(Some("a"), "a3"), event(Some("b"), "b2"), event(None, "n2")]).await?;
    let rows = owner.read().await?;
    ensure_eq("the free rows", labels_at(&rows, Place::Hot), ["b1", "n1", "b2", "n2"])?;
    ensure_eq("the gated rows", labels_at(&rows, Place::Gated), ["a2", "a3"])?;
    // A row that is gone cannot be parked, and its lane does not wait for it.
    let gone = owner.find("b1").await?;
    owner.settle(vec![gone.clone()]).await?;
    owner.reject(&gone, Verdict::Park { retry_in: LONG }, "late").await?;
    ensure_eq("the free rows", labels_at(&owner.read().await?, Place::Hot), ["n1", "b2", "n2"])
}

pub(super) async fn set_aside<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    owner.commit(["1", "2", "3", "4"].map(|name| event(Some("a"), name))).await?;
    let rows = owner.read().await?;
    let (lease, lane) = (owner.lease_of(&rows[0])?, &rows[0].lane);
    let answer = owner.set_aside(lease, lane, &[rows[1].id]).await?;
    ensure_eq("setting aside behind an open gate", answer, Fenced::Done(false))?;
    ensure_eq("the rows after that", labels_at(&owner.read().await?, Place::Hot), ["1", "2", "3", "4"])?;

    owner.park(&rows[0], Duration::ZERO).await?;
    let answer = owner.set_aside(lease, lane, &[rows[1].id, rows[3].id]).await?;
    ensure_eq("setting aside behind a closed gate", answer, Fenced::Done(true))?;
    ensure_eq("the rows that are left", labels(&owner.read().await?), ["3"])?;
    let parked = owner.parked().await?;
    ensure_eq("the rows aside", labels(&parked), ["1", "2", "4"])?;
    ensure(parked[1..].iter().all(|row| row.attempts == 0), || {
        "setting aside was counted as an attempt".to_owned()
    })?;
    let answer = owner.set_aside(lease, lane, &[rows[1].id, rows[3].id]).await?;
    ensure_eq("setting the same aside again", answer, Fenced::Done(true))?;
    ensure_eq("the rows aside after that", labels(&owner.parked().await?), ["1", "2", "4"])
}

pub(super) async fn due<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    owner.commit([event(Some("a"), "a"), event(Some("b"), "b")]).await?;
    let (a, b) = (owner.find("a").await?, owner.find("b").await?);
    owner.park(&a, LONG).await?;
    ensure_eq("the rows that are due, with none", labels(&owner.parked().await?), NONE)?;
    owner.park(&b, Duration::ZERO).await?;
    ensure_eq("the rows that are due, with one", labels(&owner.parked().await?), ["b"])?;
    // Refused once more, it waits anew; and the other way round.
    owner.park(&b, LONG).await?;
    ensure_eq("the rows that are due, with that one refused again", labels(&owner.parked().await?), NONE)?;
    owner.park(&a, Duration::ZERO).await?;
    ensure_eq("the rows that are due, with the other", labels(&owner.parked().await?), ["a"])
}

pub(super) async fn time<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    owner.commit([event(Some("a"), "a")]).await?;
    let wait = bench.settings.lease;
    let begun = Instant::now();
    owner.park(&owner.find("a").await?, wait).await?;
    let early = owner.parked().await?;
    // A machine that was too slow to look in time has not seen anything.
    if begun.elapsed() < wait {
        ensure_eq("the rows that are due at once", labels(&early), NONE)?;
    }
    time::sleep(wait + wait / 10).await;
    ensure_eq("the rows that are due afterwards", labels(&owner.parked().await?), ["a"])
}

async fn two_lanes_aside<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked<Owner<S>> {
    let owner = bench.owned().await?;
    // Two lanes whose rows lie between each other.
    for name in ["1", "2", "3", "4"] {
        owner.commit([event(Some("a"), &format!("a{name}")), event(Some("b"), &format!("b{name}"))]).await?;
    }
    let rows = owner.read().await?;
    // The later lane is due first, and its rows go aside in another order than they were written.
    for first in [&rows[1], &rows[0]] {
        owner.park(first, Duration::ZERO).await?;
        let others: Vec<i64> = rows
            .iter()
            .rev()
            .filter(|row| row.lane == first.lane && row.id != first.id)
            .map(|row| row.id)
            .collect();
        let answer = owner.set_aside(owner.lease_of(first)?, &first.lane, &others).await?;
        ensure_eq("setting aside", answer, Fenced::Done(true))?;
    }
    ensure_eq("the rows that are left", labels(&owner.read().await?), NONE)?;
    Ok(owner)
}

pub(super) async fn order<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = two_lanes_aside(bench).await?;
    let rows = owner.parked().await?;
    ensure_eq("the rows aside", labels(&rows), ["a1", "b1", "a2", "b2", "a3", "b3", "a4", "b4"])?;
    let request = owner.request(&[]);

    let firsts = owner.parked_as(&ReadRequest { limit: 3, ..request.clone() }).await?;
    first_of_their_lanes(&labels(&firsts))?;
    ensure(firsts.len() <= 3 && !firsts.is_empty(), || format!("{} rows with a limit of 3", firsts.len()))?;
    let firsts = owner.parked_as(&ReadRequest { max_bytes: 1, ..request.clone() }).await?;
    ensure_eq("the number of rows within a byte", firsts.len(), 1)?;
    first_of_their_lanes(&labels(&firsts))?;
    let three = rows[0].size + rows[1].size + rows[2].size;
    for max_bytes in [three - 1, three, three + 1] {
        let firsts = owner.parked_as(&ReadRequest { max_bytes, ..request.clone() }).await?;
        first_of_their_lanes(&labels(&firsts))?;
        ensure(firsts.iter().map(|row| row.size).sum::<usize>() <= max_bytes, || {
            format!("{} rows are more than {max_bytes} bytes", firsts.len())
        })?;
    }

    let known: Vec<i64> = rows[..3].iter().map(|row| row.id).collect();
    let rest = owner.parked_as(&owner.request(&known)).await?;
    ensure_eq("the rows aside that are not known", labels(&rest), ["b2", "a3", "b3", "a4", "b4"])?;

    let nothing = ReadRequest { leases: Vec::new(), ..request.clone() };
    ensure_eq("the rows aside without a lease", labels(&owner.parked_as(&nothing).await?), NONE)?;
    let one = ReadRequest { leases: vec![owner.lease_of(&rows[0])?], ..request };
    let some = owner.parked_as(&one).await?;
    ensure(some.iter().all(|row| row.group == rows[0].group), || {
        "rows aside of other groups were read".to_owned()
    })?;
    ensure(labels(&some).contains(&"a4".to_owned()), || "rows aside of a leased group are missing".to_owned())
}

/// Of each lane the first ones, without a gap.
fn first_of_their_lanes(names: &[String]) -> Checked {
    for lane in ["a", "b"] {
        let numbers: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix(lane)).collect();
        ensure(["1", "2", "3", "4"].starts_with(&numbers), || {
            format!("of the lane `{lane}` the rows {numbers:?} were read, which are not the first ones")
        })?;
    }
    Ok(())
}

pub(super) async fn behind<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    // In the order in which they are due.
    for name in ["settled", "in memory", "waiting"] {
        owner.commit([event(Some(name), name)]).await?;
        owner.park(&owner.find(name).await?, Duration::ZERO).await?;
    }
    let rows = owner.parked().await?;
    ensure_eq("the rows aside", labels(&rows), ["settled", "in memory", "waiting"])?;
    // As a relay leaves it that is killed before it has opened the gate.
    owner.settle(vec![rows[0].clone()]).await?;
    let request = ReadRequest { limit: 1, ..owner.request(&[rows[1].id]) };
    ensure_eq("the row that comes next", labels(&owner.parked_as(&request).await?), ["waiting"])
}

pub(super) async fn open<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    owner.commit([event(Some("a"), "1"), event(Some("a"), "2"), event(Some("b"), "b")]).await?;
    let row = owner.find("1").await?;
    let lease = owner.lease_of(&row)?;
    owner.park(&row, Duration::ZERO).await?;
    owner.park(&owner.find("b").await?, LONG).await?;
    owner.commit([event(Some("b"), "b2")]).await?;
    let answer = owner.open_gate(lease, &row.lane).await?;
    ensure_eq("opening the gate before a row aside", answer, Fenced::Done(false))?;
    ensure_eq("the gated rows", labels_at(&owner.read().await?, Place::Gated), ["2", "b2"])?;

    owner.settle(owner.parked().await?).await?;
    ensure_eq("the gated rows", labels_at(&owner.read().await?, Place::Gated), ["2", "b2"])?;
    let answer = owner.open_gate(lease, &row.lane).await?;
    ensure_eq("opening the gate before nothing", answer, Fenced::Done(true))?;
    let rows = owner.read().await?;
    ensure_eq("the free rows", labels_at(&rows, Place::Hot), ["2"])?;
    ensure_eq("the gated rows, of another lane", labels_at(&rows, Place::Gated), ["b2"])?;
    let answer = owner.set_aside(lease, &row.lane, &[rows[0].id]).await?;
    ensure_eq("setting aside behind the gate that was opened", answer, Fenced::Done(false))
}

pub(super) async fn attempts<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    owner.commit([event(Some("a"), "a"), event(Some("b"), "b")]).await?;
    let mut row = owner.find("a").await?;
    for attempts in 1..=3 {
        // The same refusal, written twice, as after an answer that was lost, is one.
        owner.park(&row, Duration::ZERO).await?;
        owner.park(&row, Duration::ZERO).await?;
        let parked = owner.parked().await?;
        ensure_eq("the rows aside", labels(&parked), ["a"])?;
        ensure_eq("the attempts", parked[0].attempts, attempts)?;
        row = parked[0].clone();
    }
    // With another owner, too.
    owner.leave().await?;
    let other = owner.table.owner("other").await?;
    ensure_eq("the attempts as the next owner reads them", other.parked().await?[0].attempts, 3)?;
    other.bury(&row, LaterEvents::GoOn, "the last error").await?;
    ensure_eq("the rows aside", labels(&other.parked().await?), NONE)?;
    other.bury(&other.find("b").await?, LaterEvents::GoOn, "the only error: 'é' \"\\").await?;
    let Some(dead) = bench.dead_letters(&owner.table).await? else { return Ok(()) };
    let seen: Vec<_> = dead.iter().map(|dead| (dead.attempts, &dead.error[..])).collect();
    ensure_eq(
        "attempts and errors of the dead letters",
        seen,
        [(4, "the last error"), (1, "the only error: 'é' \"\\")],
    )?;
    ensure_eq("the first one's event", dead[0].event_id, row.event_id)?;
    ensure_eq("its name", label(&row), "a")
}
