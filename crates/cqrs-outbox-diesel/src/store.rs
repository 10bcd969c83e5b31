//! What a relay does to an outbox, on every database: the order of the steps, and where each transaction begins and ends.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use cqrs_outbox::{
    Confirmed, Fenced, Heartbeat, Kept, Lane, LaterEvents, Lease, OutboxRow, OutboxStore, Ownership, Place,
    Promoted, ReadRequest, Rejection, RelayId, StoreError, SuspendedTopic, Verdict,
};
use diesel::QueryResult;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::backend::Backend;
use crate::error::store_error;
use crate::on::On;
use crate::outbox::{Outbox, commit, give_up};
use crate::query::Query;
use crate::requests::carry_out;
use crate::statements::{Census, Due, LeaseRow, PulseRow, groups_of};
use crate::tx::Tx;

#[async_trait]
impl<B: Backend> OutboxStore for Outbox<B> {
    fn place(&self) -> Option<&str> {
        Some(Outbox::place(self))
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.is_order_unit_known(&self.expected_meta().await?.order_unit)
    }

    async fn heartbeat(&self, relay: &RelayId, heartbeat: &Heartbeat) -> Result<Ownership, StoreError> {
        self.known_order_unit().enter(relay.incarnation);
        let mut ownership = match self.pulse(relay, heartbeat).await? {
            Some(ownership) => ownership,
            None => {
                let mut tx = self.begin_short().await?;
                let (leases, census) =
                    beat::<B>(&mut tx.on(), relay, heartbeat).await.map_err(store_error)?;
                // Before the commit: of another installation, or in another order, nothing is taken.
                self.is_census_expected(&census)?;
                commit(tx).await?;
                ownership(&leases, &census)
            }
        };
        // It costs no lease: that is renewed, and whoever waits for the answer has to hear of it in time.
        let carried_out = timeout(CARRY_OUT, self.carry_out(&ownership.leases)).await;
        // What has failed may have been carried out all the same.
        ownership.nothing_aside &= matches!(carried_out, Ok(Ok(false)));
        match carried_out {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                self.portion().has_failed();
                tracing::warn!(%error, "what operators asked for is tried again with the next heartbeat");
            }
            Err(_) => {
                self.portion().has_failed();
                tracing::warn!(
                    "what operators asked for took more than {CARRY_OUT:?}: less of it is tried with the next heartbeat"
                );
            }
        }
        Ok(ownership)
    }

    async fn read(&self, request: &ReadRequest) -> Result<Vec<OutboxRow>, StoreError> {
        let order_unit = self.effective_order_unit();
        let mut conn = self.acquire_for_call().await?;
        let rows = B::read(&mut conn.on(), request).await.map_err(store_error)?;
        conn.give_back();
        Ok(rows.into_iter().map(|row| row.into_row(Place::Hot, order_unit)).collect())
    }

    async fn read_parked(&self, request: &ReadRequest) -> Result<Vec<OutboxRow>, StoreError> {
        let order_unit = self.effective_order_unit();
        let mut conn = self.acquire_for_call().await?;
        let rows = B::read_parked(&mut conn.on(), request).await.map_err(store_error)?;
        conn.give_back();
        Ok(rows.into_iter().map(|row| row.into_row(Place::Parked, order_unit)).collect())
    }

    /// No transaction around both places: either alone is right.
    async fn settle(&self, confirmed: &[Confirmed]) -> Result<(), StoreError> {
        let (parked, hot): (Vec<_>, Vec<_>) =
            confirmed.iter().partition(|confirmed| confirmed.place() == Place::Parked);
        let mut conn = self.acquire_for_write().await?;
        let keep = self.keeps_sent();
        if !hot.is_empty()
            && settle_hot::<B>(&mut conn.on(), &hot, keep).await.map_err(store_error)? < hot.len()
        {
            // Settled before, or moved aside by a call that this relay took for failed. Nothing moves the other way.
            settle_parked::<B>(&mut conn.on(), &hot, keep).await.map_err(store_error)?;
        }
        if !parked.is_empty() {
            settle_parked::<B>(&mut conn.on(), &parked, keep).await.map_err(store_error)?;
        }
        conn.give_back();
        Ok(())
    }

    async fn reject(&self, rejection: &Rejection) -> Result<Fenced<()>, StoreError> {
        let Some(mut tx) = self.begin_fenced(rejection.lease).await? else {
            return Ok(Fenced::LeaseLost);
        };
        reject::<B>(&mut tx.on(), rejection).await.map_err(store_error)?;
        commit(tx).await?;
        Ok(Fenced::Done(()))
    }

    async fn set_aside(
        &self,
        lease: Lease,
        lane: &Lane,
        ids: &[i64],
        later: LaterEvents,
    ) -> Result<Fenced<bool>, StoreError> {
        let Some(mut tx) = self.begin_fenced(lease).await? else {
            return Ok(Fenced::LeaseLost);
        };
        let Some(gate) = B::gate(&mut tx.on(), lane).await.map_err(store_error)? else {
            give_up(tx).await;
            return Ok(Fenced::Done(false));
        };
        B::set_aside(&mut tx.on(), lane, ids).await.map_err(store_error)?;
        if gate.waits_for_dead && later == LaterEvents::Follow {
            // What somebody has replayed waits here for the others that are to go with it.
            B::follow(&mut tx.on(), lane, FOLLOWERS, false).await.map_err(store_error)?;
        }
        commit(tx).await?;
        Ok(Fenced::Done(true))
    }

    async fn open_gate(&self, lease: Lease, lane: &Lane) -> Result<Fenced<bool>, StoreError> {
        let Some(mut tx) = self.begin_fenced(lease).await? else {
            return Ok(Fenced::LeaseLost);
        };
        if B::gate_is_needed(&mut tx.on(), lane).await.map_err(store_error)? {
            give_up(tx).await;
            return Ok(Fenced::Done(false));
        }
        B::open_gate(&mut tx.on(), lane).await.map_err(store_error)?;
        commit(tx).await?;
        Ok(Fenced::Done(true))
    }

    /// As a rule nothing is due: then it is one statement.
    async fn promote(&self, leases: &[Lease], limit: usize) -> Result<Promoted, StoreError> {
        let mut conn = self.acquire_for_call().await?;
        let wait = B::next_due(&mut conn.on(), &groups_of(leases)).await.map_err(store_error)?;
        conn.give_back();
        if wait.is_none_or(|seconds| seconds > 0.0) {
            return Ok(Promoted { moved: 0, next_due: wait.map(seconds) });
        }
        let mut tx = self.begin_short().await?;
        let promoted = promote::<B>(&mut tx.on(), leases, limit).await.map_err(store_error)?;
        commit(tx).await?;
        Ok(promoted)
    }

    async fn record_suspects(&self, relay: &RelayId, ids: &[i64]) -> Result<(), StoreError> {
        let ids = ids.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        self.record(relay, "suspects", Some(ids).filter(|ids| !ids.is_empty())).await.map(drop)
    }

    async fn record_suspended(&self, relay: &RelayId, topics: &[SuspendedTopic]) -> Result<bool, StoreError> {
        let pairs: Vec<_> =
            topics.iter().map(|suspended| json!([suspended.topic, suspended.error])).collect();
        let topics = (!pairs.is_empty()).then(|| Value::from(pairs).to_string());
        self.record(relay, "suspended", topics).await
    }

    async fn purge(&self, kept: Kept, older_than: Duration) -> Result<u64, StoreError> {
        self.purge_kept(kept, older_than).await
    }

    async fn leave(&self, relay: &RelayId) -> Result<(), StoreError> {
        let mut tx = self.begin_short().await?;
        B::leave_groups(&mut tx.on(), relay.incarnation).await.map_err(store_error)?;
        B::sign_off(&mut tx.on(), relay.incarnation).await.map_err(store_error)?;
        commit(tx).await
    }

    fn forget(&self, relay: &RelayId) {
        self.known_order_unit().forget(relay.incarnation);
    }

    fn hears_commits(&self) -> bool {
        self.hears_elsewhere()
    }

    async fn changed(&self) {
        self.woken().await;
    }
}

