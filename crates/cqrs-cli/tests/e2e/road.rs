//! The two services and the audit; and a cell whose relays and broker are processes.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cqrs::broker::SubscribeOptions;
use cqrs::sql::{Outbox, Tx};
use cqrs::{
    Context, Envelope, Error, EventHandler, MessageBroker, NotificationEvent, Request, RequestMediator,
    Result, Tracing, TransactionalEventHandler, TransactionalHandler, bootstrap,
};
use cqrs_testing::history::{History, Verdict};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::databases::{Db, Site, effects};
use crate::servers::RealBroker;
use crate::support::{Relay, program};

pub(crate) const COMMANDS: u64 = 2_000;
pub(crate) const KEYS: u64 = 32;
const TASKS: u64 = 8;

/// A hang, and nothing else, takes so long.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn key(nth: u64) -> String {
    format!("key-{nth}")
}

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
}

struct CountHandler {
    topic: String,
}

impl<D: Db> TransactionalHandler<Count, D> for CountHandler {
    async fn handle(&self, count: Count, tx: &mut Tx<D>, cx: &Context<'_>) -> Result<u64> {
        let value = D::count(tx, &count.key).await?;
        let event = Counted { event: count.event, key: count.key };
        cx.emit(Envelope::new(event).with_id(count.event).with_topic(self.topic.clone()));
        if count.fails {
            return Err(Error::handler("refused after it had spoken"));
        }
        Ok(value.unsigned_abs())
    }
}

struct Project {
    done: Arc<Notify>,
    handled: Arc<AtomicUsize>,
}

impl<D: Db> TransactionalEventHandler<Counted, D> for Project {
    async fn handle(&self, event: &Counted, tx: &mut Tx<D>, _cx: &Context<'_>) -> Result<()> {
        D::effect(tx, event.event).await?;
        self.handled.fetch_add(1, Ordering::Relaxed);
        self.done.notify_one();
        Ok(())
    }
}

/// Sees every delivery, duplicates too, in the order in which the broker delivers the events of a key.
struct Audit {
    history: History,
}

impl EventHandler<Counted> for Audit {
    async fn handle(&self, event: &Counted, cx: &Context<'_>) -> Result<()> {
        let key = cx.message().and_then(|message| message.key.clone());
        self.history.delivered(event.event, key);
        Ok(())
    }
}

/// How many commands were sent.
#[derive(Clone)]
pub(crate) struct Progress(pub(crate) watch::Receiver<u64>);

impl Progress {
    pub(crate) async fn reaches(&self, commands: u64) {
        // Ends in an error only when the commands have ended, in an error of their own.
        let _ = self.0.clone().wait_for(|sent| *sent >= commands).await;
    }
}

/// A service that counts, and two that hear of it.
pub(crate) struct Services {
    requests: RequestMediator,
    history: History,
    progress: watch::Sender<u64>,
    /// How many commands may be sent, so that each disturbance meets some of them.
    limit: watch::Sender<u64>,
    done: Arc<Notify>,
    handled: Arc<AtomicUsize>,
    stop: CancellationToken,
    running: JoinSet<Result<()>>,
}

impl Services {
    pub(crate) async fn start<D: Db>(
        outbox: &Outbox<D>,
        broker: Arc<dyn MessageBroker>,
        topic: &str,
    ) -> Result<Self> {
        let history = History::new();
        history.expect_effects();
        let (done, handled) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let counting = bootstrap()
            .middleware(Tracing)
            .outbox(outbox.clone())
            .transactional::<Count>(CountHandler { topic: topic.to_owned() })
            .broker(Arc::clone(&broker))
            .without_relay()
            .build()
            .await?;
        let project = Project { done: Arc::clone(&done), handled: Arc::clone(&handled) };
        let projection = bootstrap()
            .inbox(outbox.clone())
            .subscribe_transactional::<Counted>(topic, "project", project)
            .group(format!("{topic}-projection"))
            .broker(Arc::clone(&broker))
            .build()
            .await?;
        let audit = bootstrap()
            .subscribe::<Counted>(topic, Audit { history: history.clone() })
            .group(format!("{topic}-audit"))
            .broker(Arc::clone(&broker))
            .build()
            .await?;

        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        for (app, group) in [(projection, "projection"), (audit, "audit")] {
            // RabbitMQ gives a group what is published after its queue was declared.
            let options = SubscribeOptions::new(format!("{topic}-{group}"), [topic]);
            broker.subscribe(options).await?.close().await?;
            let stop = stop.clone();
            running.spawn(async move { app.run_until(stop.cancelled()).await });
        }
        Ok(Self {
            requests: counting.requests().clone(),
            history,
            progress: watch::Sender::new(0),
            limit: watch::Sender::new(COMMANDS),
            done,
            handled,
            stop,
            running,
        })
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress(self.progress.subscribe())
    }

