//! An outbox in one of the databases that are compiled in.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use cqrs::outbox::OutboxStore;
use cqrs::{Encoder, Error, ErrorKind, Result, ScheduleChange};
use cqrs_outbox_diesel::migrations::{Migrated, Migration};
use cqrs_outbox_diesel::{
    Asked, Asking, Backend, DeadLetter, DeadLetterDetails, DeadLetterFilter, DeadLetterRequest, Drift, Edit,
    Edited, OrderUnit, Outbox, OutboxStatus, Page, ParkedEvent, ParkedFilter, RequestFilter, RequestKind,
    ScheduleFilter, ScheduledEvent, TableNames,
};
use uuid::Uuid;

/// An outbox, whatever its database.
#[async_trait]
pub(crate) trait Database: Send + Sync {
    /// The part of it that a relay needs.
    fn store(&self) -> Arc<dyn OutboxStore>;
    async fn check_schema(&self) -> Result<()>;
    async fn migrate(&self) -> Result<Migrated>;
    async fn drift(&self) -> Result<Vec<Drift>>;
    async fn status(&self) -> Result<OutboxStatus>;
    async fn hold(&self) -> Result<()>;
    async fn resume(&self) -> Result<()>;
    async fn installation_id(&self) -> Result<Uuid>;
    async fn renew_installation_id(&self) -> Result<Uuid>;
    async fn order_unit(&self) -> Result<OrderUnit>;
    async fn set_order_unit(&self, unit: OrderUnit) -> Result<()>;
    async fn dead_letters(&self, filter: &DeadLetterFilter, page: Page) -> Result<Vec<DeadLetter>>;
    async fn count_dead_letters(&self, filter: &DeadLetterFilter) -> Result<u64>;
    async fn dead_letter(&self, event_id: Uuid) -> Result<Option<DeadLetterDetails>>;
    async fn ask(&self, kind: RequestKind, filter: &DeadLetterFilter, asking: &Asking) -> Result<Asked>;
    async fn ask_for(&self, kind: RequestKind, letters: &[DeadLetter], asking: &Asking) -> Result<()>;
    async fn parked(&self, filter: &ParkedFilter, page: Page) -> Result<Vec<ParkedEvent>>;
    async fn unpark(&self, filter: &ParkedFilter) -> Result<u64>;
    async fn purge_sent(&self, older_than: Duration, chunk: usize) -> Result<u64>;
    async fn purge_inbox(&self, older_than: Duration, chunk: usize) -> Result<u64>;
    async fn purge_requests(&self, older_than: Duration, chunk: usize) -> Result<u64>;
    async fn purge_dedup(&self, chunk: usize) -> Result<u64>;
    async fn edit(&self, event_id: Uuid, edit: &Edit) -> Result<Edited>;
    async fn scheduled(&self, filter: &ScheduleFilter) -> Result<Vec<ScheduledEvent>>;
    async fn cancel(&self, event_id: Uuid) -> Result<ScheduleChange>;
    async fn reschedule(&self, event_id: Uuid, at: DateTime<Utc>) -> Result<ScheduleChange>;
    async fn requests(&self, filter: &RequestFilter, page: Page) -> Result<Vec<DeadLetterRequest>>;
    async fn cancel_requests(&self, filter: &RequestFilter) -> Result<u64>;
}

#[async_trait]
impl<B: Backend> Database for Outbox<B> {
    fn store(&self) -> Arc<dyn OutboxStore> {
        Arc::new(self.clone())
    }

    async fn check_schema(&self) -> Result<()> {
        self.check_schema().await
    }

    async fn migrate(&self) -> Result<Migrated> {
        self.migrate().await
    }

    async fn drift(&self) -> Result<Vec<Drift>> {
        self.drift().await
    }

    async fn status(&self) -> Result<OutboxStatus> {
        self.status().await
    }

    async fn hold(&self) -> Result<()> {
        self.hold().await
    }

    async fn resume(&self) -> Result<()> {
        self.resume().await
    }

