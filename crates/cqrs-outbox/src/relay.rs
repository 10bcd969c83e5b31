use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cqrs_core::broker::{BrokerError, ErrorClass, MessageBroker};
use cqrs_core::codec::header;
use cqrs_core::{Error, ErrorKind, Result, WithCauses};
use futures_util::future::{Fuse, FusedFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::Instrument;
use uuid::Uuid;

use crate::engine::{Action, Engine, Failed, Input, PublishFailure};
use crate::meters::{Meters, Sent};
use crate::row::OutboxRow;
use crate::session::{InSession, NotConfirmed, Session};
use crate::settings::RelaySettings;
use crate::stats::RelayStats;
use crate::store::{LaterEvents, OutboxStore, Rejection, RelayId, StoreError, StoreErrorKind, Verdict};
use crate::suspended::Suspended;

/// Takes events from an outbox to a broker: at least once, in order per key.
///
/// ```
/// use std::sync::Arc;
/// use cqrs_core::broker::memory::MemoryBroker;
/// use cqrs_outbox::{MemoryOutbox, OutboxRelay};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> cqrs_core::Result<()> {
/// let outbox = MemoryOutbox::new();
/// let relay = OutboxRelay::builder(Arc::new(outbox), Arc::new(MemoryBroker::new())).build()?;
/// # let shutdown = async {};
/// relay.run_until(shutdown).await?;
/// # Ok(()) }
/// ```
pub struct OutboxRelay {
    store: Arc<dyn OutboxStore>,
    broker: Arc<dyn MessageBroker>,
    settings: RelaySettings,
    name: String,
    database: String,
    stats: watch::Sender<RelayStats>,
    meters: Meters,
    suspended: Suspended,
    at_work: watch::Sender<bool>,
    /// Whether the database has answered in this run.
    let_in: AtomicBool,
}

/// Says that the run is over, however it ends.
struct AtWork<'a>(&'a watch::Sender<bool>);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

/// Has the store forget the run, however it ends.
struct Forgotten<'a> {
    store: &'a dyn OutboxStore,
    relay: &'a RelayId,
}

impl Drop for Forgotten<'_> {
    fn drop(&mut self) {
        self.store.forget(self.relay);
    }
}

/// Builds an [`OutboxRelay`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct OutboxRelayBuilder {
    store: Arc<dyn OutboxStore>,
    broker: Arc<dyn MessageBroker>,
    settings: RelaySettings,
    name: Option<String>,
    database: Option<String>,
}

impl OutboxRelayBuilder {
    /// Sets the settings.
    pub fn settings(mut self, settings: RelaySettings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets the name by which people know this relay. Default: the process id.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the name by which people know the database: where there are several, in metrics, and in what
    /// [`Relays`](crate::Relays) says. Default: where the store [is](OutboxStore::place), or `outbox` if it does not say.
    pub fn database(mut self, name: impl Into<String>) -> Self {
        self.database = Some(name.into());
        self
    }

    /// The relay.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](cqrs_core::ErrorKind::Configuration) if the settings do not fit each other,
    /// or ask for more than the broker can do.
    pub fn build(self) -> Result<OutboxRelay> {
        self.settings.validate()?;
        let can = self.broker.capabilities();
        if self.settings.max_in_flight_per_key > 1 && !can.publish_sessions {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!(
                    "the broker `{}` keeps no order among events of a key that are with it at the same time: \
                     leave `max_in_flight_per_key` at 1, or give the order up with `unordered`",
                    can.name
                ),
            ));
        }
        let name = self.name.unwrap_or_else(|| format!("process {}", std::process::id()));
        let database = self.database.unwrap_or_else(|| self.store.place().unwrap_or("outbox").to_owned());
        Ok(OutboxRelay {
            store: self.store,
            broker: self.broker,
            settings: self.settings,
            meters: Meters::new(&name, &database),
            suspended: Suspended::default(),
            name,
            database,
            stats: watch::Sender::new(RelayStats::default()),
            at_work: watch::Sender::new(false),
            let_in: AtomicBool::new(false),
        })
    }
}

