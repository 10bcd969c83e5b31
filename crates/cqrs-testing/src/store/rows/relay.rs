//! The store under real relays, with writers beside them.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use cqrs_core::{Message, Transaction};
use cqrs_outbox::{OutboxRelay, OutboxStore, RelaySettings, RelayStats};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time;

use crate::history::History;
use crate::store::bench::{Bench, Checked, LONG, Table, ensure, ensure_eq, event, fail, labels, on, skip};
use crate::store::mortal::{Mortal, Point};
use crate::store::recorder::Recorder;
use crate::store::rows::insight::age;
use crate::store::{DeadLetter, Oldest, StoreUnderTest};

const WRITERS: usize = 4;

pub(super) fn relay<S: StoreUnderTest>(
    table: &Table<S>,
    recorder: &Arc<Recorder>,
    lease: Duration,
    name: &str,
) -> Checked<OutboxRelay> {
    let store: Arc<dyn OutboxStore> = table.store.clone();
    Ok(OutboxRelay::builder(store, recorder.clone()).settings(settings(lease)).name(name).build()?)
}

fn settings(lease: Duration) -> RelaySettings {
    let mut settings = RelaySettings::default();
    settings.lease = lease;
    settings.lease_margin = lease / 5;
    settings.heartbeat_interval = lease / 4;
    settings.publish_timeout = lease / 2;
    settings.poll_interval = Duration::from_millis(20);
    settings.backoff = Duration::from_millis(20);
    // Small ones, so that there are many reads.
    settings.batch = 50;
    settings.max_rows = 400;
    settings
}

/// Commits events of all keys, on two topics; each key is written by one writer, so that its order is known. Some are refused once, if
/// that is asked for.
async fn write<S: StoreUnderTest>(
    table: Table<S>,
    recorder: Arc<Recorder>,
    writer: usize,
    events: usize,
    keys: usize,
    refusing: bool,
) -> Checked {
    let mine: Vec<usize> = (0..keys).filter(|key| key % WRITERS == writer).collect();
    for nth in 0..events {
        let key = format!("key {}", mine[nth % mine.len()]);
        let topic = if nth / mine.len() % 3 == 1 { "halls" } else { "rooms" };
        let mut messages = vec![on(topic, event(Some(&key), &nth.to_string()))];
        if nth % 50 == 0 {
            // Something that never happened.
            let mut tx = table.begin().await?;
            for message in table.write(&mut tx, messages.clone()).await? {
                recorder.history().rolled_back(id(&message));
            }
            drop(tx);
        }
        if nth % 7 == 0 {
            messages.push(event(None, "without a key"));
        }
        let mut tx = table.begin().await?;
        let messages = table.write(&mut tx, messages).await?;
        if refusing && nth % 40 == 20 {
            messages.iter().for_each(|message| recorder.refuse(id(message), 1));
        }
        tx.commit().await?;
        for message in messages {
            recorder.committed(&message, nth as u64);
        }
    }
    Ok(())
}

pub(super) fn id(message: &Message) -> uuid::Uuid {
    message.id.as_ref().and_then(|id| id.to_uuid()).unwrap_or_default()
}

struct Writers(JoinSet<Checked>);

impl Writers {
    fn start<S: StoreUnderTest>(bench: &Bench<'_, S>, table: &Table<S>, recorder: &Arc<Recorder>) -> Self {
        Self::start_refused(bench, table, recorder, false)
    }

    /// Of whose events some are refused once.
    fn start_refused<S: StoreUnderTest>(
        bench: &Bench<'_, S>,
        table: &Table<S>,
        recorder: &Arc<Recorder>,
        refusing: bool,
    ) -> Self {
        let (events, keys) = (bench.settings.events / WRITERS, bench.settings.keys.max(WRITERS));
        let mut tasks = JoinSet::new();
        for writer in 0..WRITERS {
            tasks.spawn(write(table.clone(), recorder.clone(), writer, events, keys, refusing));
        }
        Self(tasks)
    }

    async fn join(mut self) -> Checked {
        while let Some(ended) = self.0.join_next().await {
            ended.unwrap_or_else(|error| fail(format!("a writer failed: {error}")))?;
        }
        Ok(())
    }
}

/// A relay at work. Dropped, it dies, and gives nothing back.
pub(super) struct Running {
    relay: Arc<OutboxRelay>,
    stop: oneshot::Sender<()>,
    task: JoinSet<cqrs_core::Result<()>>,
}

