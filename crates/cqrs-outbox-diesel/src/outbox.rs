use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cqrs_consumer::Inbox;
#[cfg(doc)]
use cqrs_core::ErrorKind;
use cqrs_core::{
    Added, BeginTransaction, Correlation, Encoder, Error, IntoMessage, MessageId, Outgoing, Result,
    Transaction,
};
use cqrs_outbox::table::TableNames;
use cqrs_outbox::{Kept, OrderUnit, StoreError, StoreErrorKind};
use diesel::QueryResult;
use diesel_async::SimpleAsyncConnection;
use futures_util::future::{self, BoxFuture};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use uuid::Uuid;

use crate::backend::Backend;
use crate::drift::SIDE_TABLES;
use crate::error::{META_LOST, MIGRATE, is_denied, is_missing_schema, store_error};
use crate::migration::{Migrated, Migration, SCHEMA_VERSION};
use crate::on::On;
use crate::order_unit::KnownOrderUnit;
use crate::requests::Portion;
use crate::statements::Meta;
use crate::status::OutboxStatus;
use crate::tx::Tx;
use crate::writing::write;

/// A transactional outbox, and an inbox, in a database. Cheap to clone; all clones share their connections.
///
/// It opens the transactions of [`TransactionalHandler`](cqrs_core::TransactionalHandler)s, is the
/// [`OutboxStore`](cqrs_outbox::OutboxStore) of a relay and the [`Inbox`] of consumers.
pub struct Outbox<B: Backend> {
    shared: Arc<Shared<B>>,
}

struct Shared<B: Backend> {
    /// Its URL without the password, for errors.
    place: String,
    pool: B::Pool,
    /// Where only one can write at a time, writers queue here, in their order, instead of in the database.
    writers: Option<Arc<Semaphore>>,
    encoder: Encoder,
    changed: Notify,
    elsewhere: Option<Arc<dyn Elsewhere>>,
    memory: B::Memory,
    portion: Portion,
    /// What is in order, as far as a relay has found it.
    order_unit: KnownOrderUnit,
    settings: Settings,
}

/// What is set alike on every database.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// How its tables are called.
    pub(crate) names: TableNames,
    /// Whether what was sent is kept.
    pub(crate) keep_sent: bool,
    /// Which installation it has to be.
    pub(crate) installation_id: Option<Uuid>,
}

/// A way to tell relays of other processes of a commit, and to hear of commits there.
pub(crate) trait Elsewhere: Send + Sync {
    /// Rows were committed here.
    fn tell(&self);

    /// Rows were committed elsewhere. What happens between two calls is not missed.
    fn heard(&self) -> BoxFuture<'_, ()>;

    /// Whether it would hear of it now.
    fn hears(&self) -> bool;
}

impl<B: Backend> Outbox<B> {
    pub(crate) fn from_parts(
        place: String,
        pool: B::Pool,
        writers: Option<Arc<Semaphore>>,
        elsewhere: Option<Arc<dyn Elsewhere>>,
        settings: Settings,
    ) -> Self {
        // Of several in one database, errors say which.
        let names = &settings.names;
        let place = if *names == TableNames::new() { place } else { format!("{place} ({names})") };
        let (encoder, changed, memory) = (Encoder::default(), Notify::new(), B::Memory::default());
        let portion = Portion::default();
        Self {
            shared: Arc::new(Shared {
                place,
                pool,
                writers,
                encoder,
                changed,
                elsewhere,
                memory,
                portion,
                order_unit: KnownOrderUnit::default(),
                settings,
            }),
        }
    }

    /// This, if its database answers.
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    pub(crate) async fn reached(self) -> Result<Self> {
        match self.acquire().await {
            Ok(_) => Ok(self),
            Err(error) => {
                let what = format!("cannot connect: {error}");
                Err(StoreError::new(error.kind(), what).at(self.place()).into_error())
            }
        }
    }