impl OutboxRelay {
    /// A relay from this store to this broker.
    pub fn builder(store: Arc<dyn OutboxStore>, broker: Arc<dyn MessageBroker>) -> OutboxRelayBuilder {
        OutboxRelayBuilder { store, broker, settings: RelaySettings::default(), name: None, database: None }
    }

    /// Relays until `shutdown` resolves; then finishes what is with the broker, settles what was confirmed, and gives its
    /// groups back, so that another relay goes on at once. Can be called again afterwards.
    ///
    /// While the database or the broker is away it waits, with a growing back-off, and goes on by itself.
    ///
    /// # Errors
    ///
    /// What waiting does not mend: [`ErrorKind::Store`](cqrs_core::ErrorKind::Store) for missing tables, tables of another
    /// version or [installation](StoreErrorKind::Installation), a [unit of order](crate::OrderUnit) that was changed meanwhile, or if the database refuses the login; [`ErrorKind::Broker`](cqrs_core::ErrorKind::Broker) if the broker does. A login counts
    /// as refused before it was ever accepted in this run. Later that is taken for an outage: it was right once, and may be again, as while
    /// a password is changed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is like a crash: nothing is lost, but what was in flight is sent again, and another relay waits
    /// for the leases to expire.
    pub async fn run_until(&self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        self.run(shutdown, Until::Shutdown).await.map(drop)
    }

    /// Relays until nothing waits any more in the groups that fall to it, then leaves. Events behind a closed gate do not count
    /// as waiting. After a crash it waits until the leases of the dead have expired; on hold, until that is over.
    ///
    /// # Errors
    ///
    /// As for [`run_until`](Self::run_until).
    ///
    /// # Cancel safety
    ///
    /// As for [`run_until`](Self::run_until).
    pub async fn run_until_empty(&self) -> Result<()> {
        self.run(std::future::pending(), Until::Empty).await.map(drop)
    }

    /// As [`run_until_empty`](Self::run_until_empty), unless `shutdown` resolves first.
    ///
    /// # Errors
    ///
    /// As for [`run_until`](Self::run_until).
    ///
    /// # Cancel safety
    ///
    /// As for [`run_until`](Self::run_until).
    pub async fn run_until_empty_or(&self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        self.run(shutdown, Until::Empty).await.map(drop)
    }

    /// Relays so many events at most, then leaves; says how many the broker has confirmed. Fewer, if nothing more waits in the groups that
    /// fall to it. Which: the first that may go, in order per key. On hold it waits until that is over.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use cqrs_core::{Message, broker::memory::MemoryBroker};
    /// # use cqrs_outbox::{MemoryOutbox, OutboxRelay};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> cqrs_core::Result<()> {
    /// let outbox = MemoryOutbox::new();
    /// for room in ["1", "2", "3"] {
    ///     let mut message = Message::new("rooms", room);
    ///     message.name = "room_opened".to_owned();
    ///     outbox.add(message)?;
    /// }
    /// let relay = OutboxRelay::builder(Arc::new(outbox.clone()), Arc::new(MemoryBroker::new())).build()?;
    /// assert_eq!(relay.produce_batch(2).await?, 2);
    /// assert_eq!(relay.produce_batch(2).await?, 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`run_until`](Self::run_until).
    ///
    /// # Cancel safety
    ///
    /// As for [`run_until`](Self::run_until).
    pub async fn produce_batch(&self, events: usize) -> Result<usize> {
        if events == 0 {
            return Ok(0);
        }
        let stats = self.run(std::future::pending(), Until::Sent(events)).await?;
        Ok(usize::try_from(stats.confirmed).unwrap_or(usize::MAX))
    }