    async fn installation_id(&self) -> Result<Uuid> {
        self.installation_id().await
    }

    async fn renew_installation_id(&self) -> Result<Uuid> {
        self.renew_installation_id().await
    }

    async fn order_unit(&self) -> Result<OrderUnit> {
        self.order_unit().await
    }

    async fn set_order_unit(&self, unit: OrderUnit) -> Result<()> {
        self.set_order_unit(unit).await
    }

    async fn dead_letters(&self, filter: &DeadLetterFilter, page: Page) -> Result<Vec<DeadLetter>> {
        self.dead_letters(filter, page).await
    }

    async fn count_dead_letters(&self, filter: &DeadLetterFilter) -> Result<u64> {
        self.count_dead_letters(filter).await
    }

    async fn dead_letter(&self, event_id: Uuid) -> Result<Option<DeadLetterDetails>> {
        self.dead_letter(event_id).await
    }

    async fn ask(&self, kind: RequestKind, filter: &DeadLetterFilter, asking: &Asking) -> Result<Asked> {
        self.ask(kind, filter, asking).await
    }

    async fn ask_for(&self, kind: RequestKind, letters: &[DeadLetter], asking: &Asking) -> Result<()> {
        self.ask_for(kind, letters, asking).await
    }

    async fn parked(&self, filter: &ParkedFilter, page: Page) -> Result<Vec<ParkedEvent>> {
        self.parked(filter, page).await
    }

    async fn unpark(&self, filter: &ParkedFilter) -> Result<u64> {
        self.unpark(filter).await
    }

    async fn purge_sent(&self, older_than: Duration, chunk: usize) -> Result<u64> {
        self.purge_sent(older_than, chunk).await
    }

    async fn purge_inbox(&self, older_than: Duration, chunk: usize) -> Result<u64> {
        self.purge_inbox(older_than, chunk).await
    }

    async fn purge_requests(&self, older_than: Duration, chunk: usize) -> Result<u64> {
        self.purge_requests(older_than, chunk).await
    }

    async fn purge_dedup(&self, chunk: usize) -> Result<u64> {
        self.purge_dedup(chunk).await
    }

    async fn edit(&self, event_id: Uuid, edit: &Edit) -> Result<Edited> {
        // Whether it is too large the broker says: the services may have another limit than this program.
        let encoder = Encoder::default().with_max_message_bytes(usize::MAX);
        self.clone().with_encoder(encoder).edit(event_id, edit).await
    }

    async fn scheduled(&self, filter: &ScheduleFilter) -> Result<Vec<ScheduledEvent>> {
        self.scheduled(filter).await
    }

    async fn cancel(&self, event_id: Uuid) -> Result<ScheduleChange> {
        self.cancel(event_id).await
    }

    async fn reschedule(&self, event_id: Uuid, at: DateTime<Utc>) -> Result<ScheduleChange> {
        self.reschedule(event_id, at).await
    }

    async fn requests(&self, filter: &RequestFilter, page: Page) -> Result<Vec<DeadLetterRequest>> {
        self.requests(filter, page).await
    }

    async fn cancel_requests(&self, filter: &RequestFilter) -> Result<u64> {
        self.cancel_requests(filter).await
    }
}

/// How to connect.
#[derive(Clone, Debug)]
pub(crate) struct Connecting {
    /// So many at most.
    pub(crate) connections: usize,
    /// Whether to listen for what writers notify.
    pub(crate) notifications: bool,
    /// Whether a relay keeps what was sent.
    pub(crate) keep_sent: bool,
    /// Whether to make a file of SQLite that is not there.
    pub(crate) create: bool,
    /// Whether it is connected to only when it is needed, and may be away until then.
    pub(crate) lazily: bool,
    /// How the tables are called.
    pub(crate) names: TableNames,
    /// Which installation it has to be.
    pub(crate) installation_id: Option<Uuid>,
}