impl Running {
    pub(super) fn start(relay: OutboxRelay) -> Self {
        let relay = Arc::new(relay);
        let (stop, stopped) = oneshot::channel::<()>();
        let running = Arc::clone(&relay);
        let mut task = JoinSet::new();
        task.spawn(async move { running.run_until(async { drop(stopped.await) }).await });
        Self { relay, stop, task }
    }

    /// Waits until it owns so many groups, which depends on how many there are.
    async fn owns<S: StoreUnderTest>(
        &self,
        bench: &Bench<'_, S>,
        wanted: impl Fn(usize) -> RangeInclusive<usize>,
    ) -> Checked {
        let share = async {
            loop {
                let stats = self.relay.stats();
                if stats.groups > 0 && wanted(stats.groups).contains(&stats.owned_groups) {
                    return;
                }
                time::sleep(Duration::from_millis(10)).await;
            }
        };
        let owns = bench.bounded("to have its share of the groups", share).await;
        owns.or_else(|_| fail(format!("a relay has no fair share of the groups: {:?}", self.relay.stats())))
    }

    /// It leaves in order; what it has done.
    pub(super) async fn leaves<S: StoreUnderTest>(mut self, bench: &Bench<'_, S>) -> Checked<RelayStats> {
        self.stop.send(()).ok();
        match bench.bounded("leaving", self.task.join_next()).await? {
            Some(Err(error)) => fail(format!("a relay failed: {error}")),
            Some(Ok(Err(error))) => Err(error.into()),
            Some(Ok(Ok(()))) | None => Ok(self.relay.stats()),
        }
    }
}

pub(super) async fn nothing_left<S: StoreUnderTest>(table: &Table<S>) -> Checked {
    let owner = table.owner("inspector").await?;
    let (hot, parked) = (owner.read().await?, owner.parked().await?);
    owner.leave().await?;
    ensure_eq("the rows that are left", labels(&hot), [""; 0])?;
    ensure_eq("the rows aside that are left", labels(&parked), [""; 0])
}

pub(super) async fn graceful<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let (table, history) = (bench.open().await?, History::new());
    let recorder = Recorder::new(&history, bench.adapter.order_unit());
    let writers = Writers::start(bench, &table, &recorder);
    let patience = bench.settings.patience;
    for (name, part) in [("one", 4), ("two", 2)] {
        let relay = Running::start(relay(&table, &recorder, Duration::from_secs(10), name)?);
        let reached = recorder.until(bench.settings.events / part, patience).await;
        relay.leaves(bench).await?;
        reached?;
    }
    writers.join().await?;
    let last = relay(&table, &recorder, Duration::from_secs(10), "three")?;
    bench.bounded("sending the rest", last.run_until_empty()).await??;
    let verdict = history.check();
    ensure(verdict.is_clean(), || verdict.to_string())?;
    ensure(verdict.duplicates == 0, || format!("sent again after a graceful stop: {verdict}"))?;
    nothing_left(&table).await
}

pub(super) async fn killed<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let (table, history) = (bench.open().await?, History::new());
    let recorder = Recorder::new(&history, bench.adapter.order_unit());
    let patience = bench.settings.patience;
    Writers::start(bench, &table, &recorder).join().await?;
    let committed = history.check().committed;
    let lease = bench.settings.lease;
    for part in [4, 2] {
        let relay = relay(&table, &recorder, lease, "killed")?;
        // Dropping the relay in the middle is what a kill leaves: leases that nobody gives back.
        tokio::select! {
            run = relay.run_until(std::future::pending()) => run?,
            reached = recorder.until(committed / part, patience) => reached?,
        }
    }
    let last = relay(&table, &recorder, lease, "last")?;
    bench.bounded("sending the rest", last.run_until_empty()).await??;
    let verdict = history.check();
    ensure(verdict.is_clean(), || verdict.to_string())?;
    nothing_left(&table).await
}