    /// Relays until the broker has confirmed this event, then leaves. It does not pass what waits before it: that of its key goes first, and
    /// of others what is with the broker at the same time. `false` if
    /// it does not wait in the groups that fall to this relay: it was sent before or by another one, waits behind a closed gate or for its
    /// time, is a dead letter, or was never committed. That it does not is known when nothing else waits: with writers that never pause, bound
    /// it by a time-out. On hold it waits until that is over. The id is that of the event, as `publish` gives it ([`MessageId::to_uuid`](cqrs_core::MessageId::to_uuid)).
    ///
    /// # Errors
    ///
    /// As for [`run_until`](Self::run_until).
    ///
    /// # Cancel safety
    ///
    /// As for [`run_until`](Self::run_until).
    pub async fn produce_one(&self, event_id: Uuid) -> Result<bool> {
        let sent = AtomicBool::new(false);
        self.run(std::future::pending(), Until::Event { event_id, sent: &sent }).await?;
        Ok(sent.into_inner())
    }

    /// Resolves when a run of this relay is at work: its first heartbeat was answered, so it knows which groups are its
    /// own, or that all have another owner; and the broker has answered, too.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn started(&self) {
        // The sender is our own, and lives.
        let _ = self.at_work.subscribe().wait_for(|at_work| *at_work).await;
    }

    /// The name of its database.
    pub fn database(&self) -> &str {
        &self.database
    }

    pub(crate) fn store(&self) -> &dyn OutboxStore {
        &*self.store
    }

    pub(crate) fn settings(&self) -> &RelaySettings {
        &self.settings
    }

    /// What it has done since it was last started, and what it has in memory now.
    pub fn stats(&self) -> RelayStats {
        *self.stats.borrow()
    }

    /// What stands before each line of the log that is about this relay: where a process has several, nobody could tell whose it is.
    /// At the level of errors, so that it is there whenever anything is.
    pub(crate) fn span(&self) -> tracing::Span {
        tracing::error_span!("relay", relay = self.name, database = self.database)
    }

    /// What it has done.
    async fn run(&self, shutdown: impl Future<Output = ()> + Send, until: Until<'_>) -> Result<RelayStats> {
        self.run_unnamed(shutdown, until).instrument(self.span()).await
    }

    async fn run_unnamed(
        &self,
        shutdown: impl Future<Output = ()> + Send,
        until: Until<'_>,
    ) -> Result<RelayStats> {
        let at_work = AtWork(&self.at_work);
        self.let_in.store(false, Ordering::Relaxed);
        let mut shutdown = std::pin::pin!(shutdown.fuse());
        let mut broker_is_there = tokio::select! {
            biased;
            () = &mut shutdown => return Ok(RelayStats::default()),
            checked = async { self.check_store().await?; self.broker_answers(self.settings.publish_timeout).await } => checked?,
        };
        // A login that was never accepted may be refused only when the broker comes up.
        let mut knocking = std::pin::pin!(self.until_broker_answers());
        let mut refused = None::<cqrs_core::Error>;
        let relay = RelayId { name: self.name.clone(), incarnation: Uuid::new_v4() };
        // Before what is pending, so that it is dropped behind that.
        let _forgotten = Forgotten { store: &*self.store, relay: &relay };
        tracing::info!(%relay.incarnation, "the relay starts");
        let started = Instant::now();
        let mut engine = Engine::new(self.settings.clone());
        if let Until::Sent(events) = until {
            engine = engine.with_limit(events);
        }
        if broker_is_there {
            engine.step(Duration::ZERO, Input::BrokerAnswers);
        }
        let _run = self.meters.run();
        self.suspended.reset();
        // What another run has seen last is no news of this one's.
        self.stats.send_replace(RelayStats::default());
        let mut pending = FuturesUnordered::<Pin<Box<dyn Future<Output = Answer> + Send + '_>>>::new();
        let mut telling = std::pin::pin!(Fuse::terminated());
        let mut give_up_at = None::<Instant>;
        let mut changed = self.store.changed();
        let mut hears = false;
        let mut session = Session::default();
        loop {
            let now = started.elapsed();
            if self.store.hears_commits() != hears {
                hears = !hears;
                engine.step(now, Input::Hears(hears));
            }
            while let Some(action) = engine.poll(now) {
                // Beside it, not with it: no lease waits for that.
                if matches!(action, Action::Heartbeat(_)) && telling.is_terminated() {
                    self.suspended.retain(|topic| engine.is_suspended(topic));
                    telling.set(self.tell_suspended(&relay).fuse());
                }
                pending.push(self.carry_out(&relay, until, &mut session, action));
            }
            let stats = engine.stats();
            self.meters.tell(&stats);
            let was_held = self.stats.send_replace(stats).hold;
            if was_held != stats.hold {
                if stats.hold {
                    tracing::warn!("the outbox is on hold: nothing is sent until somebody ends that");
                } else {
                    tracing::warn!("the hold on the outbox has ended");
                }
            }
            if !broker_is_there && stats.confirmed > 0 {
                broker_is_there = true;
                engine.step(now, Input::BrokerAnswers);
            }
            let is_at_work = stats.relays > 0 && broker_is_there;
            at_work.0.send_if_modified(|at_work| !std::mem::replace(at_work, is_at_work) && *at_work);
            if engine.is_finished() {
                tracing::info!("the relay has left");
                return refused.map_or(Ok(stats), Err);
            }
            if until.is_reached(&engine) && give_up_at.is_none() {
                give_up_at = Some(Instant::now() + self.settings.stop_grace);
                engine.step(now, Input::Stop);
                continue;
            }
            let deadline = engine.deadline().map(|at| started + at);
            tokio::select! {
                biased;
                // First, for with a broker that never lets it wait there is always an answer.
                () = &mut shutdown, if give_up_at.is_none() => {
                    tracing::info!("the relay stops");
                    give_up_at = Some(Instant::now() + self.settings.stop_grace);
                    engine.step(now, Input::Stop);
                }
                () = wait_until(give_up_at) => {
                    tracing::warn!("what is in flight is left to the next relay");
                    give_up_at = Some(Instant::now() + FAR_AWAY);
                    engine.step(started.elapsed(), Input::GiveUp);
                }
                Some(answer) = pending.next(), if !pending.is_empty() => {
                    let mut next = Some(answer);
                    let now = started.elapsed();
                    // Whatever else is there already belongs to the same step.
                    while let Some(answer) = next {
                        match answer {
                            Ok(input) => engine.step(now, input),
                            Err(error) => {
                                drop(pending);
                                // Of another installation nothing is touched.
                                if error.kind() != StoreErrorKind::Installation {
                                    self.leave_at_once(&relay).await;
                                }
                                return Err(error.into_error());
                            }
                        }
                        next = pending.next().now_or_never().flatten();
                    }
                }
                answered = &mut knocking, if !broker_is_there && refused.is_none() => match answered {
                    Ok(()) => {
                        broker_is_there = true;
                        engine.step(now, Input::BrokerAnswers);
                    }
                    Err(error) => {
                        refused = Some(error);
                        give_up_at.get_or_insert_with(|| Instant::now() + self.settings.stop_grace);
                        engine.step(now, Input::Stop);
                    }
                },
                () = &mut telling => {}
                () = &mut changed => {
                    changed = self.store.changed();
                    engine.step(now, Input::Woken);
                }
                () = wait_until(deadline) => {}
            }
        }
    }

    /// Gives the groups back, as far as the store lets it: it has just failed for good. What was in flight is left to the next relay.
    async fn leave_at_once(&self, relay: &RelayId) {
        match timeout(self.settings.store_timeout, self.store.leave(relay)).await {
            Ok(Ok(())) => tracing::info!("the relay has left"),
            Ok(Err(error)) => tracing::debug!(%error, "its groups are free when their leases have expired"),
            Err(_) => tracing::debug!(
                "the store does not answer; its groups are free when their leases have expired"
            ),
        }
    }

    /// At the start a database that cannot be reached, or does not answer, is no reason to give up; one without our
    /// tables is.
    async fn check_store(&self) -> Result<()> {
        match timeout(self.settings.store_timeout, self.store.check()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => retryable(self.at(error)).map_err(StoreError::into_error),
            Err(_) => {
                tracing::warn!("the outbox's database does not answer; trying again");
                Ok(())
            }
        }
    }

    /// Whether the broker answers. At the start one that cannot be reached is no reason to give up; one that refuses us is.
    async fn broker_answers(&self, limit: Duration) -> Result<bool> {
        match timeout(limit, self.broker.check()).await {
            Ok(Ok(())) => Ok(true),
            Ok(Err(error)) if matches!(error.class(), ErrorClass::Login | ErrorClass::Fatal) => {
                Err(error.into())
            }
            Ok(Err(error)) => {
                tracing::warn!(error = %WithCauses(&error), "the broker cannot be reached; trying again");
                Ok(false)
            }
            Err(_) => {
                tracing::warn!("the broker did not answer within {limit:?}; trying again");
                Ok(false)
            }
        }
    }

    async fn until_broker_answers(&self) -> Result<()> {
        let mut failures = 0;
        loop {
            failures += 1;
            sleep(self.settings.backoff_after(failures).min(KNOCK)).await;
            if self.broker_answers(CHECK).await? {
                return Ok(());
            }
        }
    }

    fn carry_out<'a>(
        &'a self,
        relay: &'a RelayId,
        until: Until<'a>,
        session: &mut Session,
        action: Action,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
        let store = &*self.store;
        match action {
            Action::Publish(row) => Box::pin(async move {
                let event_id = row.event_id;
                let published = self.publish(row).await;
                if matches!(published, Input::Published { outcome: Ok(_), .. }) {
                    until.has_sent(event_id);
                }
                Ok(published)
            }),
            Action::PublishInSession { row, session: number, after } => {
                // Not when the future is polled: what is told first goes first.
                let span = self.publish_span(&row);
                let taken =
                    span.in_scope(|| session.enqueue(&*self.broker, number, &row.message, after.as_ref()));
                Box::pin(
                    async move { Ok(self.publish_in_session(until, &row, taken).instrument(span).await) },
                )
            }
            Action::Heartbeat(heartbeat) => Box::pin(async move {
                self.answer("heartbeat", store.heartbeat(relay, &heartbeat)).await.map(Input::Heartbeat)
            }),
            Action::Read(request) => {
                Box::pin(async move { self.answer("read", store.read(&request)).await.map(Input::Read) })
            }
            Action::ReadParked(request) => Box::pin(async move {
                self.answer("read parked", store.read_parked(&request)).await.map(Input::ReadParked)
            }),
            Action::Promote { leases, limit } => Box::pin(async move {
                self.answer("promote", store.promote(&leases, limit)).await.map(Input::Promoted)
            }),
            Action::Settle(confirmed) => {
                Box::pin(
                    async move { self.answer("settle", store.settle(&confirmed)).await.map(Input::Settled) },
                )
            }
            Action::Reject(rejection) => Box::pin(async move {
                log_rejection(&rejection);
                self.answer("reject", store.reject(&rejection)).await.map(Input::Rejected)
            }),
            Action::SetAside { lease, lane, ids, later } => Box::pin(async move {
                self.answer("set aside", store.set_aside(lease, &lane, &ids, later))
                    .await
                    .map(Input::SetAside)
            }),
            Action::OpenGate { lease, lane } => Box::pin(async move {
                self.answer("open gate", store.open_gate(lease, &lane)).await.map(Input::GateOpened)
            }),
            Action::RecordSuspects(ids) => Box::pin(async move {
                let recorded = store.record_suspects(relay, &ids);
                self.answer("record suspects", recorded).await.map(Input::SuspectsRecorded)
            }),
            Action::Leave => Box::pin(async move {
                // If it fails, the leases expire by themselves.
                let _: Result<_, Failed> = self.answer("leave", store.leave(relay)).await?;
                Ok(Input::Left)
            }),
        }
    }

    /// If it fails, the next heartbeat tells it: it is for operators to see, and no reason to end.
    async fn tell_suspended(&self, relay: &RelayId) {
        let Some(topics) = self.suspended.news() else { return };
        match self.answer("record suspended", self.store.record_suspended(relay, &topics)).await {
            Ok(Ok(true)) => self.suspended.told(topics),
            Ok(Ok(false) | Err(Failed)) => {}
            Err(error) => tracing::warn!(%error, "the topics that cannot be reached are not told"),
        }
    }

    /// The store's answer in time; what waiting cannot mend ends the relay.
    async fn answer<T>(
        &self,
        what: &'static str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<Result<T, Failed>, StoreError> {
        let call = async { call.await.map_err(|error| self.at(error)) };
        match timeout(self.settings.store_timeout, call).await {
            Ok(Ok(answer)) => {
                self.let_in.store(true, Ordering::Relaxed);
                Ok(Ok(answer))
            }
            Ok(Err(error)) if error.is_retryable() || self.was_right_once(&error) => {
                tracing::warn!(what, error = %WithCauses(&error), "the outbox's database failed; trying again");
                Ok(Err(Failed))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let timeout = self.settings.store_timeout;
                tracing::warn!(what, ?timeout, "the outbox's database did not answer in time");
                Ok(Err(Failed))
            }
        }
    }

    /// A password that is changed, or a privilege that is taken away, while the relay runs may be given back.
    fn was_right_once(&self, error: &StoreError) -> bool {
        error.kind() == StoreErrorKind::Configuration && self.let_in.load(Ordering::Relaxed)
    }

    fn at(&self, error: StoreError) -> StoreError {
        match self.store.place() {
            Some(place) => error.at(place),
            None => error,
        }
    }

    async fn publish(&self, row: Arc<OutboxRow>) -> Input {
        if let Some(defect) = &row.defect {
            let failure = PublishFailure { class: ErrorClass::Event, error: defect.clone() };
            return Input::Published { id: row.id, outcome: Err(failure) };
        }
        let message = &row.message;
        let sent = Sent::now(&row);
        let publish = async { self.broker.enqueue(message).await?.await }.instrument(self.publish_span(&row));
        let error = match timeout(self.settings.publish_timeout, publish).await {
            Ok(Ok(receipt)) => {
                sent.confirmed(&self.meters);
                return Input::Published { id: row.id, outcome: Ok(receipt) };
            }
            Ok(Err(error)) => error,
            Err(_) => BrokerError::new(
                ErrorClass::Unknown,
                format!("no confirm within {:?}", self.settings.publish_timeout),
            ),
        };
        let error_and_causes = WithCauses(&error);
        let key = message.key.as_deref().map(key_for_people);
        tracing::warn!(row = row.id, key, topic = message.topic, class = %error.class(), error = %error_and_causes, "a publish failed");
        let failure = PublishFailure { class: error.class(), error: error_and_causes.to_string() };
        if failure.class == ErrorClass::Destination {
            self.suspended.failed(&row.message.topic, &failure.error);
        }
        Input::Published { id: row.id, outcome: Err(failure) }
    }

    /// The writer's trace is what it belongs to, and no span that lasts as long as the relay.
    fn publish_span(&self, row: &OutboxRow) -> tracing::Span {
        tracing::debug_span!(
            parent: None, "publish", database = self.database, row = row.id, event = %row.event_id,
            topic = row.message.topic, traceparent = row.message.headers.get_str(header::TRACEPARENT)
        )
    }

    async fn publish_in_session(
        &self,
        until: Until<'_>,
        row: &OutboxRow,
        taken: Result<InSession, NotConfirmed>,
    ) -> Input {
        let sent = Sent::now(row);
        let confirmed = async { taken?.confirmed(self.settings.publish_timeout).await };
        let NotConfirmed { error, is_first } = match confirmed.await {
            Ok(receipt) => {
                sent.confirmed(&self.meters);
                until.has_sent(row.event_id);
                return Input::Published { id: row.id, outcome: Ok(receipt) };
            }
            Err(not_confirmed) => not_confirmed,
        };
        let (id, topic, class) = (row.id, &row.message.topic, error.class());
        let error = WithCauses(&error).to_string();
        if is_first {
            tracing::warn!(
                row = id, topic, %class, error,
                "a publish in a session failed; what was in it and not confirmed goes again, one by one"
            );
        } else {
            tracing::debug!(row = id, topic, %class, error, "a publish failed with its session");
        }
        Input::Published { id, outcome: Err(PublishFailure { class, error }) }
    }
}

