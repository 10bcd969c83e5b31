//! Which outbox this is, so that a copy of its database is not taken for it.

#[cfg(doc)]
use cqrs_core::ErrorKind;
use cqrs_core::Result;
use cqrs_outbox::{StoreError, StoreErrorKind};
use uuid::Uuid;

use crate::backend::Backend;
use crate::error::store_error;
use crate::outbox::{Outbox, commit};
use crate::query::Query;

impl<B: Backend> Outbox<B> {
    /// Which installation this is: an id that was made with the tables, and that a copy of the database has, too. Give it to the relay's
    /// outbox (`installation_id` of its builder), and that relay serves no copy by mistake.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`]: not reachable, there are no tables or they are of another version, or what stands there is no UUID.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn installation_id(&self) -> Result<Uuid> {
        self.try_installation_id().await.map_err(|error| self.failed(error))
    }

    async fn try_installation_id(&self) -> Result<Uuid, StoreError> {
        let found = self.meta().await?.installation_id;
        Uuid::try_parse(&found).map_err(|error| {
            let what = format!(
                "the `installation_id` of this outbox is `{found}`, which is no UUID ({error}): `cqrs outbox renew-id` gives it a new one"
            );
            StoreError::new(StoreErrorKind::Schema, what).with_source(error)
        })
    }

    /// Makes an installation of its own of a copy: gives it a new id, which is returned. Relays that were told the old one end with their
    /// next heartbeat. What waits in the copy is untouched, and goes to the broker with the first relay that serves it: look at it
    /// before, or [hold](Self::hold) it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`]: not reachable, not allowed, or there are no tables.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it open whether it was written; [`installation_id`](Self::installation_id) tells.
    pub async fn renew_installation_id(&self) -> Result<Uuid> {
        self.try_renew_installation_id().await.map_err(|error| self.failed(error))
    }

    async fn try_renew_installation_id(&self) -> Result<Uuid, StoreError> {
        self.meta().await?;
        let id = Uuid::new_v4();
        let update = Query::new("UPDATE cqrs_outbox_meta SET installation_id = ").then(B::DIALECT.event_id);
        let mut tx = self.begin_short().await?;
        B::execute(&mut tx.on(), update.bind(id.to_string())).await.map_err(store_error)?;
        commit(tx).await?;
        Ok(id)
    }

    /// Fails if this is not the installation that was asked for.
    pub(crate) fn is_expected(&self, found: &str) -> Result<(), StoreError> {
        let Some(expected) = self.expected_installation() else { return Ok(()) };
        match Uuid::try_parse(found) {
            Ok(id) if id == expected => Ok(()),
            id => {
                let found = id.map_or_else(|_| format!("`{found}`"), |id| id.to_string());
                let what = format!(
                    "this is the outbox of installation {found}, and {expected} was asked for: see that the URL is that of the right database; if \
                     it is a copy that is to be relayed by itself, look at what waits in it before (`cqrs outbox status`, `hold`, `renew-id`)"
                );
                Err(StoreError::new(StoreErrorKind::Installation, what))
            }
        }
    }
}