impl<B: Backend> Outbox<B> {
    /// Writes into the row of a relay; `false` if there is none.
    async fn record(
        &self,
        relay: &RelayId,
        column: &'static str,
        value: Option<String>,
    ) -> Result<bool, StoreError> {
        let update = Query::new("UPDATE cqrs_outbox_relay SET ").then(column);
        let update = match value {
            Some(value) => update.then(" = ?").bind(value),
            None => update.then(" = NULL"),
        };
        let update = update.condition("incarnation = ", true).then(B::DIALECT.event_id);
        let update = update.bind(relay.incarnation.to_string());
        // The heartbeat of this relay writes the same row: at REPEATABLE READ, where a server has that by default, one of them would fail.
        let mut tx = self.begin_short().await?;
        let recorded = B::execute(&mut tx.on(), update).await.map_err(store_error)?;
        commit(tx).await?;
        Ok(recorded > 0)
    }

    /// A heartbeat as most are: there is nothing to do but to renew. `None` if there is; what it has done by then is no harm.
    async fn pulse(&self, relay: &RelayId, beat: &Heartbeat) -> Result<Option<Ownership>, StoreError> {
        if !B::HAS_PULSE || !beat.release.is_empty() {
            return Ok(None);
        }
        let mut conn = self.acquire_for_write().await?;
        let rows = B::pulse(&mut conn.on(), relay.incarnation, beat.lease).await.map_err(store_error)?;
        conn.give_back();
        if let Some(first) = rows.first() {
            self.is_census_expected(&first.census)?;
        }
        let Some(first) = rows.first().filter(|row| row.is_all && (beat.take == 0 || !row.has_free)) else {
            return Ok(None);
        };
        let leases: Vec<_> = rows.iter().filter_map(PulseRow::lease).collect();
        Ok(Some(ownership(&leases, &first.census)))
    }

