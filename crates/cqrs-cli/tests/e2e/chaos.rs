//! The relay among servers and processes that die all the time.
//!
//! Four relay processes, 64 keys, and writers that a tenth of the time roll back. Every 200 ms one of the relays is killed
//! with SIGKILL and another started. Meanwhile the broker is killed and started again, so is the database; one relay is
//! stopped for three leases and goes on; the broker, then the database, answers nothing for a while and goes on. What was
//! in flight when a server died is cut between publish and confirm, or in a COMMIT, of the writers and of the relays.
//!
//! Where that is left to chance here, the network sees to it: the relays reach the servers through a [`Proxy`], which all
//! the time cuts the connections between a publish and its confirm, in a COMMIT, and in the settle that commits by
//! itself, each where the server has done it and nobody hears of it. Once it swallows everything for a while and closes
//! nothing.
//!
//! Once more with Kafka, its relays have several events of a key with the broker at the same time. They live longer then: of what a
//! relay that died had in memory, each event goes alone.
//!
//! `CQRS_CHAOS_ROWS` says how many transactions there are; 4,000 unless set, and 100,000 in `just chaos`.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cqrs::broker::SubscribeOptions;
use cqrs::sql::{Asking, DeadLetterFilter, Outbox, Page, RequestKind};
use cqrs::{Codec as _, Envelope, Error, MessageBroker, NotificationEvent, Result};
use cqrs_testing::history::History;
use cqrs_testing::proxy::{Point, Proxy};
use diesel_async::SimpleAsyncConnection;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::databases::{Db, Site};
use crate::road::{Progress, Road, key};
use crate::servers::{RealBroker, RealServer, through};
use crate::support::Relay;

const KEYS: u64 = 64;
const WRITERS: u64 = 8;
const RELAYS: usize = 4;
const CUT_EVERY: Duration = Duration::from_millis(200);

/// Of the relays of a [`Road`].
const LEASE: Duration = Duration::from_secs(1);
const PUBLISH_TIMEOUT: Duration = Duration::from_millis(800);

/// A hang, and nothing else, takes so long.
const PATIENCE: Duration = Duration::from_secs(180);

fn rows() -> u64 {
    let rows = std::env::var("CQRS_CHAOS_ROWS");
    rows.map_or(4_000, |rows| rows.parse().expect("CQRS_CHAOS_ROWS is a number"))
}

#[derive(Serialize, Deserialize, NotificationEvent)]
#[event(topic = "chaos", key = key)]
struct Written {
    key: String,
}

/// How each of them begins on the wire.
const PAYLOAD: &[u8] = br#"{"key":"key-"#;

/// How the relays of a run send, and how long they live.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) name: &'static str,
    settings: &'static [&'static str],
    kill_every: Duration,
    in_sessions: bool,
}

impl Manner {
    pub(crate) const ONE_BY_ONE: Self =
        Self { name: "chaos", settings: &[], kill_every: Duration::from_millis(200), in_sessions: false };

    pub(crate) const TOGETHER: Self = Self {
        name: "chaos_together",
        settings: &["--max-in-flight-per-key", "16", "--max-rows", "200"],
        kill_every: Duration::from_millis(800),
        in_sessions: true,
    };
}