    /// Sends the commands, and records what was committed, in which order of its key, and what was not.
    pub(crate) async fn command(&self) -> Result<usize> {
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let (requests, history, progress) =
                (self.requests.clone(), self.history.clone(), self.progress.clone());
            let mut limit = self.limit.subscribe();
            tasks.spawn(async move {
                let mut committed = 0;
                for nth in (task..COMMANDS).step_by(TASKS as usize) {
                    // Neighbours share a key, so that all tasks write to each key, at the same time.
                    let (key, event) = (key(nth / TASKS % KEYS), Uuid::now_v7());
                    let fails = nth % 10 == 3;
                    // The sender is ours, and lives.
                    let _ = limit.wait_for(|limit| nth < *limit).await;
                    match requests.send(Count { key: key.clone(), event, fails }).await {
                        Ok(value) => {
                            history.committed(Some(key.into()), event, value);
                            committed += 1;
                        }
                        Err(_) if fails => history.rolled_back(event),
                        Err(error) => return Err(error),
                    }
                    progress.send_modify(|sent| *sent += 1);
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

    /// Waits until everything has arrived, and judges.
    pub(crate) async fn finish<D: Db>(mut self, outbox: &Outbox<D>, committed: usize) -> Result<Verdict> {
        let everything = async {
            while self.handled.load(Ordering::Relaxed) < committed {
                self.done.notified().await;
            }
            // What is delivered twice may still be on its way to the audit.
            while !self.history.check().lost.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, everything).await;
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended.map_err(Error::handler)??;
        }
        let effects = effects(outbox).await?;
        for event in &effects {
            self.history.handled(*event);
        }
        let verdict = self.history.check();
        verdict.assert_clean();
        in_time.map_err(|_| Error::handler(format!("not everything was handled within {PATIENCE:?}")))?;
        assert_eq!(effects.len(), committed, "each committed event has one effect");
        Ok(verdict)
    }
}

/// From which database to which broker.
pub(crate) struct Road {
    pub(crate) database: String,
    pub(crate) broker: String,
    /// Settings of its relays beyond those below.
    pub(crate) settings: &'static [&'static str],
    /// Where its relays log, if somebody wants to know.
    pub(crate) log: Option<PathBuf>,
}

impl Road {
    /// A relay that is ready.
    async fn relay(&self, name: &str) -> Relay {
        let mut relay = self.spawn(name);
        relay.is_ready().await;
        relay
    }

    /// A relay that may not be ready yet.
    pub(crate) fn spawn(&self, name: &str) -> Relay {
        let mut command = program();
        command.arg("relay").args([
            "--database",
            &self.database,
            "--broker",
            &self.broker,
            "--name",
            name,
            // The others take over from one that was killed after a second.
            "--lease",
            "1s",
            "--lease-margin",
            "200ms",
            "--heartbeat-interval",
            "200ms",
            "--publish-timeout",
            "800ms",
            "--poll-interval",
            "50ms",
            "--max-backoff",
            "1s",
        ]);
        command.args(self.settings);
        if let Some(log) = &self.log {
            let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
            command.stderr(log).env("RUST_LOG", "error,cqrs_outbox=info,lapin=off,librdkafka=off");
        }
        Relay::from_command(command)
    }
}

/// A cell whose relays and broker are processes.
pub(crate) async fn drive<D: Db>(site: &Site, broker: &RealBroker) -> Result<()> {
    let outbox = site.prepare::<D>(KEYS).await?;
    let topic = format!("counts-{}", Uuid::new_v4().simple());
    let road = Road { database: site.url.clone(), broker: broker.url(), settings: &[], log: None };
    let connected = cqrs::app::connect_broker(&broker.url())?;
    let services = Services::start(&outbox, Arc::clone(&connected), &topic).await?;
    let (committed, relays) =
        tokio::try_join!(services.command(), disturb::<D>(&outbox, &road, broker, &services))?;
    let verdict = services.finish(&outbox, committed).await?;
    let left = outbox.status().await?;
    assert_eq!((left.waiting, left.parked, left.dead_letters), (0, 0, 0), "{left:?}");
    for relay in relays {
        println!("  {}", relay.stop().await);
    }
    connected.close().await?;
    let database = D::version(&mut *outbox.connection().await?).await?;
    println!("{database} x {}: {committed} committed; {verdict}", broker.kind.name());
    Ok(())
}

/// Two relays; one is killed, the broker is killed, and the other relay is told to stop, each with its successor. Gives
/// the two that work in the end.
async fn disturb<D: Db>(
    outbox: &Outbox<D>,
    road: &Road,
    broker: &RealBroker,
    services: &Services,
) -> Result<[Relay; 2]> {
    let progress = services.progress();
    services.limit.send_replace(COMMANDS / 4);
    let (mut first, second) = (road.relay("first").await, road.relay("second").await);
    let shared = async {
        while outbox.status().await?.relays.iter().filter(|relay| relay.owned_groups > 0).count()
            < D::RELAYS_AT_WORK
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok::<_, Error>(())
    };
    tokio::time::timeout(PATIENCE, shared)
        .await
        .map_err(|_| Error::handler("the relays do not share the groups"))??;
    progress.reaches(COMMANDS / 4).await;
    services.limit.send_replace(COMMANDS / 2);
    first.kill().await;
    let third = road.relay("third").await;
    progress.reaches(COMMANDS / 2).await;
    services.limit.send_replace(COMMANDS);
    broker.server.kill_and_start_again().await?;
    println!("  {}", second.stop().await);
    let fourth = road.relay("fourth").await;
    Ok([third, fourth])
}