    /// Without the row that says so nobody knows, and all is on hold.
    fn is_census_expected(&self, census: &Census) -> Result<(), StoreError> {
        census.installation_id.as_deref().map_or(Ok(()), |found| self.is_expected(found))?;
        census.order_unit.as_deref().map_or(Ok(()), |found| self.is_order_unit_known(found))
    }

    /// Carries out what operators asked for, in a transaction of its own that holds the rows of these leases locked: it takes longer than
    /// a heartbeat, whose row others wait for. As a rule nothing is open: then it is one statement, and the answer is `false`.
    async fn carry_out(&self, leases: &[Lease]) -> Result<bool, StoreError> {
        if leases.is_empty() {
            return Ok(false);
        }
        let mut conn = self.acquire_for_call().await?;
        let is_open = B::are_requests_open(&mut conn.on()).await.map_err(store_error)?;
        conn.give_back();
        if !is_open {
            return Ok(false);
        }
        let mut tx = self.begin_short().await?;
        B::limit_statements(&mut tx, CARRY_OUT).await.map_err(store_error)?;
        let groups = B::fence_all(&mut tx.on(), leases).await.map_err(store_error)?;
        if groups.is_empty() {
            give_up(tx).await;
            return Ok(true);
        }
        carry_out::<B>(&mut tx.on(), &groups, self.portion()).await.map_err(store_error)?;
        B::sweep_gates(&mut tx.on(), &groups).await.map_err(store_error)?;
        commit(tx).await?;
        self.portion().is_done();
        Ok(true)
    }

    /// A transaction that holds the row of a lease locked; `None` if the lease is no longer of this epoch.
    async fn begin_fenced(&self, lease: Lease) -> Result<Option<Tx<B>>, StoreError> {
        let mut tx = self.begin_short().await?;
        if B::fence(&mut tx.on(), lease).await.map_err(store_error)? {
            return Ok(Some(tx));
        }
        give_up(tx).await;
        Ok(None)
    }
}

fn ids(confirmed: &[&Confirmed]) -> Vec<i64> {
    confirmed.iter().map(|confirmed| confirmed.id()).collect()
}

async fn settle_hot<B: Backend>(
    on: &mut On<'_, B>,
    confirmed: &[&Confirmed],
    keep: bool,
) -> QueryResult<usize> {
    if keep { B::keep_hot(on, confirmed).await } else { B::settle_hot(on, &ids(confirmed)).await }
}

async fn settle_parked<B: Backend>(
    on: &mut On<'_, B>,
    confirmed: &[&Confirmed],
    keep: bool,
) -> QueryResult<()> {
    if keep { B::keep_parked(on, confirmed).await } else { B::settle_parked(on, confirmed).await }
}

async fn beat<B: Backend>(
    on: &mut On<'_, B>,
    relay: &RelayId,
    beat: &Heartbeat,
) -> QueryResult<(Vec<LeaseRow>, Census)> {
    let (me, lease) = (relay.incarnation, beat.lease);
    B::seen(on, relay).await?;
    if !beat.release.is_empty() {
        B::release(on, me, &beat.release).await?;
    }
    B::renew(on, me, lease).await?;
    if beat.take > 0 {
        B::take(on, relay, lease, beat.take).await?;
    }
    // Behind that, for what one that died was sending is wanted by whoever takes its groups.
    B::forget_relays(on, lease).await?;
    let leases = B::leases(on, me).await?;
    if !leases.is_empty() {
        let groups: Vec<i32> = leases.iter().map(|row| row.lease().group.0).collect();
        B::sweep_gates(on, &groups).await?;
    }
    let census = B::census(on, lease).await?;
    Ok((leases, census))
}