    /// The same connections with another wire format or size limit. Call it before the outbox is shared: clones that
    /// were made before keep theirs, and do not wake this one's relay.
    #[must_use]
    pub fn with_encoder(self, encoder: Encoder) -> Self {
        let shared = Shared {
            place: self.shared.place.clone(),
            pool: self.shared.pool.clone(),
            writers: self.shared.writers.clone(),
            encoder,
            changed: Notify::new(),
            elsewhere: self.shared.elsewhere.clone(),
            memory: B::Memory::default(),
            portion: Portion::default(),
            order_unit: KnownOrderUnit::default(),
            settings: self.shared.settings.clone(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Adds an event in a transaction of your own, on any connection to the outbox's database.
    ///
    /// The relay cannot see when that transaction commits: it finds the event when it next reads, or call
    /// [`wake`](Self::wake) after the commit.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEvent`] if it is too large, has no topic or cannot be serialised; [`ErrorKind::Conflict`] if its
    /// [version](cqrs_core::Envelope::with_key_version) is not above the last one; [`ErrorKind::Store`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it open whether the row was written; roll back.
    pub async fn add(&self, conn: &mut B::Connection, event: impl IntoMessage + Send) -> Result<Added> {
        self.add_all(conn, [event]).await
    }

    /// Adds events, in their order and in one statement; all or, if one of them is refused here, none. (On MariaDB,
    /// MySQL and SQLite a statement for each 1,000 or 4 MiB, or less where the server takes less (`max_allowed_packet`): roll the
    /// transaction back if this fails.)
    ///
    /// # Errors
    ///
    /// As for [`add`](Self::add).
    ///
    /// # Cancel safety
    ///
    /// As for [`add`](Self::add).
    pub async fn add_all<E: IntoMessage>(
        &self,
        conn: &mut B::Connection,
        events: impl IntoIterator<Item = E, IntoIter: Send> + Send,
    ) -> Result<Added> {
        let events = self.encode_all(events, &Correlation::default())?;
        match write::<B>(&mut self.on(conn), events).await {
            Ok(added) => Ok(added),
            Err(error) => Err(self.not_written(error).await),
        }
    }

    /// Lends a connection outside of any transaction: for queries, or for a transaction of your own with [`add`](Self::add). On
    /// SQLite begin that one with `immediate_transaction`: a deferred one that reads first cannot write after another has.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] if the database cannot be reached or no connection becomes free in time.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn connection(&self) -> Result<B::Guard> {
        self.acquire().await.map_err(|error| self.failed(error))
    }

    /// Runs `work` in a transaction, commits if it succeeds and rolls back if it fails or is dropped.
    ///
    /// It is a transaction of its own: called from within another one it does not join it, and where only one can write at a
    /// time (SQLite) it waits for the outer one until it gives up.
    ///
    /// On MariaDB and MySQL a deadlock ends the whole transaction, and a statement like CREATE TABLE commits it. Whoever goes on
    /// after that gets an error at the commit, and nothing of what came after is kept.
    ///
    /// # Errors
    ///
    /// That of `work`; [`ErrorKind::Store`] or [`ErrorKind::Transaction`], and nothing was committed; [`ErrorKind::CommitUnknown`]
    /// if the connection broke during the commit, which says what to do then.
    ///
    /// # Cancel safety
    ///
    /// A dropped future rolls back, unless the commit had begun.
    pub async fn transaction<T, F>(&self, work: F) -> Result<T>
    where
        T: Send,
        for<'t> F: AsyncFnOnce(&'t mut Tx<B>) -> Result<T>
            + TransactionFn<&'t mut Tx<B>, Result<T>, Running: Send>
            + Send,
    {
        self.try_transaction(work).await
    }

    /// As [`transaction`](Self::transaction), for an error type of your own.
    ///
    /// # Errors
    ///
    /// As for [`transaction`](Self::transaction).
    ///
    /// # Cancel safety
    ///
    /// As for [`transaction`](Self::transaction).
    pub async fn try_transaction<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send,
        E: From<Error> + Send,
        for<'t> F: AsyncFnOnce(&'t mut Tx<B>) -> Result<T, E>
            + TransactionFn<&'t mut Tx<B>, Result<T, E>, Running: Send>
            + Send,
    {
        let mut tx = self.begin().await?;
        match work(&mut tx).await {
            Ok(value) => {
                tx.commit().await?;
                Ok(value)
            }
            Err(error) => {
                if let Err(rollback) = tx.rollback().await {
                    tracing::warn!(error = %rollback, "the database rolls back when the connection is closed");
                }
                Err(error)
            }
        }
    }