/// Connects to the database of that URL.
#[allow(unused_variables, reason = "some are for one database only, which may not be compiled in")]
pub(crate) async fn connect(url: &str, how: &Connecting) -> Result<Box<dyn Database>> {
    let Connecting { connections, notifications, keep_sent, create, lazily, names, installation_id } =
        how.clone();
    /// The builders are alike, and have no trait in common.
    #[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
    macro_rules! connect {
        ($backend:ident $(, $setting:ident)?) => {{
            let builder = Outbox::<cqrs_outbox_diesel::$backend>::builder(url)
                .max_connections(connections)
                .keep_sent(keep_sent)
                .tables(names)
                $(.$setting($setting))?;
            match installation_id {
                Some(id) => builder.installation_id(id),
                None => builder,
            }
        }};
    }
    if notifications && !notifies(url) {
        let what = format!(
            "`--notifications` is for PostgreSQL, and the database's URL begins with `{}://`: leave it out, the relay polls",
            scheme(url)
        );
        return Err(Error::new(ErrorKind::Configuration, what));
    }
    match scheme(url) {
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" if lazily => Ok(Box::new(connect!(Pg, notifications).connect_lazily()?)),
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => Ok(Box::new(connect!(Pg, notifications).connect().await?)),
        #[cfg(feature = "mysql")]
        "mysql" | "mariadb" if lazily => Ok(Box::new(connect!(MySql).connect_lazily()?)),
        #[cfg(feature = "mysql")]
        "mysql" | "mariadb" => Ok(Box::new(connect!(MySql).connect().await?)),
        #[cfg(feature = "sqlite")]
        "sqlite" if lazily => Ok(Box::new(connect!(Sqlite, create).connect_lazily()?)),
        #[cfg(feature = "sqlite")]
        "sqlite" => Ok(Box::new(connect!(Sqlite, create).connect().await?)),
        other => Err(unknown(other)),
    }
}

/// The tables of a database of that URL, as SQL. Nothing is connected to.
pub(crate) fn migrations(url: &str) -> Result<&'static [Migration]> {
    match scheme(url) {
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => Ok(cqrs_outbox_diesel::migrations::POSTGRES),
        #[cfg(feature = "mysql")]
        "mysql" | "mariadb" => Ok(cqrs_outbox_diesel::migrations::MYSQL),
        #[cfg(feature = "sqlite")]
        "sqlite" => Ok(cqrs_outbox_diesel::migrations::SQLITE),
        other => Err(unknown(other)),
    }
}

/// Schemes, the feature that each needs, and whether that is compiled in.
const SCHEMES: [(&str, &str, bool); 5] = [
    ("postgres", "postgres", cfg!(feature = "postgres")),
    ("postgresql", "postgres", cfg!(feature = "postgres")),
    ("mysql", "mysql", cfg!(feature = "mysql")),
    ("mariadb", "mysql", cfg!(feature = "mysql")),
    ("sqlite", "sqlite", cfg!(feature = "sqlite")),
];

/// Whether writers can notify relays there.
pub(crate) fn notifies(url: &str) -> bool {
    scheme(url).starts_with("postgres")
}

/// Of what is no URL not a word: there may be a password in it.
fn scheme(url: &str) -> &str {
    match url.split_once("://") {
        Some((scheme, _)) => scheme,
        None if url.starts_with("sqlite:") => "sqlite",
        None => "",
    }
}

fn unknown(scheme: &str) -> Error {
    let what = match SCHEMES.iter().find(|(known, ..)| *known == scheme) {
        Some((_, feature, false)) => {
            format!("`{scheme}://` needs the feature `{feature}`, which this program was built without")
        }
        _ => {
            let known = SCHEMES.iter().filter(|(.., compiled_in)| *compiled_in);
            let known: Vec<_> = known.map(|(scheme, ..)| format!("`{scheme}://`")).collect();
            let known = known.join(", ");
            if scheme.is_empty() {
                format!("the database's URL begins with {known}, and what is given is no URL")
            } else {
                format!("the database's URL begins with {known}, and not with `{scheme}`")
            }
        }
    };
    Error::new(ErrorKind::Configuration, what)
}
