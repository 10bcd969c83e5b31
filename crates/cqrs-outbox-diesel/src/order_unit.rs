//! What is in order, as the tables say it: all that use them have to see it alike.

#[cfg(doc)]
use cqrs_core::ErrorKind;
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cqrs_core::Result;
use cqrs_outbox::{OrderUnit, StoreError, StoreErrorKind};
use uuid::Uuid;

use crate::backend::Backend;
use crate::error::store_error;
use crate::on::On;
use crate::outbox::{Outbox, commit};
use crate::query::Query;

/// What is in order, as the relays of an outbox have found it. It holds as long as one of them is at work, for what that one has in memory
/// is of lanes of this unit; one that begins when none is goes by what the tables say then.
#[derive(Debug, Default)]
pub(crate) struct KnownOrderUnit(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    unit: Option<OrderUnit>,
    /// The incarnations at work.
    relays: HashSet<Uuid>,
}

impl KnownOrderUnit {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self) -> Option<OrderUnit> {
        self.known().unit
    }

    fn get_or_set(&self, found: OrderUnit) -> OrderUnit {
        let mut known = self.known();
        if known.relays.is_empty() {
            known.unit = None;
        }
        *known.unit.get_or_insert(found)
    }

    /// This relay goes by it from now on.
    pub(crate) fn enter(&self, incarnation: Uuid) {
        self.known().relays.insert(incarnation);
    }

    /// This relay has nothing in memory any more.
    pub(crate) fn forget(&self, incarnation: Uuid) {
        let mut known = self.known();
        known.relays.remove(&incarnation);
        if known.relays.is_empty() {
            known.unit = None;
        }
    }
}

impl<B: Backend> Outbox<B> {
    /// What the events of this outbox have in common that are sent in the order in which they were written.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`]: not reachable, there are no tables or they are of another version, or it is a unit of a later one.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn order_unit(&self) -> Result<OrderUnit> {
        self.try_order_unit().await.map_err(|error| self.failed(error))
    }

    /// Says what is to be in order from now on, for all relays of this outbox. Where it is so already it does nothing: a service may call it with
    /// each start, behind [`migrate`](Self::migrate).
    ///
    /// It can be changed while no relay is at work and nothing stands aside or is a dead letter: these wait with what they had in common with others.
    /// What waits to be sent, or is scheduled, does no harm. A relay that goes by the one before ends with an error, and goes by the new one when
    /// it is run again, as one of several ([`Relays`](cqrs_outbox::Relays)) is by itself.
    ///
    /// ```no_run
    /// # async fn start() -> cqrs_core::Result<()> {
    /// use cqrs_outbox_diesel::{OrderUnit, Outbox, Pg};
    ///
    /// let outbox = Outbox::<Pg>::connect("postgres://localhost/shop").await?;
    /// outbox.migrate().await?;
    /// outbox.set_order_unit(OrderUnit::TopicAndKey).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`]: it is another one and may not be changed now, which says why; not reachable, not allowed, or there are no tables.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it open whether it was written; [`order_unit`](Self::order_unit) tells.
    pub async fn set_order_unit(&self, unit: OrderUnit) -> Result<()> {
        self.try_set_order_unit(unit).await.map_err(|error| self.failed(error))
    }

    pub(crate) async fn try_order_unit(&self) -> Result<OrderUnit, StoreError> {
        understood(&self.meta().await?.order_unit)
    }

    async fn try_set_order_unit(&self, unit: OrderUnit) -> Result<(), StoreError> {
        if self.try_order_unit().await? == unit {
            return Ok(());
        }
        let refuse = |reasons: Vec<String>| {
            let what = format!("the unit of order cannot be changed to `{unit}` now: {}", reasons.join("; "));
            if reasons.is_empty() { Ok(()) } else { Err(StoreError::new(StoreErrorKind::Other, what)) }
        };
        // Before anything is locked: relays may be at work, and to count what there is may take its time.
        let mut conn = self.lend().await?;
        let reasons = reasons_against::<B>(&mut conn.on()).await.map_err(store_error)?;
        conn.give_back();
        refuse(reasons)?;
        let mut tx = self.begin_short().await?;
        // Until the end of this transaction: whoever wants a lease passes over groups that are locked, and finds the new unit with the next ones.
        let lock = Query::new("SELECT epoch AS value FROM cqrs_outbox_group ORDER BY group_no");
        B::numbers(&mut tx.on(), lock.then(B::DIALECT.for_update)).await.map_err(store_error)?;
        refuse(reasons_against::<B>(&mut tx.on()).await.map_err(store_error)?)?;
        let update = Query::new("UPDATE cqrs_outbox_meta SET order_unit = ?").bind(unit.as_str());
        B::execute(&mut tx.on(), update).await.map_err(store_error)?;
        // A relay whose lease has expired may park what it has sent as long as nobody has taken the group: by the lane that it knows.
        let fence = Query::new("UPDATE cqrs_outbox_group SET epoch = epoch + 1");
        B::execute(&mut tx.on(), fence).await.map_err(store_error)?;
        commit(tx).await
    }

    /// Fails if it is not what a relay of this outbox has found first: what that one has in memory is of lanes that no other relay knows.
    pub(crate) fn is_order_unit_known(&self, found: &str) -> Result<(), StoreError> {
        let found = understood(found)?;
        let known = self.known_order_unit().get_or_set(found);
        if known == found {
            return Ok(());
        }
        let what = format!(
            "the unit of order of this outbox is `{found}`, and was `{known}` when this relay began: start it again, and it goes by the new one"
        );
        Err(StoreError::new(StoreErrorKind::Schema, what))
    }
}

