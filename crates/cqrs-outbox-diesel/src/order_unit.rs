//! What is in order, as the tables say it: all that use them have to see it alike.

use std::sync::{Mutex, PoisonError};

#[cfg(doc)]
use cqrs_core::ErrorKind;
use cqrs_core::Result;
use cqrs_outbox::{OrderUnit, StoreError, StoreErrorKind};

use crate::backend::Backend;
use crate::error::store_error;
use crate::on::On;
use crate::outbox::{Outbox, commit};
use crate::query::Query;

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
    /// What waits to be sent, or is scheduled, does no harm.
    ///
    /// ```no_run
    /// # async fn start() -> cqrs_core::Result<()> {
    /// use cqrs_outbox_diesel::{OrderUnit, PgOutbox};
    ///
    /// let outbox = PgOutbox::connect("postgres://localhost/shop").await?;
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
        let mut tx = self.begin_write().await?;
        if let Some(reason) = reason_against::<B>(&mut tx.on()).await.map_err(store_error)? {
            let what = format!("the unit of order cannot be changed to `{unit}` now: {reason}");
            return Err(StoreError::new(StoreErrorKind::Other, what));
        }
        let update = Query::new("UPDATE cqrs_outbox_meta SET order_unit = ?").bind(unit.as_str());
        B::execute(&mut tx.on(), update).await.map_err(store_error)?;
        commit(tx).await
    }

    /// What a relay finds when it starts. It works by it until it ends.
    pub(crate) fn learn_order_unit(&self, found: &str) -> Result<(), StoreError> {
        self.known_order_unit().set(understood(found)?);
        Ok(())
    }

    /// Fails if it is not any more what it was when the relay started. Rows that it has in memory are of lanes that no other relay knows.
    pub(crate) fn is_order_unit_known(&self, found: &str) -> Result<(), StoreError> {
        let found = understood(found)?;
        match self.known_order_unit().get() {
            None => self.known_order_unit().set(found),
            Some(known) if known == found => {}
            Some(known) => {
                let what = format!(
                    "the unit of order of this outbox was changed from `{known}` to `{found}` while this relay had no lease: start it again"
                );
                return Err(StoreError::new(StoreErrorKind::Schema, what));
            }
        }
        Ok(())
    }
}

/// What a relay of this process knows of it; nothing before one has started.
#[derive(Debug, Default)]
pub(crate) struct KnownOrderUnit(Mutex<Option<OrderUnit>>);

impl KnownOrderUnit {
    pub(crate) fn get(&self) -> Option<OrderUnit> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, unit: OrderUnit) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(unit);
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

/// Why the unit of order may not be changed; none if it may, until the end of this transaction: whoever wants a lease passes over groups that are
/// locked, and without a lease nobody moves a row.
async fn reason_against<B: Backend>(on: &mut On<'_, B>) -> diesel::QueryResult<Option<String>> {
    let lock = Query::new("SELECT epoch AS value FROM cqrs_outbox_group ORDER BY group_no");
    B::numbers(on, lock.then(B::DIALECT.for_update)).await?;
    let leases = Query::new(
        "SELECT count(*) AS value FROM cqrs_outbox_group WHERE incarnation IS NOT NULL AND expires_at > ",
    );
    if count::<B>(on, leases.then(B::DIALECT.not_before).bind(0.0)).await? > 0 {
        return Ok(Some(
            "a relay is at work. End all relays, and wait for the leases of those that died".to_owned(),
        ));
    }
    for (table, what) in [
        (
            "cqrs_outbox_dead",
            "dead letters. Replay or discard them (`cqrs dead`), and let a relay carry it out",
        ),
        ("cqrs_outbox_parked", "events that stand aside. Let a relay send them"),
        ("cqrs_outbox_gate", "keys that wait. Let a relay look after them"),
    ] {
        let there = count::<B>(on, Query::new("SELECT count(*) AS value FROM ").then(table)).await?;
        if there > 0 {
            return Ok(Some(format!("there are {there} {what}")));
        }
    }
    Ok(None)
}

/// Says it again where that was lost: by what stands aside. Where nothing does, no harm is done by the default.
pub(crate) async fn restore_order_unit<B: Backend>(on: &mut On<'_, B>) -> diesel::QueryResult<()> {
    for table in ["cqrs_outbox_gate", "cqrs_outbox_parked", "cqrs_outbox_dead"] {
        let by_topic =
            Query::new("SELECT count(*) AS value FROM ").then(table).then(" WHERE lane >= ? AND lane < ?");
        if count::<B>(on, by_topic.bind(b"t".to_vec()).bind(b"u".to_vec())).await? > 0 {
            let update = Query::new("UPDATE cqrs_outbox_meta SET order_unit = ?");
            B::execute(on, update.bind(OrderUnit::TopicAndKey.as_str())).await?;
            break;
        }
    }
    Ok(())
}

async fn count<B: Backend>(on: &mut On<'_, B>, query: Query) -> diesel::QueryResult<i64> {
    Ok(B::numbers(on, query).await?.first().copied().unwrap_or(0))
}