/// In words that an operator knows, and finds again in what the program `cqrs` says.
fn log_rejection(rejection: &Rejection) {
    let Rejection { id: row, attempts, error, verdict, .. } = rejection;
    let key = rejection.lane.key().map(key_for_people);
    // Of whatever topic, where there is none.
    let topic = rejection.lane.topic();
    match verdict {
        Verdict::Park { retry_in } => {
            let then = format!("tried again in {retry_in:?}");
            tracing::warn!(row, topic, key, attempts, then, error, "an event was put aside");
        }
        Verdict::Bury { later } => {
            let of = if topic.is_some() { "key and topic" } else { "key" };
            let then = match later {
                _ if key.is_none() => "into the dead letters".to_owned(),
                LaterEvents::Wait => format!("into the dead letters; the later events of its {of} wait"),
                LaterEvents::GoOn => format!("into the dead letters; the later events of its {of} go on"),
                LaterEvents::Follow => {
                    format!("into the dead letters; the later events of its {of} follow it")
                }
            };
            tracing::warn!(row, topic, key, attempts, then, error, "an event was given up");
        }
    }
}

/// Text, or digits for what is none.
fn key_for_people(key: &[u8]) -> String {
    std::str::from_utf8(key).map_or_else(
        |_| key.iter().fold("hex:".to_owned(), |hex, byte| format!("{hex}{byte:02x}")),
        str::to_owned,
    )
}

