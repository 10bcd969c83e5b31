//! Events that wait for their time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use cqrs_core::{AddOutcome, Deliver, ErrorKind, Outgoing, ScheduleChange, Transaction};
use cqrs_outbox::{Lease, Promoted};
use tokio::time::{self, Instant};
use uuid::Uuid;

use crate::store::StoreUnderTest;
use crate::store::bench::{Bench, Checked, LONG, Owner, ensure, ensure_eq, event, labels, skip};

fn after(key: Option<&str>, label: &str, wait: Duration) -> Outgoing {
    let mut outgoing = Outgoing::from(event(key, label));
    outgoing.options.deliver = Some(Deliver::After(wait));
    outgoing
}

fn at(key: Option<&str>, label: &str, at: DateTime<Utc>) -> Outgoing {
    let mut outgoing = Outgoing::from(event(key, label));
    outgoing.options.deliver = Some(Deliver::At(at));
    outgoing
}

const SCHEDULED: AddOutcome = AddOutcome::Scheduled;
const WRITTEN: AddOutcome = AddOutcome::Written;

/// Writes them in a transaction of their own; gives the outcomes and the ids.
async fn add<S: StoreUnderTest>(
    owner: &Owner<S>,
    outgoing: impl IntoIterator<Item = Outgoing>,
) -> Checked<(Vec<AddOutcome>, Vec<Uuid>)> {
    let added = owner.table.add(outgoing).await?;
    let ids = added.ids().filter_map(|id| id.to_uuid()).collect();
    Ok((added.outcomes().collect(), ids))
}

/// Promotes until nothing is due; gives how many moved, and the time to the next one.
async fn promote<S: StoreUnderTest>(bench: &Bench<'_, S>, owner: &Owner<S>) -> Checked<Promoted> {
    let all = async {
        let mut moved = 0;
        loop {
            let promoted = owner.promote(&owner.leases, 1_000).await?;
            moved += promoted.moved;
            if promoted.next_due.is_none_or(|wait| wait > bench.settings.quiet) {
                return Ok(Promoted { moved, ..promoted });
            }
            time::sleep(promoted.next_due.unwrap_or_default().max(Duration::from_millis(1))).await;
        }
    };
    bench.bounded("promoting what is due", all).await?
}

pub(super) async fn due<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    let nothing = Promoted { moved: 0, next_due: None };
    ensure_eq("with nothing scheduled", promote(bench, &owner).await?, nothing)?;
    let (wait, begun) = (bench.settings.lease, Instant::now());
    let past = Utc::now() - LONG;
    let events = [
        after(Some("a"), "later", wait),
        at(Some("a"), "past", past),
        event(Some("a"), "now").into(),
        after(Some("a"), "zero", Duration::ZERO),
    ];
    let (outcomes, _) = add(&owner, events).await?;
    ensure_eq("what became of them", outcomes, [SCHEDULED, WRITTEN, WRITTEN, WRITTEN])?;
    let (outcomes, _) = add(&owner, [at(None, "far", Utc::now() + LONG)]).await?;
    ensure_eq("what became of a far one", outcomes, [SCHEDULED])?;
    ensure_eq("read before", labels(&owner.read().await?), ["past", "now", "zero"])?;
    let early = owner.promote(&owner.leases, 1_000).await?;
    // A machine that was too slow to look in time has not seen anything.
    let in_time = begun.elapsed() < wait;
    if in_time {
        ensure_eq("promoted too early", early.moved, 0)?;
        ensure(early.next_due.is_some_and(|next| next <= wait), || {
            format!("the next one is due in {wait:?} at most, and is said to be in {:?}", early.next_due)
        })?;
    }
    time::sleep(wait).await;
    owner.commit([event(Some("a"), "meanwhile")]).await?;
    let promoted = promote(bench, &owner).await?;
    ensure_eq("promoted when it was due", early.moved + promoted.moved, 1)?;
    ensure(promoted.next_due.is_some_and(|next| next > LONG / 2 && next <= LONG), || {
        format!("the far one is due in about {LONG:?}, and is said to be in {:?}", promoted.next_due)
    })?;
    // Its place is the moment of promotion.
    let read = owner.read().await?;
    if in_time {
        ensure_eq("read after", labels(&read), ["past", "now", "zero", "meanwhile", "later"])?;
    }
    ensure_eq("how many were read after", read.len(), 5)
}

