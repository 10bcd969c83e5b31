//! The conformance suite, a trial for each of its rows.

use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use cqrs_consumer::Inbox;
use cqrs_core::{BeginTransaction, ErrorKind, Result, Transaction};
use cqrs_outbox::OutboxStore;
use cqrs_outbox_diesel::{MySql, OrderUnit, Outbox, ParkedFilter, Pg, Sqlite, TableNames};
use cqrs_testing::store::{self, Asked, DeadLetter, Oldest, Outcome, Request, Settings, StoreUnderTest};
use diesel_async::SimpleAsyncConnection;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site, named};
use crate::harness::{Test, Trials, test};

/// The suite keeps what it opens for as long as a row runs, and the databases have to be there for as long.
struct Adapter<D> {
    /// URLs of empty databases: the suite opens a few in a row.
    urls: Mutex<Vec<(String, TableNames)>>,
    order_unit: OrderUnit,
    database: PhantomData<fn(D)>,
}

/// More than any row opens.
const DATABASES: usize = 12;

#[async_trait]
impl<D: Db> StoreUnderTest for Adapter<D>
where
    Outbox<D>: OutboxStore,
{
    type Database = D;
    type Store = Outbox<D>;

    async fn open(&self) -> Result<Arc<Outbox<D>>> {
        let (url, names) = self.urls.lock().await.pop().unwrap();
        let outbox = D::named(url, names).await?;
        outbox.migrate().await?;
        outbox.set_order_unit(self.order_unit).await?;
        Ok(Arc::new(outbox))
    }

    fn order_unit(&self) -> OrderUnit {
        self.order_unit
    }

    fn inbox(&self, store: &Arc<Outbox<D>>) -> Option<Arc<dyn Inbox<D>>> {
        Some(store.clone())
    }

    async fn execute(&self, store: &Arc<Outbox<D>>, sql: &str) -> Result<bool> {
        let mut tx = store.begin().await?;
        tx.batch_execute(&named(store, sql)).await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn dead_letters(&self, store: &Arc<Outbox<D>>) -> Result<Option<Vec<DeadLetter>>> {
        let query = "SELECT concat(event_id, ' ', attempts, ' ', error) AS value \
            FROM cqrs_outbox_dead ORDER BY id";
        let dead = store.values(&named(store, query)).await.into_iter().map(|line| {
            let mut parts = line.splitn(3, ' ');
            let mut next = || parts.next().unwrap().to_owned();
            DeadLetter { event_id: next().parse().unwrap(), attempts: next().parse().unwrap(), error: next() }
        });
        Ok(Some(dead.collect()))
    }

    async fn oldest_waiting(&self, store: &Arc<Outbox<D>>) -> Result<Oldest> {
        Ok(store.status().await?.oldest_waiting.map_or(Oldest::Nothing, Oldest::Waits))
    }

    async fn unpark(&self, store: &Arc<Outbox<D>>) -> Result<bool> {
        store.unpark(&ParkedFilter::new()).await?;
        Ok(true)
    }

    async fn request(&self, store: &Arc<Outbox<D>>, request: Request, event_id: Uuid) -> Result<Asked> {
        let asked = match request {
            Request::Replay => store.replay(event_id).await,
            Request::Discard => store.discard(event_id).await,
        };
        match asked {
            Ok(()) => Ok(Asked::Accepted),
            Err(error) if error.kind() == ErrorKind::InvalidEvent => Ok(Asked::Unknown),
            Err(error) => Err(error),
        }
    }

    fn writes_concurrently(&self) -> bool {
        D::NAME != Sqlite::NAME
    }
}

/// Of two transactions that meet one fails there, instead of waiting, where the server's isolation level is above PostgreSQL's own.
const WRITERS_MEET: [&str; 3] = ["dedup-at-once", "versions-at-once", "inbox-at-once"];

/// All that can be set otherwise is, at once: the names of the tables, what is in order, and the isolation level of the server.
async fn row<D: Db>(site: &Site, name: &'static str, other_settings: bool) -> Option<String>
where
    Outbox<D>: OutboxStore,
{
    let mut urls = Vec::new();
    for _ in 0..DATABASES {
        let names = if other_settings { site.names("orders_").await } else { TableNames::new() };
        let url = match other_settings && !WRITERS_MEET.contains(&name) {
            true => site.empty_at_repeatable_read().await,
            false => site.empty().await,
        };
        urls.push((url, names));
    }
    let order_unit = if other_settings { OrderUnit::TopicAndKey } else { OrderUnit::Key };
    let adapter = Adapter::<D> { urls: Mutex::new(urls), order_unit, database: PhantomData };
    let mut settings = Settings::default();
    settings.only = vec![name.to_owned()];
    let report = store::run(&adapter, &settings).await;
    report.assert_passed();
    match &report.rows()[0].outcome {
        Outcome::Skipped(reason) => Some(reason.clone()),
        _ => None,
    }
}

pub(crate) fn trials(trials: &mut Trials) {
    for (title, other_settings) in [("suite", false), ("suite_with_other_settings", true)] {
        for name in store::row_names() {
            let title = format!("{title}::{name}");
            trials.on::<Sqlite>(vec![(&title, trial::<Sqlite>(name, other_settings))]);
            trials.on::<Pg>(vec![(&title, trial::<Pg>(name, other_settings))]);
            trials.on::<MySql>(vec![(&title, trial::<MySql>(name, other_settings))]);
        }
    }
}

fn trial<D: Db>(name: &'static str, other_settings: bool) -> Test
where
    Outbox<D>: OutboxStore,
{
    test(move |site| Box::pin(row::<D>(site, name, other_settings)))
}