/// When a run is over by itself.
#[derive(Clone, Copy)]
enum Until<'a> {
    Shutdown,
    Empty,
    Sent(usize),
    Event { event_id: Uuid, sent: &'a AtomicBool },
}

impl Until<'_> {
    fn has_sent(self, event: Uuid) {
        if let Self::Event { event_id, sent } = self
            && event_id == event
        {
            sent.store(true, Ordering::Relaxed);
        }
    }

    fn is_reached(self, engine: &Engine) -> bool {
        match self {
            Self::Shutdown => false,
            Self::Empty => engine.is_idle(),
            Self::Sent(_) => engine.has_sent_all() || engine.is_idle(),
            Self::Event { sent, .. } => sent.load(Ordering::Relaxed) || engine.is_idle(),
        }
    }
}

type Answer = Result<Input, StoreError>;

/// How long to wait at most before a broker that was not there is asked again.
const KNOCK: Duration = Duration::from_secs(5);

/// How long a broker may take to say whether it is there. Longer than a publish: a login takes its time.
const CHECK: Duration = Duration::from_secs(10);

/// Further away than any process lives, and near enough not to overflow.
const FAR_AWAY: Duration = Duration::from_secs(60 * 60 * 24 * 365);

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// At the start an unreachable database is no reason to give up.
fn retryable(error: StoreError) -> Result<(), StoreError> {
    if error.is_retryable() {
        tracing::warn!(error = %WithCauses(&error), "the outbox's database cannot be reached; trying again");
        Ok(())
    } else {
        Err(error)
    }
}

impl fmt::Debug for OutboxRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxRelay")
            .field("name", &self.name)
            .field("store", &self.store)
            .field("broker", &self.broker)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for OutboxRelayBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxRelayBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}