pub(super) async fn order<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let wait = bench.settings.lease / 2;
    // A busy machine may write them when they are due already; then it is tried again.
    let mut tries = 0;
    let owner = loop {
        let owner = bench.owned().await?;
        let time = Utc::now() + wait;
        let by = |millis: i64| time + chrono::TimeDelta::milliseconds(millis);
        // Of one time: as they were written.
        let events = [("2", 1), ("4", 3), ("1", 0), ("3", 1), ("5", 3), ("6", 4)];
        let (outcomes, _) =
            add(&owner, events.map(|(label, millis)| at(Some("a"), label, by(millis)))).await?;
        tries += 1;
        if tries == 5 || Utc::now() < time {
            ensure_eq("what became of them", outcomes, [SCHEDULED; 6])?;
            break owner;
        }
    };
    time::sleep(wait + wait / 4).await;
    let first = bench
        .bounded("waiting for the first", async {
            loop {
                let promoted = owner.promote(&owner.leases, 4).await?;
                if promoted.moved > 0 {
                    return Checked::Ok(promoted);
                }
                time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await??;
    ensure_eq("promoted, with room for four", first, Promoted { moved: 4, next_due: Some(Duration::ZERO) })?;
    ensure_eq("the others", owner.promote(&owner.leases, 4).await?, Promoted { moved: 2, next_due: None })?;
    ensure_eq("their order", labels(&owner.read().await?), ["1", "2", "3", "4", "5", "6"])
}

pub(super) async fn fence<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let one = bench.owned().await?;
    let soon = Duration::from_millis(1);
    let keys: Vec<String> = (0..40).map(|nth| nth.to_string()).collect();
    let (outcomes, _) = add(&one, keys.iter().map(|key| after(Some(key), key, soon))).await?;
    ensure_eq("what became of them", outcomes, vec![SCHEDULED; 40])?;
    time::sleep(soon * 20).await;
    one.leave().await?;
    let two = one.table.owner("two").await?;
    ensure_eq("promoted under leases that were lost", one.promote(&one.leases, 1_000).await?.moved, 0)?;
    ensure_eq("promoted without leases", one.promote(&[], 1_000).await?, Promoted::default())?;
    let (mine, others): (Vec<Lease>, Vec<Lease>) =
        two.leases.iter().partition(|lease| lease.group.0 % 2 == 0);
    let moved = two.promote(&mine, 1_000).await?;
    let rows = two.read().await?;
    ensure(rows.iter().all(|row| mine.iter().any(|lease| lease.group == row.group)), || {
        "an event of a group that is not leased was promoted".to_owned()
    })?;
    ensure_eq("promoted of these groups", (moved.moved, moved.next_due), (rows.len(), None))?;
    two.promote(&others, 1_000).await?;
    ensure_eq("promoted in the end", two.read().await?.len(), 40)
}

pub(super) async fn change<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    use ScheduleChange::{Done, TooLate};
    let owner = bench.owned().await?;
    let labelled = ["cancelled", "kept", "sooner", "later"].map(|label| after(Some("a"), label, LONG));
    let (_, ids) = add(&owner, labelled).await?;
    let table = &owner.table;

    // With a rollback it is as it was.
    let mut tx = table.begin().await?;
    match tx.cancel(ids[1]).await {
        Err(error) if error.kind() == ErrorKind::Configuration => {
            return skip(format!("{error} (`Transaction::cancel`)"));
        }
        done => ensure_eq("cancelling", done?, Done)?,
    }
    ensure_eq("cancelling it again", tx.cancel(ids[1]).await?, TooLate)?;
    tx.rollback().await?;
    let mut tx = table.begin().await?;
    ensure_eq("moving", tx.reschedule(ids[1], Utc::now()).await?, Done)?;
    drop(tx);
    ensure_eq("promoted after two rollbacks", promote(bench, &owner).await?.moved, 0)?;

    let mut tx = table.begin().await?;
    ensure_eq("cancelling", tx.cancel(ids[0]).await?, Done)?;
    ensure_eq("moving to now", tx.reschedule(ids[2], Utc::now() - LONG).await?, Done)?;
    ensure_eq("moving further away", tx.reschedule(ids[3], Utc::now() + LONG * 2).await?, Done)?;
    // What is written in the same transaction can be changed there, too.
    let own = tx.write(table.outgoing([after(None, "own", LONG)])?).await?;
    let own = own.ids().next().and_then(|id| id.to_uuid()).unwrap_or_default();
    ensure_eq("cancelling what this transaction wrote", tx.cancel(own).await?, Done)?;
    tx.commit().await?;
    let promoted = promote(bench, &owner).await?;
    ensure_eq("promoted after the commit", promoted.moved, 1)?;
    ensure(promoted.next_due.is_some_and(|wait| wait <= LONG), || {
        "the one that was kept is gone".to_owned()
    })?;
    ensure_eq("read after the commit", labels(&owner.read().await?), ["sooner"])?;

    let mut tx = table.begin().await?;
    for (what, id) in [
        ("cancelled before", ids[0]),
        ("sent", ids[2]),
        ("never scheduled", Uuid::new_v4()),
        ("its own", own),
    ] {
        ensure_eq(&format!("cancelling what was {what}"), tx.cancel(id).await?, TooLate)?;
        ensure_eq(&format!("moving what was {what}"), tx.reschedule(id, Utc::now()).await?, TooLate)?;
    }
    ensure_eq("cancelling the one that was kept", tx.cancel(ids[1]).await?, Done)?;
    tx.commit().await?;
    let last = promote(bench, &owner).await?;
    ensure(last.next_due.is_some_and(|wait| wait > LONG), || {
        format!("the last one was moved to {:?}, and is said to be due in {:?}", LONG * 2, last.next_due)
    })
}