fn ownership(leases: &[LeaseRow], census: &Census) -> Ownership {
    Ownership {
        leases: leases.iter().map(LeaseRow::lease).collect(),
        groups: usize::try_from(census.all_groups).unwrap_or(0),
        relays: usize::try_from(census.relays).unwrap_or(1),
        hold: census.hold,
        dirty: leases.iter().filter_map(|row| Some((row.lease().group, row.suspects()?))).collect(),
        nothing_aside: census.nothing_aside,
        nothing_scheduled: census.nothing_scheduled,
    }
}

/// What somebody holds locked (a heartbeat a lease, a writer an event that it cancels or moves) is not waited for, for the
/// writer's transaction may be a long one. What is due behind such an event in the order of its key waits with it: all of its
/// slot is passed over. Who holds very many leaves room for others all the same, for it is asked again without their slots.
async fn promote<B: Backend>(on: &mut On<'_, B>, leases: &[Lease], limit: usize) -> QueryResult<Promoted> {
    let groups = B::lock_leases(on, leases).await?;
    let (mut moved, mut held) = (0, Vec::new());
    for _ in 0..ROUNDS {
        let due = B::due(on, &groups, &held, limit - moved).await?;
        if due.is_empty() {
            break;
        }
        let ids: Vec<i64> = due.iter().map(|due| due.id).collect();
        let locked: HashSet<i64> = B::lock_due(on, &ids).await?.into_iter().collect();
        let (before, mut ready) = (held.len(), Vec::with_capacity(due.len()));
        for Due { id, slot } in &due {
            if held[before..].contains(slot) {
                continue;
            }
            if locked.contains(id) {
                ready.push(*id);
            } else {
                held.push(*slot);
            }
        }
        if !ready.is_empty() {
            B::move_due(on, &ready).await?;
        }
        let is_all = due.len() < limit - moved;
        moved += ready.len();
        if is_all || held.len() == before || moved == limit {
            break;
        }
    }
    let next_due = B::next_due(on, &groups_of(leases)).await?.map(seconds);
    let is_held_up = moved == 0 && next_due.is_some_and(|wait| wait < HELD_UP);
    Ok(Promoted { moved, next_due: if is_held_up { Some(HELD_UP) } else { next_due } })
}

/// How often is asked without the slots in which something is held. Each time some are left out, so only a writer that holds
/// many times the limit, slot after slot, gets as far as this.
const ROUNDS: usize = 8;

/// How long what operators ask for may hold up the answer to a heartbeat: less than the 5 s that a relay waits for a call of its store.
const CARRY_OUT: Duration = Duration::from_secs(2);

/// How many follow a dead letter at once: so many are moved within the time of a call. What is left waits, as it would without.
const FOLLOWERS: usize = 10_000;

/// When to look again for what is due and cannot go yet.
const HELD_UP: Duration = Duration::from_millis(50);

/// What is overdue is due at once, and what is far away is looked at once more before.
fn seconds(wait: f64) -> Duration {
    Duration::try_from_secs_f64(wait.min(FAR_AWAY)).unwrap_or_default()
}

/// A year; near enough to be added to any clock.
const FAR_AWAY: f64 = 365.0 * 24.0 * 3_600.0;

/// The row stands in the hot table, or aside if this is not its first refusal, or is written for the second time. Where ids came
/// again there may be one in either place, even of the same lane: then the one in the hot table waits, and this is not it.
async fn reject<B: Backend>(on: &mut On<'_, B>, rejection: &Rejection) -> QueryResult<()> {
    match rejection.verdict {
        Verdict::Park { retry_in } => {
            if B::park_again(on, rejection).await? || B::park(on, rejection).await? {
                B::close_gate(on, rejection, Some(retry_in)).await?;
            }
        }
        Verdict::Bury { later } => {
            let buried = B::bury_parked(on, rejection).await? || B::bury(on, rejection).await?;
            if buried && later != LaterEvents::GoOn {
                B::close_gate(on, rejection, None).await?;
            }
            if buried && later == LaterEvents::Follow {
                B::follow(on, &rejection.lane, FOLLOWERS, true).await?;
            }
        }
    }
    Ok(())
}