    /// Creates the tables, or brings them to this version. Does nothing if they are; safe when several do it at once.
    ///
    /// If `cqrs_outbox_meta` was lost or emptied, and the others are clearly those of this version, it is made again, and relaying is on
    /// hold: [`Migrated::restored`]. What is needed to tell that is as for [`drift`](Self::drift).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`]: not reachable, not allowed, or the tables are of a version that this library is too old for.
    ///
    /// # Cancel safety
    ///
    /// A dropped future rolls the step back that was under way. On MariaDB and MySQL, where each statement commits, call it
    /// again: it goes on from there.
    pub async fn migrate(&self) -> Result<Migrated> {
        self.try_migrate().await.map_err(|error| self.failed(error))
    }

    async fn try_migrate(&self) -> Result<Migrated, StoreError> {
        let mut tx = self.begin_migration().await?;
        let mut version = versions::<B>(&mut tx.on()).await?;
        let mut restored = false;
        if version.is_none() && B::has_tables(&mut tx.on()).await.map_err(store_error)? {
            // Nobody is migrating: what says so was lost. To look at the tables takes a connection of its own, and there may be only one.
            B::end_migration(&mut tx.on()).await.map_err(store_error)?;
            tx.give_back();
            let is_all_there = self.are_of_this_version().await?;
            tx = self.begin_migration().await?;
            version = versions::<B>(&mut tx.on()).await?;
            if version.is_none() && is_all_there {
                version = restore_meta::<B>(&mut tx.on()).await.map_err(store_error)?;
                restored = version.is_some();
            }
        }
        readable(version.unwrap_or((0, 0)))?;
        if version.is_some() {
            B::check_tables(&mut tx.on()).await.map_err(|error| {
                let what = format!(
                    "some of the outbox's tables are there and others are not: {error}: `cqrs outbox check` says which, and how to make \
                     them again. Drop none of those that are there: in them is what waits to be sent"
                );
                StoreError::new(StoreErrorKind::Schema, what).with_source(error)
            })?;
        }
        let pending = |migration: &&Migration| version.is_none_or(|(version, _)| migration.version > version);
        for migration in B::MIGRATIONS.iter().filter(pending) {
            tracing::info!(version = migration.version, name = migration.name, "migrating the outbox");
            let sql = tx.on().sql(migration.sql);
            tx.batch_execute(&sql).await.map_err(|error| {
                if is_denied(&error) || is_missing_schema(&error) {
                    return store_error(error);
                }
                let what = format!(
                    "the migration to version {} ({}) failed: {error}",
                    migration.version, migration.name
                );
                StoreError::new(StoreErrorKind::Schema, what).with_source(error)
            })?;
            B::set_schema_version(&mut tx.on(), migration.version, migration.min_reader_version)
                .await
                .map_err(store_error)?;
        }
        B::end_migration(&mut tx.on()).await.map_err(store_error)?;
        tx.give_back();
        let from = version.map(|(version, _)| version);
        Ok(Migrated { from, to: from.unwrap_or(0).max(SCHEMA_VERSION), restored })
    }

    async fn begin_migration(&self) -> Result<Tx<B>, StoreError> {
        let permit = self.may_write().await?;
        let mut tx = Tx::new(self.acquire().await?, self.clone(), permit);
        B::begin_migration(&mut tx.on()).await.map_err(store_error)?;
        Ok(tx)
    }

