//! One cell.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cqrs::app::App;
use cqrs::broker::memory::MemoryBroker;
use cqrs::diesel::{Backend, Outbox, Pg, Sqlite, Tx};
use cqrs::outbox::{OutboxRelay, OutboxStore, RelaySettings};
use cqrs::{
    Context, Envelope, Error, EventHandler, NotificationEvent, Request, Result, Tracing,
    TransactionalEventHandler, TransactionalHandler, bootstrap,
};
use cqrs_testing::history::History;
use diesel::sql_types::{BigInt, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::SimpleAsyncConnection;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use uuid::Uuid;

const COMMANDS: u64 = 2_000;
const KEYS: u64 = 32;
const TASKS: u64 = 8;

#[derive(Request)]
#[request(response = u64)]
struct Count {
    key: String,
    event: Uuid,
    fails: bool,
}

#[derive(Serialize, Deserialize, NotificationEvent)]
#[event(topic = "counts", key = key)]
struct Counted {
    event: Uuid,
    key: String,
    value: i64,
}

struct CountHandler;
struct Project {
    done: Arc<Notify>,
    effects: Arc<AtomicUsize>,
}
struct Audit {
    history: History,
}

#[derive(QueryableByName)]
struct Value {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

#[derive(QueryableByName)]
struct Effect {
    #[diesel(sql_type = Text)]
    event: String,
}

const TABLES: &str = "\
    CREATE TABLE counters (name TEXT PRIMARY KEY, value BIGINT NOT NULL); \
    CREATE TABLE effects (event TEXT NOT NULL, name TEXT NOT NULL, value BIGINT NOT NULL);";

// Both databases take `$1`; diesel's types differ, so each gets its own impl of the same text.
macro_rules! handlers {
    ($backend:ty) => {
        impl TransactionalHandler<Count, $backend> for CountHandler {
            async fn handle(&self, count: Count, tx: &mut Tx<$backend>, cx: &Context<'_>) -> Result<u64> {
                use diesel_async::RunQueryDsl;
                let row: Value = sql_query(
                    "INSERT INTO counters (name, value) VALUES ($1, 1) \
                     ON CONFLICT (name) DO UPDATE SET value = counters.value + 1 RETURNING value",
                )
                .bind::<Text, _>(&count.key)
                .get_result(tx)
                .await?;
                let event = Counted { event: count.event, key: count.key, value: row.value };
                cx.emit(Envelope::new(event).with_id(count.event));
                if count.fails {
                    return Err(Error::handler("refused after it had spoken"));
                }
                Ok(row.value.unsigned_abs())
            }
        }

        impl TransactionalEventHandler<Counted, $backend> for Project {
            async fn handle(&self, event: &Counted, tx: &mut Tx<$backend>, _cx: &Context<'_>) -> Result<()> {
                use diesel_async::RunQueryDsl;
                sql_query("INSERT INTO effects (event, name, value) VALUES ($1, $2, $3)")
                    .bind::<Text, _>(event.event.to_string())
                    .bind::<Text, _>(&event.key)
                    .bind::<BigInt, _>(event.value)
                    .execute(tx)
                    .await?;
                self.effects.fetch_add(1, Ordering::Relaxed);
                self.done.notify_one();
                Ok(())
            }
        }
    };
}

handlers!(Sqlite);
handlers!(Pg);

/// Sees every delivery, duplicates too, in the order in which the broker delivers the events of a key.
impl EventHandler<Counted> for Audit {
    async fn handle(&self, event: &Counted, cx: &Context<'_>) -> Result<()> {
        let key = cx.message().and_then(|message| message.key.clone());
        self.history.delivered(event.event, key);
        Ok(())
    }
}

pub(crate) async fn on_sqlite() -> Result<()> {
    use diesel_async::RunQueryDsl;
    let folder = tempfile::tempdir()?;
    let outbox =
        Outbox::<Sqlite>::connect(format!("sqlite://{}", folder.path().join("e2e.sqlite").display())).await?;
    drive(
        outbox,
        async |outbox: &Outbox<Sqlite>| {
            outbox.transaction(async |tx| Ok(tx.batch_execute(TABLES).await?)).await
        },
        async |outbox| {
            outbox.transaction(async |tx| Ok(sql_query("SELECT event FROM effects").load(tx).await?)).await
        },
    )
    .await
}

pub(crate) async fn on_postgres(url: String) -> Result<()> {
    use diesel_async::RunQueryDsl;
    let server = Outbox::<Pg>::connect(&url).await?;
    let name = format!("cqrs_e2e_{}", Uuid::new_v4().simple());
    // Not through `transaction`: a database cannot be created within one.
    let execute = async |statement: String| -> Result<()> {
        let mut conn =
            <diesel_async::AsyncPgConnection as diesel_async::AsyncConnection>::establish(&url).await?;
        Ok(conn.batch_execute(&statement).await?)
    };
    execute(format!("CREATE DATABASE {name}")).await?;
    let (base, _) = url.rsplit_once('/').unwrap_or((&url, ""));
    let outbox = Outbox::<Pg>::builder(format!("{base}/{name}")).max_connections(24).connect().await?;
    let driven = drive(
        outbox,
        async |outbox: &Outbox<Pg>| outbox.transaction(async |tx| Ok(tx.batch_execute(TABLES).await?)).await,
        async |outbox| {
            outbox.transaction(async |tx| Ok(sql_query("SELECT event FROM effects").load(tx).await?)).await
        },
    )
    .await;
    drop(server);
    execute(format!("DROP DATABASE {name} WITH (FORCE)")).await?;
    driven
}

async fn drive<B: Backend>(
    outbox: Outbox<B>,
    create: impl AsyncFn(&Outbox<B>) -> Result<()>,
    effects: impl AsyncFn(&Outbox<B>) -> Result<Vec<Effect>>,
) -> Result<()>
where
    Outbox<B>: OutboxStore,
    CountHandler: TransactionalHandler<Count, B>,
    Project: TransactionalEventHandler<Counted, B>,
{
    outbox.migrate().await?;
    create(&outbox).await?;
    let history = History::new();
    history.expect_effects();
    let broker = Arc::new(MemoryBroker::builder().build());
    broker.faults().duplicate_every(10);
    let (done, handled) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));

    let rooms: App = bootstrap()
        .middleware(Tracing)
        .outbox(outbox.clone())
        .transactional::<Count>(CountHandler)
        .broker(broker.clone())
        .without_relay() // this test runs and kills relays of its own
        .build()
        .await?;
    let project = Project { done: Arc::clone(&done), effects: Arc::clone(&handled) };
    let projection = bootstrap()
        .inbox(outbox.clone())
        .subscribe_transactional::<Counted>("counts", "project", project)
        .group("projection")
        .broker(broker.clone())
        .build()
        .await?;
    let audit = bootstrap()
        .subscribe::<Counted>("counts", Audit { history: history.clone() })
        .group("audit")
        .broker(broker.clone())
        .build()
        .await?;

    let stop = tokio_util::sync::CancellationToken::new();
    let mut running = JoinSet::new();
    for app in [projection, audit] {
        let stop = stop.clone();
        running.spawn(async move { app.run_until(stop.cancelled()).await });
    }

    let progress = Arc::new(AtomicUsize::new(0));
    let killer = tokio::spawn(kill_relays(relay(&outbox, &broker)?, Arc::clone(&progress), broker.clone()));
    let committed = command(rooms, &history, &progress).await?;
    killer.await.map_err(Error::handler)?;
    relay(&outbox, &broker)?.run_until_empty().await?;
    let everything = async {
        while handled.load(Ordering::Relaxed) < committed {
            done.notified().await;
        }
        // What is delivered twice may still be on its way to the audit.
        while !history.check().lost.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(60), everything).await;
    stop.cancel();
    while let Some(ended) = running.join_next().await {
        ended.map_err(Error::handler)??;
    }
    for effect in effects(&outbox).await? {
        history.handled(Uuid::parse_str(&effect.event)?);
    }
    let verdict = history.check();
    verdict.assert_clean();
    in_time.map_err(|_| Error::handler("not everything was handled within a minute"))?;
    assert_eq!(effects(&outbox).await?.len(), committed, "each committed event has one effect");
    println!("{committed} committed; {verdict}");
    Ok(())
}