/// At each point of its work, with a key that has several events and events without one.
pub(super) async fn killed_at<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    for point in Point::ALL {
        let (table, history) = (bench.open().await?, History::new());
        let recorder = Recorder::new(&history, bench.adapter.order_unit());
        for nth in 0..5 {
            let messages =
                [event(Some("a"), &nth.to_string()), event(Some("b"), &nth.to_string()), event(None, "")];
            for message in table.commit(messages).await? {
                recorder.committed(&message, nth);
            }
        }
        let settings = settings(bench.settings.lease / 2);
        let mortal = Mortal::new(table.store.clone(), recorder.clone(), point);
        let relay =
            OutboxRelay::builder(mortal.clone(), mortal.clone()).settings(settings.clone()).build()?;
        let what = format!("getting to {point:?}");
        tokio::select! {
            run = relay.run_until(std::future::pending()) => run?,
            reached = bench.bounded(&what, mortal.reached()) => reached?,
        }
        let store: Arc<dyn OutboxStore> = table.store.clone();
        let next = OutboxRelay::builder(store, recorder.clone()).settings(settings).build()?;
        bench.bounded("sending the rest", next.run_until_empty()).await??;
        let verdict = history.check();
        ensure(verdict.is_clean(), || format!("killed at {point:?}: {verdict}"))?;
        let again_at_most = if point.is_before_the_broker() { 0 } else { verdict.committed };
        ensure(verdict.duplicates <= again_at_most, || format!("killed at {point:?}: {verdict}"))?;
        recorder.all_the_same()?;
        nothing_left(&table).await?;
    }
    Ok(())
}

pub(super) async fn outage<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let (table, history) = (bench.open().await?, History::new());
    let recorder = Recorder::new(&history, bench.adapter.order_unit());
    recorder.is_away(true);
    let mut count = 0;
    for nth in 0..10 {
        let messages = ["a", "b", "c"].map(|key| event(Some(key), &nth.to_string()));
        for message in table.commit(messages).await? {
            recorder.committed(&message, nth);
            count += 1;
        }
    }
    let mut settings = settings(Duration::from_secs(10));
    // Less than what is tried in vain.
    settings.max_attempts = 2;
    settings.max_backoff = Duration::from_millis(100);
    let store: Arc<dyn OutboxStore> = table.store.clone();
    let relay = Running::start(OutboxRelay::builder(store, recorder.clone()).settings(settings).build()?);
    let sent = sent_afterwards(bench, &table, &recorder, count).await;
    let stats = relay.leaves(bench).await?;
    sent?;
    let verdict = history.check();
    ensure(verdict.is_clean(), || verdict.to_string())?;
    ensure(verdict.duplicates == 0, || format!("sent again after an outage: {verdict}"))?;
    ensure_eq("what was parked", stats.parked, 0)?;
    nothing_left(&table).await
}

/// Lets the broker be away for some tries, and waits until so many events are sent.
async fn sent_afterwards<S: StoreUnderTest>(
    bench: &Bench<'_, S>,
    table: &Table<S>,
    recorder: &Recorder,
    count: usize,
) -> Checked {
    let patience = bench.settings.patience;
    recorder.met_nobody(3, patience).await?;
    let before = age(bench, table).await?;
    recorder.met_nobody(6, patience).await?;
    let rises = async {
        while before.is_some() && age(bench, table).await? <= before {
            time::sleep(Duration::from_millis(5)).await;
        }
        Checked::Ok(())
    };
    bench.bounded("that the age of the oldest rises while the broker is away", rises).await??;
    recorder.is_away(false);
    recorder.until(count, patience).await?;
    let nothing_waits = async {
        while let Oldest::Waits(_) = bench.adapter.oldest_waiting(&table.store).await? {
            time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    bench.bounded("that nothing waits any more", nothing_waits).await?
}

pub(super) async fn rebalance<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let (table, history) = (bench.open().await?, History::new());
    let recorder = Recorder::new(&history, bench.adapter.order_unit());
    // So long that there is always something in flight.
    recorder.takes(Duration::from_millis(5));
    let (events, patience) = (bench.settings.events, bench.settings.patience);
    let half = |groups: usize| groups / 2..=groups.div_ceil(2);
    let all = |groups: usize| groups..=groups;
    let writers = Writers::start_refused(bench, &table, &recorder, true);
    let first = Running::start(relay(&table, &recorder, bench.settings.lease, "first")?);
    first.owns(bench, all).await?;
    recorder.until(events / 8, patience).await?;
    let second = Running::start(relay(&table, &recorder, bench.settings.lease, "second")?);
    second.owns(bench, half).await?;
    first.owns(bench, half).await?;
    recorder.until(events / 4, patience).await?;
    first.leaves(bench).await?;
    second.owns(bench, all).await?;
    recorder.until(events / 2, patience).await?;
    let third = Running::start(relay(&table, &recorder, bench.settings.lease, "third")?);
    third.owns(bench, half).await?;
    drop(second);
    third.owns(bench, all).await?;
    writers.join().await?;
    bench.bounded("sending the rest", sent(&history)).await?;
    third.leaves(bench).await?;
    let verdict = history.check();
    ensure(verdict.is_clean(), || verdict.to_string())?;
    // What one had with the broker when it died goes again, and may stand aside for a moment.
    let rest = async {
        while nothing_left(&table).await.is_err() {
            relay(&table, &recorder, bench.settings.lease, "last")?.run_until_empty().await?;
        }
        Checked::Ok(())
    };
    bench.bounded("settling the rest", rest).await?
}

async fn sent(history: &History) {
    while !history.check().lost.is_empty() {
        time::sleep(Duration::from_millis(100)).await;
    }
}

/// By a broker that answers at once, so that what is behind the gate is near when it opens; and by one whose answer takes its time, so
/// that a next event of the key, if it did not wait, would be there before.
pub(super) async fn refused<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    for round_trip in [Duration::ZERO, Duration::from_millis(2)] {
        refused_after(bench, round_trip).await?;
    }
    Ok(())
}