    /// Whether the tables are there and of a version that this library can work with, and of the installation that was asked for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`], saying what is wrong and what to do.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn check_schema(&self) -> Result<()> {
        self.expected_meta().await.map(drop).map_err(|error| self.failed(error))
    }

    /// What the tables say of themselves, if they can be used and are of the installation that was asked for.
    pub(crate) async fn expected_meta(&self) -> Result<Meta, StoreError> {
        let meta = self.meta().await?;
        self.is_expected(&meta.installation_id)?;
        Ok(meta)
    }

    /// What the tables say of themselves, if they can be used.
    pub(crate) async fn meta(&self) -> Result<Meta, StoreError> {
        let mut conn = self.lend().await?;
        let meta = usable::<B>(&mut conn.on()).await?;
        conn.give_back();
        Ok(meta)
    }

    /// What waits, what is stuck and who is at work, as of one snapshot; with no relay running too.
    ///
    /// The rows that wait are counted: by an index where there is one, about a second for some millions. Ask every
    /// minute and not every second.
    ///
    /// # Errors
    ///
    /// As for [`check_schema`](Self::check_schema).
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn status(&self) -> Result<OutboxStatus> {
        self.try_status().await.map_err(|error| self.failed(error))
    }

    async fn try_status(&self) -> Result<OutboxStatus, StoreError> {
        let mut conn = self.lend().await?;
        usable::<B>(&mut conn.on()).await?;
        let row = B::status(&mut conn.on()).await.map_err(store_error)?;
        conn.give_back();
        row.into_status().map_err(|error| {
            let what = format!("the outbox's database gave a status that is not understood: {error}");
            StoreError::new(StoreErrorKind::Other, what).with_source(error)
        })
    }

    /// Holds all relaying on this database, of every relay: around a restore, say, until it is clear what the broker has. Events
    /// are written as before, and wait. Each relay stops sending with its next heartbeat, and forgets what waits in its memory.
    /// Holding twice is holding. A restore brings back what the database said of a hold then, too.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it open whether it was written.
    pub async fn hold(&self) -> Result<()> {
        self.set_hold(true).await
    }

    /// Ends a [`hold`](Self::hold). Each relay goes on with its next heartbeat. Without a hold it does nothing.
    ///
    /// # Errors
    ///
    /// As for [`hold`](Self::hold).
    ///
    /// # Cancel safety
    ///
    /// As for [`hold`](Self::hold).
    pub async fn resume(&self) -> Result<()> {
        self.set_hold(false).await
    }

    async fn set_hold(&self, hold: bool) -> Result<()> {
        let mut tx = self.begin_short().await.map_err(|error| self.failed(error))?;
        B::set_hold(&mut tx.on(), hold).await.map_err(|error| self.failed(store_error(error)))?;
        tx.commit().await
    }

    /// Tells the relay in this process that there may be something new; and those of other processes, where that was
    /// asked for (`PgBuilder::notifications`).
    ///
    /// Of several relays in this process it wakes one: give each an `Outbox` of its own.
    pub fn wake(&self) {
        self.shared.changed.notify_one();
        if let Some(elsewhere) = &self.shared.elsewhere {
            elsewhere.tell();
        }
    }

    /// Whether it hears of the commits of other processes now.
    pub(crate) fn hears_elsewhere(&self) -> bool {
        self.shared.elsewhere.as_ref().is_some_and(|elsewhere| elsewhere.hears())
    }

    /// Resolves after [`wake`](Self::wake), or when it was called elsewhere.
    pub(crate) async fn woken(&self) {
        let here = self.shared.changed.notified();
        match &self.shared.elsewhere {
            None => here.await,
            Some(elsewhere) => {
                future::select(pin!(here), elsewhere.heard()).await;
            }
        }
    }

    /// A connection, for the outbox's statements.
    pub(crate) fn on<'c>(&'c self, conn: &'c mut B::Connection) -> On<'c, B> {
        On::new(conn, self.tables(), self.effective_order_unit(), &self.shared.memory)
    }

    /// How its tables are called.
    pub fn tables(&self) -> &TableNames {
        &self.shared.settings.names
    }

    pub(crate) fn encode_all<E: IntoMessage>(
        &self,
        events: impl IntoIterator<Item = E>,
        correlation: &Correlation,
    ) -> Result<Vec<Outgoing>> {
        events.into_iter().map(|event| event.into_outgoing(&self.shared.encoder, correlation)).collect()
    }

    /// Whether what was sent is kept.
    pub(crate) fn keeps_sent(&self) -> bool {
        self.shared.settings.keep_sent
    }

    /// Which installation it has to be.
    pub(crate) fn expected_installation(&self) -> Option<Uuid> {
        self.shared.settings.installation_id
    }

    /// What is in order, as far as a relay has found it.
    pub(crate) fn known_order_unit(&self) -> &KnownOrderUnit {
        &self.shared.order_unit
    }

    /// The same for statements. Those of a relay know it, and to others it makes no difference.
    pub(crate) fn effective_order_unit(&self) -> OrderUnit {
        self.shared.order_unit.get().unwrap_or_default()
    }

    pub(crate) fn place(&self) -> &str {
        &self.shared.place
    }

    /// How much of what operators ask for is carried out at once.
    pub(crate) fn portion(&self) -> &Portion {
        &self.shared.portion
    }

    pub(crate) fn failed(&self, error: StoreError) -> Error {
        error.at(&self.shared.place).into_error()
    }

    pub(crate) async fn acquire(&self) -> Result<B::Guard, StoreError> {
        B::acquire(&self.shared.pool).await
    }

    /// A connection of the application's, for a call that an operator waits for: the relay's have a limit of time, and
    /// counting millions may take longer.
    pub(crate) async fn lend(&self) -> Result<Tx<B>, StoreError> {
        Ok(Tx::new(self.acquire().await?, self.clone(), None))
    }

    /// A connection for one call of the store: if the call is dropped half-way, its connection may hang and is closed.
    pub(crate) async fn acquire_for_call(&self) -> Result<Tx<B>, StoreError> {
        Ok(Tx::new(B::acquire_for_store(&self.shared.pool).await?, self.clone(), None))
    }

    /// As [`acquire_for_call`](Self::acquire_for_call), for statements that write.
    pub(crate) async fn acquire_for_write(&self) -> Result<Tx<B>, StoreError> {
        let permit = self.may_write().await?;
        Ok(Tx::new(B::acquire_for_store(&self.shared.pool).await?, self.clone(), permit))
    }

    /// A transaction of the store's own.
    pub(crate) async fn begin_short(&self) -> Result<Tx<B>, StoreError> {
        let mut tx = self.acquire_for_write().await?;
        B::begin_short(&mut tx).await.map_err(store_error)?;
        Ok(tx)
    }

    /// A transaction of the application's, which is going to write.
    async fn begin_write(&self) -> Result<Tx<B>, StoreError> {
        let permit = self.may_write().await?;
        let mut tx = Tx::new(self.acquire().await?, self.clone(), permit);
        B::begin(&mut tx).await.map_err(store_error)?;
        Ok(tx)
    }

    async fn may_write(&self) -> Result<Option<OwnedSemaphorePermit>, StoreError> {
        let Some(writers) = &self.shared.writers else { return Ok(None) };
        match timeout(WRITER_TIMEOUT, Arc::clone(writers).acquire_owned()).await {
            // The semaphore is never closed.
            Ok(permit) => Ok(permit.ok()),
            Err(_) => {
                let what = format!(
                    "another transaction of this process has been open for {WRITER_TIMEOUT:?}, and only one can write at a \
                     time: end it sooner, and do not open a transaction from within one"
                );
                Err(StoreError::new(StoreErrorKind::Unavailable, what))
            }
        }
    }
}