fn understood(found: &str) -> Result<OrderUnit, StoreError> {
    OrderUnit::parse(found).ok_or_else(|| {
        let what = format!(
            "the `order_unit` of this outbox is `{found}`, which this version does not know: it knows `{}` and `{}`",
            OrderUnit::Key,
            OrderUnit::TopicAndKey
        );
        StoreError::new(StoreErrorKind::Schema, what)
    })
}

/// Why the unit of order may not be changed, in the order in which to mend it.
async fn reasons_against<B: Backend>(on: &mut On<'_, B>) -> diesel::QueryResult<Vec<String>> {
    let mut reasons = Vec::new();
    for (table, what, what_to_do) in [
        (
            "cqrs_outbox_dead",
            "dead letters",
            "replay or discard them (`cqrs dead`), and let a relay carry that out",
        ),
        (
            "cqrs_outbox_parked",
            "events that stand aside",
            "let a relay run, not `--until-empty`, until `cqrs outbox status` has none parked: each is sent or becomes a dead letter",
        ),
        ("cqrs_outbox_gate", "closed gates", "let a relay run until `cqrs outbox status` has none"),
    ] {
        let there = count::<B>(on, Query::new("SELECT count(*) AS value FROM ").then(table)).await?;
        if there > 0 {
            reasons.push(format!("there are {what} ({there}): {what_to_do}"));
        }
    }
    // Nothing of it gets done by a relay that holds.
    let held = Query::new("SELECT count(*) AS value FROM cqrs_outbox_meta WHERE hold");
    if !reasons.is_empty() && count::<B>(on, held).await? > 0 {
        reasons.insert(0, "relaying is on hold: first `cqrs outbox resume`".to_owned());
    }
    let leases = Query::new(
        "SELECT count(*) AS value FROM cqrs_outbox_group WHERE incarnation IS NOT NULL AND expires_at > ",
    );
    if count::<B>(on, leases.then(B::DIALECT.not_before).bind(0.0)).await? > 0 {
        let then = if reasons.is_empty() { "" } else { "then " };
        let what =
            format!("a relay is at work: {then}end all relays, and wait for the leases of those that died");
        reasons.push(what);
    }
    Ok(reasons)
}

async fn count<B: Backend>(on: &mut On<'_, B>, query: Query) -> diesel::QueryResult<i64> {
    Ok(B::numbers(on, query).await?.first().copied().unwrap_or(0))
}