async fn refused_after<S: StoreUnderTest>(bench: &Bench<'_, S>, round_trip: Duration) -> Checked {
    let (table, history) = (bench.open().await?, History::new());
    let recorder = Recorder::new(&history, bench.adapter.order_unit());
    recorder.takes(round_trip);
    let mut count = 0;
    for nth in 0..5 {
        let messages = ["a", "b", "c"].map(|key| event(Some(key), &nth.to_string()));
        for message in table.commit(messages).await? {
            // Of `a` the second is refused three times, of `b` the first once.
            match message.key.as_deref() {
                Some(b"a") if nth == 1 => recorder.refuse(id(&message), 3),
                Some(b"b") if nth == 0 => recorder.refuse(id(&message), 1),
                _ => {}
            }
            recorder.committed(&message, nth);
            count += 1;
        }
    }
    let relay = Running::start(relay(&table, &recorder, Duration::from_secs(10), "relay")?);
    let mut reached = recorder.until(count, bench.settings.patience).await;
    if reached.is_ok() {
        // More of the key, behind a gate that may just be opening.
        reached = late(bench, &table, &recorder, count).await;
    }
    relay.leaves(bench).await?;
    let verdict = history.check();
    ensure(verdict.is_clean(), || verdict.to_string())?;
    reached?;
    ensure(verdict.duplicates == 0, || format!("sent again after a refusal: {verdict}"))?;
    nothing_left(&table).await
}

/// By itself it would go in an hour.
pub(super) async fn unparked<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let (table, history) = (bench.open().await?, History::new());
    if !bench.adapter.unpark(&table.store).await? {
        return skip("this store does not let operators have events tried again (`StoreUnderTest::unpark`)");
    }
    let recorder = Recorder::new(&history, bench.adapter.order_unit());
    let mut settings = settings(Duration::from_secs(10));
    (settings.backoff, settings.max_backoff) = (LONG, LONG);
    let store: Arc<dyn OutboxStore> = table.store.clone();
    let running = Running::start(OutboxRelay::builder(store, recorder.clone()).settings(settings).build()?);
    let mut count = 0;
    let worked = async {
        for round in 0..5 {
            for nth in 0..10 {
                let mut tx = table.begin().await?;
                let messages = table.write(&mut tx, ["a", "b"].map(|key| event(Some(key), ""))).await?;
                if nth == 3 {
                    // Before it is committed: the relay is faster than what comes after that.
                    recorder.refuse(id(&messages[0]), 2);
                }
                tx.commit().await?;
                for message in messages {
                    recorder.committed(&message, round * 10 + nth);
                    count += 1;
                }
                // Before it is refused, when it is, and while the others of its key go aside or follow.
                bench.adapter.unpark(&table.store).await?;
            }
            let all_sent = async {
                while history.check().deliveries < count {
                    bench.adapter.unpark(&table.store).await?;
                    time::sleep(Duration::from_millis(10)).await;
                }
                Checked::Ok(())
            };
            bench.bounded("sending what was refused and is to be tried again", all_sent).await??;
        }
        Ok(())
    };
    let worked: Checked = worked.await;
    let stats = running.leaves(bench).await?;
    worked?;
    let verdict = history.check();
    ensure(verdict.is_clean(), || verdict.to_string())?;
    ensure(verdict.duplicates == 0, || format!("sent again: {verdict}"))?;
    ensure_eq("what was parked", stats.parked, 10)?;
    nothing_left(&table).await
}