/// How long a writer waits for the one before it.
const WRITER_TIMEOUT: Duration = Duration::from_secs(10);

/// Commits a transaction of the store's own.
pub(crate) async fn commit<B: Backend>(tx: Tx<B>) -> Result<(), StoreError> {
    tx.commit().await.map_err(|error| {
        StoreError::new(StoreErrorKind::Unavailable, error.to_string())
            .with_source(Box::<dyn std::error::Error + Send + Sync>::from(error))
    })
}

/// Ends a transaction of the store's own that changed nothing; its connection goes back to the pool.
pub(crate) async fn give_up<B: Backend>(tx: Tx<B>) {
    if let Err(error) = tx.rollback().await {
        tracing::debug!(%error, "the connection is closed instead");
    }
}

/// Writes again what says of which version the tables are, by the last migration. Whether relaying was on hold nobody knows any more;
/// so it is, unless there was never anything to send. It is on hold from the first, for each statement of MariaDB's may be the last.
async fn restore_meta<B: Backend>(on: &mut On<'_, B>) -> QueryResult<Option<(i32, i32)>> {
    let Some(Migration { version, min_reader_version, .. }) = B::MIGRATIONS.last() else { return Ok(None) };
    tracing::warn!(version, "the outbox's tables had lost their version: it is written again");
    let table = on.sql(B::META_TABLE);
    on.conn.batch_execute(&table).await?;
    // By what stands aside, which waits by it. Where nothing does, no harm is done by the default.
    let by_topic = SIDE_TABLES
        .map(|table| format!("EXISTS (SELECT 1 FROM {table} WHERE {})", B::DIALECT.is_lane_of_topic));
    let order_unit = format!(
        "CASE WHEN {} THEN '{}' ELSE '{}' END",
        by_topic.join(" OR "),
        OrderUnit::TopicAndKey,
        OrderUnit::Key
    );
    let row = format!(
        "INSERT INTO cqrs_outbox_meta (schema_version, min_reader_version, order_unit, hold) \
         SELECT {version}, {min_reader_version}, {order_unit}, (SELECT count(*) FROM cqrs_outbox_group WHERE epoch > 0) \
            + (SELECT count(*) FROM (SELECT 1 FROM cqrs_outbox LIMIT 1) waiting) > 0"
    );
    let row = on.sql(row);
    on.conn.batch_execute(&row).await?;
    Ok(Some((*version, *min_reader_version)))
}