fn relay<B: Backend>(outbox: &Outbox<B>, broker: &Arc<MemoryBroker>) -> Result<Arc<OutboxRelay>>
where
    Outbox<B>: OutboxStore,
{
    let mut settings = RelaySettings::default();
    settings.lease = Duration::from_millis(1_000);
    settings.heartbeat_interval = Duration::from_millis(200);
    settings.lease_margin = Duration::from_millis(200);
    settings.publish_timeout = Duration::from_millis(500);
    let relay = OutboxRelay::builder(Arc::new(outbox.clone()), broker.clone()).settings(settings);
    Ok(Arc::new(relay.build()?))
}

/// Ends the relay in the midst of its work, as a crash would, and starts the next: it takes over when the lease of the
/// one before has expired.
async fn kill_relays(relay: Arc<OutboxRelay>, progress: Arc<AtomicUsize>, broker: Arc<MemoryBroker>) {
    for nth in 1..=3 {
        let running = tokio::spawn({
            let relay = Arc::clone(&relay);
            async move { relay.run_until(std::future::pending()).await }
        });
        while progress.load(Ordering::Relaxed) < nth * COMMANDS as usize / 4 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // Consumers lose what they have in hand; what the relay has in flight is confirmed to nobody.
        broker.faults().disconnect();
        broker.faults().lose_confirms(20);
        while !running.is_finished() && relay.stats().published == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        running.abort();
        assert!(running.await.is_err_and(|ended| ended.is_cancelled()), "the relay had ended by itself");
    }
}

/// Sends the commands, and records what was committed, in which order of its key, and what was not.
async fn command(rooms: App, history: &History, progress: &Arc<AtomicUsize>) -> Result<usize> {
    let rooms = Arc::new(rooms);
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (rooms, history, progress) = (Arc::clone(&rooms), history.clone(), Arc::clone(progress));
        tasks.spawn(async move {
            let mut committed = 0;
            for nth in (task..COMMANDS).step_by(TASKS as usize) {
                // Neighbours share a key, so that all tasks write to each key, at the same time.
                let (key, event) = (format!("key-{}", nth / TASKS % KEYS), Uuid::now_v7());
                let fails = nth % 10 == 3;
                match rooms.requests().send(Count { key: key.clone(), event, fails }).await {
                    Ok(value) => {
                        history.committed(Some(key.into()), event, value);
                        committed += 1;
                    }
                    Err(_) if fails => history.rolled_back(event),
                    Err(error) => return Err(error),
                }
                progress.fetch_add(1, Ordering::Relaxed);
            }
            Ok(committed)
        });
    }
    let mut committed = 0;
    while let Some(task) = tasks.join_next().await {
        committed += task.map_err(Error::handler)??;
    }
    Ok(committed)
}
