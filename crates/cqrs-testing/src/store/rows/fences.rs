//! A relay that has lost its lease changes nothing that sending again would not mend.

use std::time::Duration;

use cqrs_outbox::{Fenced, LaterEvents, Place, Verdict};

use crate::store::StoreUnderTest;
use crate::store::bench::{Bench, Checked, LONG, Owner, ensure, ensure_eq, event, labels, labels_at};

/// Two rows of one key; a relay that had read them and has lost its leases, and the one that has them now.
async fn usurped<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked<(Owner<S>, Owner<S>)> {
    let mut old = bench.owned().await?;
    old.commit([event(Some("a"), "1"), event(Some("a"), "2")]).await?;
    let leases = old.leases.clone();
    old.beat(LONG, 0, old.leases.clone()).await?;
    old.leases = leases;
    let new = old.table.owner("new").await?;
    Ok((old, new))
}

/// The new owner sees both rows as they were.
async fn untouched<S: StoreUnderTest>(new: &Owner<S>) -> Checked {
    let rows = new.read().await?;
    ensure_eq("the rows as the new owner reads them", labels(&rows), ["1", "2"])?;
    ensure(rows.iter().all(|row| row.place == Place::Hot && row.attempts == 0), || {
        format!("the rows were changed under a lease that was lost: {rows:?}")
    })?;
    ensure_eq("the rows aside", labels(&new.parked().await?), [""; 0])
}

pub(super) async fn park<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let (old, new) = usurped(bench).await?;
    let row = new.find("1").await?;
    let verdict = Verdict::Park { retry_in: Duration::ZERO };
    ensure_eq("parking without a lease", old.reject(&row, verdict, "late").await?, Fenced::LeaseLost)?;
    untouched(&new).await
}

pub(super) async fn bury<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let (old, new) = usurped(bench).await?;
    let row = new.find("1").await?;
    for later in [LaterEvents::GoOn, LaterEvents::Wait, LaterEvents::Follow] {
        let answer = old.reject(&row, Verdict::Bury { later }, "late").await?;
        ensure_eq("burying without a lease", answer, Fenced::LeaseLost)?;
        untouched(&new).await?;
    }
    if let Some(dead) = bench.dead_letters(&new.table).await? {
        ensure_eq("the dead letters", dead, [])?;
    }
    Ok(())
}

pub(super) async fn set_aside<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let (old, new) = usurped(bench).await?;
    new.park(&new.find("1").await?, Duration::ZERO).await?;
    let row = new.find("2").await?;
    let answer = old.set_aside(old.lease_of(&row)?, &row.lane, &[row.id]).await?;
    ensure_eq("setting aside without a lease", answer, Fenced::LeaseLost)?;
    ensure_eq("the gated rows", labels_at(&new.read().await?, Place::Gated), ["2"])?;
    ensure_eq("the rows aside", labels(&new.parked().await?), ["1"])
}

pub(super) async fn open_gate<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let (old, new) = usurped(bench).await?;
    new.park(&new.find("1").await?, Duration::ZERO).await?;
    new.settle(new.parked().await?).await?;
    let row = new.find("2").await?;
    let answer = old.open_gate(old.lease_of(&row)?, &row.lane).await?;
    ensure_eq("opening a gate without a lease", answer, Fenced::LeaseLost)?;
    ensure_eq("the gated rows", labels_at(&new.read().await?, Place::Gated), ["2"])
}