/// The version of the tables, and the oldest that a program may know; `None` if there are no tables, or not all.
async fn versions<B: Backend>(on: &mut On<'_, B>) -> Result<Option<(i32, i32)>, StoreError> {
    let meta = B::meta(on).await.map_err(store_error)?;
    Ok(meta.map(|meta| (meta.schema_version, meta.min_reader_version)))
}

/// What the tables say of themselves, if they are there and may be used.
async fn usable<B: Backend>(on: &mut On<'_, B>) -> Result<Meta, StoreError> {
    match B::meta(on).await.map_err(store_error)? {
        Some(meta) => {
            readable((meta.schema_version, meta.min_reader_version))?;
            B::check_tables(on).await.map_err(store_error)?;
            Ok(meta)
        }
        None => {
            let has_tables = B::has_tables(on).await.map_err(store_error)?;
            let what = if has_tables { on.sql(META_LOST) } else { MIGRATE.into() };
            Err(StoreError::new(StoreErrorKind::Schema, what))
        }
    }
}

fn readable((version, min_reader_version): (i32, i32)) -> Result<(), StoreError> {
    if min_reader_version > SCHEMA_VERSION {
        let what = format!(
            "the outbox's tables are of version {version} and want a library that knows version {min_reader_version}, \
             but this one knows {SCHEMA_VERSION}: update this program"
        );
        return Err(StoreError::new(StoreErrorKind::Schema, what));
    }
    Ok(())
}

/// An async closure whose future is `Send`. It stands beside `AsyncFnOnce` in a bound, because that alone cannot say so;
/// it is implemented for every such closure.
pub trait TransactionFn<A, R>: FnOnce(A) -> Self::Running {
    /// What it returns when it is called.
    type Running: Future<Output = R>;
}

impl<A, R, F, Running> TransactionFn<A, R> for F
where
    F: FnOnce(A) -> Running,
    Running: Future<Output = R>,
{
    type Running = Running;
}

#[async_trait]
impl<B: Backend> BeginTransaction<B> for Outbox<B> {
    async fn begin(&self) -> Result<Tx<B>> {
        self.begin_write().await.map_err(|error| self.failed(error))
    }

    fn encoder(&self) -> &Encoder {
        &self.shared.encoder
    }
}

#[async_trait]
impl<B: Backend> Inbox<B> for Outbox<B> {
    async fn admit(&self, tx: &mut Tx<B>, consumer: &str, id: &MessageId) -> Result<bool> {
        // Of this one's names: the transaction may be another's.
        B::admit(&mut self.on(&mut **tx), consumer, id).await.map_err(|error| self.failed(store_error(error)))
    }

    async fn purge(&self, older_than: Duration) -> Result<u64> {
        self.purge_kept(Kept::Inbox, older_than).await.map_err(|error| self.failed(error))
    }
}

impl<B: Backend> Clone for Outbox<B> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<B: Backend> fmt::Debug for Outbox<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("database", &std::any::type_name::<B>()).finish_non_exhaustive()
    }
}
