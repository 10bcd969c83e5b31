//! What is kept for a time only.

use std::time::Duration;

use cqrs_core::{AddOutcome, Dedup, Outgoing};
use cqrs_outbox::{Kept, LaterEvents, OutboxStore};

use crate::store::StoreUnderTest;
use crate::store::bench::{Bench, Checked, LONG, ensure_eq, event, labels};

pub(super) async fn purge<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    let once = || {
        let mut outgoing = Outgoing::from(event(None, "once"));
        outgoing.options.dedup = Some(Dedup::new("once", LONG));
        outgoing
    };
    owner.table.add([once()]).await?;
    owner.commit(["hot", "parked", "dead"].map(|label| event(Some(label), label))).await?;
    owner.park(&owner.find("parked").await?, Duration::ZERO).await?;
    owner.bury(&owner.find("dead").await?, LaterEvents::GoOn, "not readable").await?;
    for kept in [Kept::Sent, Kept::Requests, Kept::DedupKeys, Kept::Inbox] {
        owner.table.store.purge(kept, Duration::ZERO).await?;
    }
    ensure_eq("what waits", labels(&owner.read().await?), ["once", "hot"])?;
    ensure_eq("what waits aside", labels(&owner.parked().await?), ["parked"])?;
    if let Some(dead) = bench.dead_letters(&owner.table).await? {
        ensure_eq("the dead letters", dead.len(), 1)?;
    }
    let again = owner.table.add([once()]).await?;
    ensure_eq("a key within its window", again.outcomes().collect::<Vec<_>>(), [AddOutcome::Duplicate])
}