pub(crate) async fn drive<D: Db>(
    manner: Manner,
    site: &Site,
    database: Option<&RealServer>,
    broker: &RealBroker,
) -> Result<()> {
    let began = Instant::now();
    let outbox = site.prepare::<D>(KEYS).await?;
    let witness = "CREATE TABLE written (event VARCHAR(40) PRIMARY KEY, number VARCHAR(20) NOT NULL)";
    outbox.connection().await?.batch_execute(witness).await?;
    let version = D::version(&mut *outbox.connection().await?).await?;
    let topic = format!("chaos-{}", Uuid::new_v4().simple());
    let connected = cqrs::app::connect_broker(&broker.url())?;
    let mut audit = Audit::start(&connected, &topic).await?;
    let writers = Arc::new(Writers {
        outbox: outbox.clone(),
        topic,
        history: audit.history.clone(),
        progress: watch::Sender::new(0),
        limit: watch::Sender::new(0),
        in_doubt: AtomicUsize::new(0),
    });
    let network = Network::before::<D>(database, broker)?;
    let logs = tempfile::tempdir()?;
    let log = logs.path().join("relays");
    let fleet = Fleet::start(network.road(site, broker, manner, log.clone())?);

    let progress = Progress(writers.progress.subscribe());
    let over = CancellationToken::new();
    let work = async {
        let (committed, ()) = tokio::try_join!(
            Writers::write(&writers),
            disturb(&fleet, &outbox, database, broker, &network, &writers.limit, progress)
        )?;
        over.cancel();
        Ok(committed)
    };
    let cut = async { Ok(network.cut_until(&over).await) };
    let (committed, kills, cuts) = tokio::select! {
        done = async { tokio::try_join!(work, fleet.kill_until(&over, manner.kill_every), cut) } => done?,
        ended = audit.ended() => return Err(ended),
    };
    let written = began.elapsed();

    let convicted = AtomicUsize::new(0);
    let arrived = tokio::select! {
        arrived = timeout(PATIENCE, audit.everything(committed)) => arrived,
        ended = audit.ended() => return Err(ended),
        failed = acquit(&outbox, &convicted) => return Err(failed),
    };
    let verdict = audit.stop().await?;
    assert!(
        arrived.is_ok(),
        "not everything arrived within {PATIENCE:?}: {verdict}; {:?}",
        outbox.status().await
    );
    verdict.assert_clean();
    let convicted = convicted.into_inner();
    assert!(convicted <= kills / 10, "{convicted} events were taken for ones that end processes");
    let in_doubt = writers.in_doubt.load(Ordering::Relaxed);
    assert!(in_doubt > 0 || database.is_none(), "no transaction was cut when the database was killed");
    assert!(kills >= 10, "only {kills} relays were killed");
    assert!(cuts.iter().all(|cut| cut.times > 0), "not at all points was a connection cut: {cuts:?}");
    // To be sent again is the exception, among all these deaths too.
    verdict.assert_duplicates_at_most(committed / 4);
    // The last receipts may not have been settled yet.
    let settled = async {
        loop {
            let left = outbox.status().await?;
            if (left.waiting, left.parked, left.dead_letters) == (0, 0, 0) {
                return Ok::<_, Error>(());
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let settled = timeout(PATIENCE, settled).await;
    settled.map_err(|_| Error::handler("what has arrived is still in the outbox"))??;
    fleet.stop().await;
    let sessions = match std::fs::read_to_string(&log) {
        Ok(logged) => logged.matches("opened a publish session").count(),
        Err(_) => 0,
    };
    assert_eq!(sessions > 0, manner.in_sessions, "{sessions} publish sessions");
    connected.close().await?;
    println!(
        "{version} x {}: {committed} committed, {in_doubt} in doubt for a while; {kills} relays killed, {convicted} events convicted of it and replayed; {sessions} publish sessions; connections cut {}; {verdict}; written in {written:.1?}, all in {:.1?}",
        broker.kind.name(),
        cuts.iter().map(|cut| format!("{} x {}", cut.times, cut.at)).collect::<Vec<_>>().join(", "),
        began.elapsed(),
    );
    Ok(())
}

/// As an operator would: an event that was alone with the broker each of three times when its relay was killed is taken for one that
/// ends processes, and stands in the dead letters. It goes again. Nothing else is there. Resolves when that fails.
async fn acquit<D: Db>(outbox: &Outbox<D>, convicted: &AtomicUsize) -> Error {
    let work = async {
        loop {
            let dead = outbox.dead_letters(&DeadLetterFilter::new(), Page::oldest_first()).await?;
            let innocent = |error: &Option<String>| {
                error.as_deref().is_some_and(|error| error.starts_with("the process ended while this event"))
            };
            if let Some(other) = dead.iter().find(|letter| !innocent(&letter.error)) {
                return Err(Error::handler(format!("an event was refused: {other:?}")));
            }
            if !dead.is_empty() {
                outbox.ask_for(RequestKind::Replay, &dead, &Asking::new()).await?;
                convicted.fetch_add(dead.len(), Ordering::Relaxed);
                while outbox.status().await?.dead_letters > 0 {
                    sleep(Duration::from_millis(20)).await;
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    match work.await {
        Ok(never) => never,
        Err(error) => error,
    }
}

struct Writers<D: Db> {
    outbox: Outbox<D>,
    topic: String,
    history: History,
    progress: watch::Sender<u64>,
    /// How far they may go, so that each disturbance meets some of their work.
    limit: watch::Sender<u64>,
    /// Commits of which the writer did not hear the end.
    in_doubt: AtomicUsize,
}

impl<D: Db> Writers<D> {
    /// Gives how many transactions were committed.
    async fn write(self: &Arc<Self>) -> Result<usize> {
        let rows = rows();
        let mut tasks = JoinSet::new();
        for writer in 0..WRITERS {
            let this = Arc::clone(self);
            tasks.spawn(async move {
                let mut committed = 0;
                for nth in (writer..rows).step_by(WRITERS as usize) {
                    // Neighbours share a key, so that all writers write to each key, at the same time.
                    let key = key(nth / WRITERS % KEYS);
                    let fails = nth % 10 == 3;
                    // Ends in an error only when the run has ended.
                    let _ = this.limit.subscribe().wait_for(|limit| nth < *limit).await;
                    while !this.write_one(&key, fails, &mut committed).await {}
                    this.progress.send_modify(|sent| *sent += 1);
                }
                committed
            });
        }
        let mut committed = 0;
        while let Some(task) = tasks.join_next().await {
            committed += task.map_err(Error::handler)?;
        }
        Ok(committed)
    }

    /// Whether it came to what it was to come to.
    async fn write_one(&self, key: &str, fails: bool, committed: &mut usize) -> bool {
        let event = Uuid::now_v7();
        let number = match self.transaction(key, event, fails).await {
            Ok(number) => Some(number),
            Err(_) if fails => None,
            Err(_) => {
                self.in_doubt.fetch_add(1, Ordering::Relaxed);
                self.find_out(key, event).await
            }
        };
        match number {
            Some(number) => {
                *committed += 1;
                self.history.committed(Some(key.to_owned().into()), event, number);
            }
            None => self.history.rolled_back(event),
        }
        fails || number.is_some()
    }

    /// Gives the event's number among those of its key.
    async fn transaction(&self, key: &str, event: Uuid, fails: bool) -> Result<u64> {
        let written =
            Envelope::new(Written { key: key.to_owned() }).with_id(event).with_topic(self.topic.clone());
        self.outbox
            .transaction(async |tx| {
                let number = D::count(tx, key).await?;
                tx.batch_execute(&format!("INSERT INTO written VALUES ('{event}', '{number}')")).await?;
                tx.publish(written).await?;
                if fails {
                    return Err(Error::handler("rolled back on purpose"));
                }
                Ok(number.unsigned_abs())
            })
            .await
    }

    /// Whether the transaction was committed whose end nobody heard of, and its number. If it is still about to commit,
    /// it holds the key's row, and this waits for it.
    async fn find_out(&self, key: &str, event: Uuid) -> Option<u64> {
        loop {
            let found = self.outbox.transaction(async |tx| {
                D::count(tx, key).await?;
                Ok(D::values(tx, &format!("SELECT number AS value FROM written WHERE event = '{event}'"))
                    .await?)
            });
            match found.await {
                Ok(found) => return found.first().map(|number| number.parse().unwrap()),
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// Sees every delivery, in the order of the broker.
struct Audit {
    history: History,
    arrived: Arc<Mutex<HashSet<Uuid>>>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<Result<()>>,
}

impl Audit {
    async fn start(broker: &Arc<dyn MessageBroker>, topic: &str) -> Result<Self> {
        let (history, arrived) = (History::new(), Arc::<Mutex<HashSet<Uuid>>>::default());
        let stop = CancellationToken::new();
        let mut subscription =
            broker.subscribe(SubscribeOptions::new(format!("{topic}-audit"), [topic])).await?;
        let running = tokio::spawn({
            let (history, arrived, stop) = (history.clone(), Arc::clone(&arrived), stop.clone());
            async move {
                let codec = cqrs::codec::Json;
                loop {
                    let next = tokio::select! {
                        () = stop.cancelled() => return Ok(()),
                        next = subscription.next() => next,
                    };
                    match next {
                        Ok(Some(delivery)) => {
                            let message = codec.decode(delivery.message().clone())?;
                            let event = message.id.as_ref().and_then(|id| id.to_uuid());
                            let event = event.ok_or_else(|| {
                                Error::handler(format!("a message without its id: {message:?}"))
                            })?;
                            history.delivered(event, message.key.clone());
                            arrived.lock().unwrap_or_else(PoisonError::into_inner).insert(event);
                            // Where the broker could not be told, it delivers again.
                            let _ = delivery.ack().await;
                        }
                        Ok(None) => return Err(Error::handler("the subscription ended")),
                        Err(error) if error.class().is_retryable() => sleep(Duration::from_millis(50)).await,
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        });
        Ok(Self { history, arrived, stop, running })
    }

    /// When everything has arrived.
    fn everything(&self, committed: usize) -> impl Future<Output = ()> + use<> {
        let (arrived, history) = (Arc::clone(&self.arrived), self.history.clone());
        async move {
            while arrived.lock().unwrap_or_else(PoisonError::into_inner).len() < committed
                || !history.check().lost.is_empty()
            {
                sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// Why it ended before it was told to.
    async fn ended(&mut self) -> Error {
        match (&mut self.running).await {
            Ok(Ok(())) => Error::handler("the audit ended"),
            Ok(Err(error)) => error,
            Err(panic) => Error::handler(panic),
        }
    }

    async fn stop(self) -> Result<cqrs_testing::history::Verdict> {
        self.stop.cancel();
        self.running.await.map_err(Error::handler)??;
        Ok(self.history.check())
    }
}

/// The relay processes. Where one is held, it is not there to be killed.
struct Fleet {
    road: Road,
    relays: Vec<tokio::sync::Mutex<Member>>,
}

struct Member {
    name: String,
    relay: Relay,
}

impl Member {
    fn spawn(road: &Road, name: String) -> Self {
        Self { relay: road.spawn(&name), name }
    }
}

impl Fleet {
    fn start(road: Road) -> Self {
        let member = |nth| tokio::sync::Mutex::new(Member::spawn(&road, format!("relay-{nth}")));
        Self { relays: (0..RELAYS).map(member).collect(), road }
    }

    /// Gives how many were killed.
    async fn kill_until(&self, over: &CancellationToken, every: Duration) -> Result<usize> {
        let mut kills = 0;
        while timeout(every, over.cancelled()).await.is_err() {
            let nth = Uuid::new_v4().as_u128() as usize % RELAYS;
            let Ok(mut member) = self.relays[nth].try_lock() else { continue };
            assert!(member.relay.is_alive(), "a relay ended by itself");
            member.relay.kill().await;
            kills += 1;
            *member = Member::spawn(&self.road, format!("relay-{nth}-{kills}"));
        }
        Ok(kills)
    }

    async fn stop(self) {
        for member in self.relays {
            let mut relay = member.into_inner().relay;
            relay.is_ready().await;
            println!("  {}", relay.stop().await);
        }
    }
}

/// What is between the relays and the servers.
struct Network {
    database: Option<(Proxy, Vec<(&'static str, Point)>)>,
    broker: (Proxy, Vec<(&'static str, Point)>),
}

/// How often connections were cut at a point.
#[derive(Debug)]
struct Cut {
    at: &'static str,
    times: usize,
}

impl Network {
    /// SQLite is a file: there is no network.
    fn before<D: Db>(database: Option<&RealServer>, broker: &RealBroker) -> Result<Self> {
        let database = match (database, D::CUTS) {
            (Some(server), Some(cuts)) => Some((
                server.proxy()?,
                vec![("in a commit", cuts.in_commit), ("in a settle", cuts.in_settle)],
            )),
            _ => None,
        };
        let confirm = ("before a confirm", broker.kind.before_confirm(PAYLOAD));
        Ok(Self { database, broker: (broker.server.proxy()?, vec![confirm]) })
    }

    fn road(&self, site: &Site, broker: &RealBroker, manner: Manner, log: PathBuf) -> Result<Road> {
        let database = match &self.database {
            Some((proxy, _)) => through(&site.url, proxy)?,
            None => site.url.clone(),
        };
        let broker = broker.url_through(&self.broker.0)?;
        let log = manner.in_sessions.then_some(log);
        Ok(Road { database, broker, settings: manner.settings, log })
    }

    async fn cut_until(&self, over: &CancellationToken) -> Vec<Cut> {
        let cut = async |(proxy, points): &(Proxy, Vec<(&'static str, Point)>)| {
            let mut cuts: Vec<_> = points.iter().map(|(at, _)| Cut { at, times: 0 }).collect();
            for nth in (0..points.len()).cycle() {
                tokio::select! {
                    () = over.cancelled() => break,
                    () = proxy.cut(points[nth].1) => cuts[nth].times += 1,
                }
                let _ = timeout(CUT_EVERY, over.cancelled()).await;
            }
            cuts
        };
        let database = async {
            match &self.database {
                Some(database) => cut(database).await,
                None => Vec::new(),
            }
        };
        let (mut cuts, broker) = tokio::join!(database, cut(&self.broker));
        cuts.extend(broker);
        cuts
    }

    /// For so long everything vanishes.
    async fn swallow(&self, length: Duration) {
        let database = async {
            match &self.database {
                Some((proxy, _)) => proxy.swallow(length).await,
                None => 0,
            }
        };
        let (database, broker) = tokio::join!(database, self.broker.0.swallow(length));
        assert!(broker > 0 && (database > 0 || self.database.is_none()), "nothing was swallowed");
    }
}

/// Each disturbance begins with a part of the transactions still to be written while it lasts.
async fn disturb<D: Db>(
    fleet: &Fleet,
    outbox: &Outbox<D>,
    database: Option<&RealServer>,
    broker: &RealBroker,
    network: &Network,
    limit: &watch::Sender<u64>,
    progress: Progress,
) -> Result<()> {
    let part = rows() / 8;
    let meets = async |nth: u64| {
        progress.reaches(nth * part).await;
        limit.send_replace((nth + 1) * part);
    };
    meets(0).await;
    meets(1).await;
    broker.server.kill_and_start_again().await?;
    meets(2).await;
    if let Some(database) = database {
        database.kill_and_start_again().await?;
    }
    meets(3).await;
    {
        let member = fleet.relays[0].lock().await;
        // It may have been started just now.
        is_back(outbox, &member.name).await?;
        member.relay.signal("STOP").await;
        sleep(3 * LEASE).await;
        // It goes on in the belief that it owns what others have taken.
        let status = outbox.status().await?;
        let owned =
            status.relays.iter().filter(|seen| seen.name == member.name).map(|seen| seen.owned_groups);
        assert_eq!(owned.max(), Some(0), "{} was stopped for three leases: {status:?}", member.name);
        member.relay.signal("CONT").await;
        // It finds out what has become of its leases.
        sleep(LEASE).await;
    }
    meets(4).await;
    broker.server.pause(2 * PUBLISH_TIMEOUT).await?;
    meets(5).await;
    if let Some(database) = database {
        database.pause(LEASE + LEASE / 2).await?;
    }
    meets(6).await;
    {
        let member = fleet.relays[0].lock().await;
        network.swallow(2 * LEASE).await;
        // By itself it comes back from connections that are dead without a word.
        is_back(outbox, &member.name).await?;
    }
    limit.send_replace(u64::MAX);
    Ok(())
}

/// Waits until a relay is heard of again.
async fn is_back<D: Db>(outbox: &Outbox<D>, relay: &str) -> Result<()> {
    let began = Instant::now();
    let heard_of = async {
        loop {
            let status = outbox.status().await?;
            if status.relays.iter().any(|seen| seen.name == relay && seen.seen < began.elapsed()) {
                return Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let back = timeout(PATIENCE, heard_of).await;
    back.map_err(|_| Error::handler(format!("{relay} does not come back")))?
}