/// What plain SQL wrote, and the table could not refuse: it must not go without what cannot be read of it.
pub(super) async fn unreadable<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let (table, history) = (bench.open().await?, History::new());
    let recorder = Recorder::new(&history, bench.adapter.order_unit());
    let insert = "INSERT INTO cqrs_outbox (event_name, topic, message_key, payload_text, headers) \
        VALUES ('room_closed', 'rooms', 'a', '{}', '[[\"tenant\", 5]]')";
    if !bench.adapter.execute(&table.store, insert).await? {
        return skip("this store has no SQL (`StoreUnderTest::execute`)");
    }
    // It waits for what someone does about the one before it.
    table.commit([event(Some("a"), "behind")]).await?;
    for message in table.commit([event(Some("b"), "0"), event(None, "0")]).await? {
        recorder.committed(&message, 0);
    }
    let mut settings = settings(Duration::from_secs(10));
    settings.max_attempts = 2;
    let store: Arc<dyn OutboxStore> = table.store.clone();
    let relay = Running::start(OutboxRelay::builder(store, recorder.clone()).settings(settings).build()?);
    let (sent, dead) = tokio::join!(
        recorder.until(2, bench.settings.patience),
        bench.bounded("giving it up", given_up(bench, &table))
    );
    relay.leaves(bench).await?;
    sent?;
    let verdict = history.check();
    ensure(verdict.is_clean(), || verdict.to_string())?;
    let Some(dead) = dead?? else { return skip("the dead letters cannot be listed") };
    let [dead] = &dead[..] else {
        return fail(format!("one row is unreadable, these were given up: {dead:?}"));
    };
    ensure_eq("its attempts", dead.attempts, 2)?;
    ensure(dead.error.contains("`headers`"), || format!("the column is not named: {}", dead.error))
}

/// The dead letters, as soon as there are some.
async fn given_up<S: StoreUnderTest>(
    bench: &Bench<'_, S>,
    table: &Table<S>,
) -> Checked<Option<Vec<DeadLetter>>> {
    loop {
        match bench.dead_letters(table).await? {
            Some(dead) if dead.is_empty() => time::sleep(Duration::from_millis(50)).await,
            dead => return Ok(dead),
        }
    }
}

async fn late<S: StoreUnderTest>(
    bench: &Bench<'_, S>,
    table: &Table<S>,
    recorder: &Arc<Recorder>,
    count: usize,
) -> Checked {
    for message in table.commit([event(Some("a"), "late")]).await? {
        recorder.committed(&message, 100);
    }
    recorder.until(count + 1, bench.settings.patience).await
}

/// What ends the process ends it again wherever the event goes next, until that is found out.
pub(super) async fn killed_by_event<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let (table, history) = (bench.open().await?, History::new());
    let recorder = Recorder::new(&history, bench.adapter.order_unit());
    let mut killer = None;
    for nth in 0..3 {
        let messages = ["a", "b", "c"].map(|key| event(Some(key), &nth.to_string()));
        for message in table.commit(messages).await? {
            match (message.key.as_deref(), nth) {
                (Some(b"b"), 1) => killer = Some(id(&message)),
                // It waits for what someone does about the one before it.
                (Some(b"b"), 2) => {}
                _ => recorder.committed(&message, nth),
            }
        }
    }
    let Some(killer) = killer else { return fail("nothing was committed") };
    recorder.ends_processes(killer);
    let mut kills = 0;
    let dead = loop {
        let relay = relay(&table, &recorder, bench.settings.lease / 2, "relay")?;
        tokio::select! {
            run = bench.bounded("sending the rest", relay.run_until_empty()) => run??,
            () = recorder.kills(kills + 1) => {
                kills += 1;
                ensure(kills <= 5, || "an event ended five processes, and was tried once more".to_owned())?;
                continue;
            }
        }
        // It may wait aside.
        match bench.dead_letters(&table).await? {
            None => return skip("the dead letters cannot be listed"),
            Some(dead) if !dead.is_empty() => break dead,
            Some(_) => time::sleep(Duration::from_millis(50)).await,
        }
    };
    ensure_eq("the dead letters", dead.iter().map(|dead| dead.event_id).collect::<Vec<_>>(), [killer])?;
    let verdict = history.check();
    ensure(verdict.is_clean(), || verdict.to_string())
}
