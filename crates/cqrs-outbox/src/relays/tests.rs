use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cqrs_core::broker::memory::MemoryBroker;
use cqrs_core::{ErrorKind, Message};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::Level;
use tracing::subscriber::DefaultGuard;
use uuid::Uuid;

use super::{Relays, RelaysFailed};
use crate::{
    Confirmed, Fenced, Heartbeat, Kept, Lane, LaterEvents, Lease, MemoryOutbox, OutboxRelay, OutboxRow,
    OutboxStore, Ownership, ReadRequest, Rejection, RelayId, RelaySettings, Retention, StoreError,
    StoreErrorKind,
};

#[derive(Clone, Copy, Debug)]
enum State {
    Well,
    /// An operator has stopped all relaying.
    OnHold,
    Away,
    WithoutTables,
    /// The password is another one.
    Refusing,
    /// Tables of a version that this relay must not touch, which only a look at them shows.
    TooNew,
    /// A driver with a bug.
    Panicking,
}

/// An outbox in memory whose database can be in a bad state.
#[derive(Clone, Debug)]
struct Site {
    outbox: MemoryOutbox,
    state: Arc<Mutex<State>>,
}

impl Site {
    fn new(state: State) -> Self {
        Self { outbox: MemoryOutbox::new(), state: Arc::new(Mutex::new(state)) }
    }

    fn becomes(&self, state: State) {
        *self.state.lock().unwrap() = state;
    }

    fn answers(&self) -> Result<(), StoreError> {
        let state = *self.state.lock().unwrap();
        match state {
            State::Well | State::OnHold | State::TooNew => Ok(()),
            State::Away => Err(StoreError::new(StoreErrorKind::Unavailable, "away")),
            State::WithoutTables => Err(StoreError::new(StoreErrorKind::Schema, "no tables")),
            State::Refusing => Err(StoreError::new(StoreErrorKind::Configuration, "refused")),
            State::Panicking => panic!("a bug"),
        }
    }

    fn add(&self) {
        let mut message = Message::new("rooms", "{}");
        message.id = Some(Uuid::new_v4().into());
        message.name = "room_closed".to_owned();
        self.outbox.add(message).unwrap();
    }

    /// Until nothing waits here; the first relay that takes the groups of one that died waits for its leases.
    async fn drained(&self) {
        at_last("it is drained", || (self.outbox.waiting() == 0).then_some(())).await
    }
}

#[async_trait]
impl OutboxStore for Site {
    async fn check(&self) -> Result<(), StoreError> {
        if matches!(*self.state.lock().unwrap(), State::TooNew) {
            return Err(StoreError::new(StoreErrorKind::Schema, "too new"));
        }
        self.answers()
    }

    async fn heartbeat(&self, relay: &RelayId, heartbeat: &Heartbeat) -> Result<Ownership, StoreError> {
        self.answers()?;
        let mut ownership = self.outbox.heartbeat(relay, heartbeat).await?;
        ownership.hold = matches!(*self.state.lock().unwrap(), State::OnHold);
        Ok(ownership)
    }

    async fn read(&self, request: &ReadRequest) -> Result<Vec<OutboxRow>, StoreError> {
        self.answers()?;
        self.outbox.read(request).await
    }

    async fn read_parked(&self, request: &ReadRequest) -> Result<Vec<OutboxRow>, StoreError> {
        self.outbox.read_parked(request).await
    }

    async fn settle(&self, confirmed: &[Confirmed]) -> Result<(), StoreError> {
        self.outbox.settle(confirmed).await
    }

    async fn reject(&self, rejection: &Rejection) -> Result<Fenced<()>, StoreError> {
        self.outbox.reject(rejection).await
    }

    async fn set_aside(
        &self,
        lease: Lease,
        lane: &Lane,
        ids: &[i64],
        later: LaterEvents,
    ) -> Result<Fenced<bool>, StoreError> {
        self.outbox.set_aside(lease, lane, ids, later).await
    }

    async fn open_gate(&self, lease: Lease, lane: &Lane) -> Result<Fenced<bool>, StoreError> {
        self.outbox.open_gate(lease, lane).await
    }

    async fn purge(&self, _: Kept, _: Duration) -> Result<u64, StoreError> {
        self.answers().map(|()| 0)
    }

    async fn leave(&self, relay: &RelayId) -> Result<(), StoreError> {
        self.outbox.leave(relay).await
    }
}

fn relays(sites: &[(&str, &Site)]) -> Relays {
    let broker = Arc::new(MemoryBroker::new());
    Relays::new(sites.iter().map(|(name, site)| {
        let site = Arc::new((*site).clone());
        OutboxRelay::builder(site, broker.clone()).database(*name).build().unwrap()
    }))
    .unwrap()
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// As long as the guard lives.
    fn listen(&self) -> DefaultGuard {
        self.listen_from(Level::WARN)
    }

    fn listen_from(&self, level: Level) -> DefaultGuard {
        let log = self.clone();
        let format = tracing_subscriber::fmt().with_ansi(false).with_max_level(level);
        tracing::subscriber::set_default(format.with_writer(move || log.clone()).finish())
    }

    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
    }

    /// The lines with these words, of which there has to be one.
    #[track_caller]
    fn with(&self, words: &str) -> Vec<String> {
        let mut lines = self.lines();
        lines.retain(|line| line.contains(words));
        assert!(!lines.is_empty(), "{words:?} is not in {:#?}", self.lines());
        lines
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Until it is so, by a clock that does not tick.
async fn at_last<T>(what: &str, is_so: impl Fn() -> Option<T>) -> T {
    let waiting = async {
        loop {
            match is_so() {
                Some(found) => return found,
                None => sleep(Duration::from_millis(1)).await,
            }
        }
    };
    timeout(Duration::from_secs(600), waiting).await.expect(what)
}

/// Until the relay of that database does not go on, or does.
async fn fails(relays: &Relays, database: &str, fails: bool) -> Option<String> {
    at_last("it fails, or not", || {
        let stats = relays.stats();
        let failure = stats.iter().find(|stats| stats.database == database).unwrap().failure.clone();
        (failure.is_some() == fails).then_some(failure)
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn each_database_is_relayed_from() {
    let [orders, shop] = [Site::new(State::Well), Site::new(State::Well)];
    let relays = relays(&[("orders", &orders), ("shop", &shop)]);
    for _ in 0..2 {
        orders.add();
        shop.add();
        shop.add();
        relays.run_until_empty().await.unwrap();
        let settled =
            relays.stats().iter().map(|stats| (stats.database, stats.stats.settled)).collect::<Vec<_>>();
        assert_eq!(settled, [("orders", 1), ("shop", 2)]);
    }
    orders.add();
    let drained = async {
        orders.drained().await;
        for relay in relays.iter() {
            relay.started().await;
        }
    };
    relays.run_until(drained).await.unwrap();
}

/// By a missing migration, and by a bug in a driver. A database that is away ends nothing.
#[tokio::test(start_paused = true)]
async fn one_that_cannot_go_on_is_told_and_tried_again_and_the_others_go_on() {
    for (state, said) in
        [(State::WithoutTables, "no tables"), (State::Panicking, "the relay panicked: a bug")]
    {
        let [orders, shop] = [Site::new(State::Well), Site::new(state)];
        let relays = relays(&[("orders", &orders), ("shop", &shop)]);
        let course = async {
            assert!(fails(&relays, "shop", true).await.unwrap().contains(said));
            shop.add();
            orders.add();
            orders.drained().await;
            // In the midst of its work, too.
            shop.becomes(State::Well);
            assert_eq!(fails(&relays, "shop", false).await, None);
            shop.drained().await;
            shop.becomes(state);
            assert!(fails(&relays, "shop", true).await.unwrap().contains(said));
            orders.add();
            orders.drained().await;
            shop.add();
            shop.becomes(State::Well);
            shop.drained().await;
            fails(&relays, "shop", false).await;
        };
        relays.run_until(course).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_stands_still_at_the_stop_is_told() {
    let [orders, shop] = [Site::new(State::Well), Site::new(State::WithoutTables)];
    let relays = relays(&[("orders", &orders), ("shop", &shop)]);
    let error = relays.run_until(async { drop(fails(&relays, "shop", true).await) }).await.unwrap_err();
    let failed: Vec<_> =
        error.downcast_ref::<RelaysFailed>().unwrap().failures().map(|(name, _)| name).collect();
    assert_eq!(failed, ["shop"]);
    assert_eq!(error.to_string(), "the relay of shop cannot go on: no tables");
}

#[tokio::test(start_paused = true)]
async fn when_none_can_go_on_all_end_with_what_ended_each() {
    let [orders, shop] = [Site::new(State::Well), Site::new(State::Panicking)];
    let relays = relays(&[("orders", &orders), ("shop", &shop)]);
    let course = async {
        fails(&relays, "shop", true).await;
        orders.becomes(State::WithoutTables);
    };
    let (ended, ()) = tokio::join!(relays.run_until(std::future::pending()), course);
    let error = ended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store, "{error}");
    let failed = error.downcast_ref::<RelaysFailed>().unwrap();
    let failed: Vec<_> = failed.failures().map(|(name, error)| (name, error.kind())).collect();
    assert_eq!(failed, [("orders", ErrorKind::Store), ("shop", ErrorKind::Handler)]);
    assert!(error.to_string().contains("orders cannot go on: no tables; the relay of shop"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn until_empty_the_others_come_to_their_end() {
    let [orders, shop] = [Site::new(State::WithoutTables), Site::new(State::Well)];
    shop.add();
    let error = relays(&[("orders", &orders), ("shop", &shop)]).run_until_empty().await.unwrap_err();
    assert_eq!(error.to_string(), "the relay of orders cannot go on: no tables");
    assert_eq!(shop.outbox.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn until_empty_it_is_told_which_is() {
    let log = Log::default();
    let _guard = log.listen_from(Level::INFO);
    let [orders, shop] = [Site::new(State::Well), Site::new(State::Away)];
    shop.add();
    let relays = relays(&[("orders", &orders), ("shop", &shop)]);
    let (ended, ()) = tokio::join!(relays.run_until_empty(), async {
        sleep(Duration::from_secs(60)).await;
        shop.becomes(State::Well);
    });
    ended.unwrap();
    let lines = log.with("nothing waits in this database any more");
    assert!(
        lines.len() == 1 && lines[0].contains("database=\"orders\""),
        "the last needs no word: {lines:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_away_at_the_start_is_looked_at_when_it_is_there() {
    let [orders, shop] = [Site::new(State::Well), Site::new(State::Away)];
    let relays = relays(&[("orders", &orders), ("shop", &shop)]);
    let course = async {
        orders.add();
        orders.drained().await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(relays.stats()[1].failure, None, "it waits");
        shop.becomes(State::TooNew);
        fails(&relays, "shop", true).await;
        shop.becomes(State::Well);
        fails(&relays, "shop", false).await;
    };
    relays.run_until(course).await.unwrap();
    // A stop is heard meanwhile.
    shop.becomes(State::Away);
    relays.run_until(sleep(Duration::from_secs(1))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_alone_ends_as_it_does_by_itself() {
    let site = Site::new(State::WithoutTables);
    let error = relays(&[("orders", &site)]).run_until(std::future::pending()).await.unwrap_err();
    assert_eq!(error.downcast_ref::<StoreError>().unwrap().kind(), StoreErrorKind::Schema);
}

/// So a wrong URL is told at once, and a password that is changed is no reason to end.
#[tokio::test(start_paused = true)]
async fn a_login_that_is_refused_ends_a_relay_only_if_it_was_never_accepted() {
    let [orders, shop] = [Site::new(State::Refusing), Site::new(State::Well)];
    let alone = relays(&[("orders", &orders)]);
    let error = alone.run_until(std::future::pending()).await.unwrap_err();
    assert_eq!(error.downcast_ref::<StoreError>().unwrap().kind(), StoreErrorKind::Configuration);
    // It comes up, and refuses.
    for without_company in [false, true] {
        orders.becomes(State::Away);
        let running = async {
            match without_company {
                true => alone.iter().next().unwrap().run_until(std::future::pending()).await,
                false => alone.run_until(std::future::pending()).await,
            }
        };
        let course = async {
            sleep(Duration::from_secs(60)).await;
            orders.becomes(State::Refusing);
        };
        let (ended, ()) = tokio::join!(timeout(Duration::from_secs(600), running), course);
        ended.expect("it goes on").unwrap_err();
    }

    let both = relays(&[("orders", &orders), ("shop", &shop)]);
    let course = async {
        assert!(fails(&both, "orders", true).await.unwrap().contains("refused"));
        orders.becomes(State::Well);
        fails(&both, "orders", false).await;
        for _ in 0..2 {
            orders.becomes(State::Refusing);
            orders.add();
            sleep(Duration::from_secs(60)).await;
            assert_eq!((orders.outbox.waiting(), both.stats()[0].failure.clone()), (1, None));
            orders.becomes(State::Well);
            orders.drained().await;
        }
    };
    both.run_until(course).await.unwrap();
}

/// Like a crash.
#[tokio::test(start_paused = true)]
async fn none_runs_on_when_the_run_is_dropped() {
    let site = Site::new(State::Well);
    let relays = relays(&[("orders", &site)]);
    let started = Notify::new();
    tokio::select! {
        ended = relays.run_until(std::future::pending()) => panic!("{ended:?}"),
        () = async { relays.iter().next().unwrap().started().await; started.notify_one() } => {}
    }
    while Arc::strong_count(&relays.members[0]) > 1 {
        tokio::task::yield_now().await;
    }
    site.add();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(site.outbox.waiting(), 1);
}

#[tokio::test(start_paused = true)]
async fn each_line_of_the_log_says_whose_it_is_and_what_becomes_of_an_event() {
    let (log, site) = (Log::default(), Site::new(State::Well));
    let _guard = log.listen();
    let broker = Arc::new(MemoryBroker::builder().max_message_bytes(100).build());
    let settings =
        RelaySettings { max_attempts: 2, backoff: Duration::from_secs(2), ..RelaySettings::default() };
    let relay = OutboxRelay::builder(Arc::new(site.clone()), broker).settings(settings).database("orders");
    let relays = Relays::new([relay.build().unwrap()]).unwrap();
    for key in [Some(&b"r\xc3\xb6m 5"[..]), Some(b"\x00\xff"), None] {
        let mut message = Message::new("rooms", vec![b'.'; 200]);
        message.id = Some(Uuid::new_v4().into());
        message.name = "room_closed".to_owned();
        message.key = key.map(Into::into);
        site.outbox.add(message).unwrap();
    }
    let course = async {
        at_last("all are dead", || (site.outbox.dead_letters().len() == 3).then_some(())).await;
        site.becomes(State::OnHold);
        at_last("it is on hold", || relays.stats()[0].stats.hold.then_some(())).await;
        site.becomes(State::Away);
        at_last("it is told", || log.lines().iter().any(|line| line.contains("removed")).then_some(())).await;
    };
    let retention = Retention::default();
    tokio::select! {
        ended = relays.run_until(course) => ended.unwrap(),
        _ = relays.purge_for_ever(&retention) => {}
    }
    let all = log.lines();
    assert!(all.iter().all(|line| line.contains("database=\"orders\"")), "{all:#?}");
    for words in ["a publish failed", "is on hold", "the outbox's database failed", "cannot be removed"] {
        log.with(words);
    }
    let (aside, given_up) = (log.with("an event was put aside"), log.with("an event was given up"));
    for (lines, then) in [(&aside, "then=\"tried again in 2s\""), (&given_up, "then=\"into the dead letters")]
    {
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.contains(then)), "{lines:#?}");
        for key in ["key=\"röm 5\"", "key=\"hex:00ff\""] {
            assert!(lines.iter().any(|line| line.contains(key)), "{key}: {lines:#?}");
        }
    }
    // Nothing comes behind an event without a key.
    let waits = given_up.iter().filter(|line| line.contains("the later events of its key wait"));
    assert_eq!(waits.count(), 2, "{given_up:#?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_database_is_told_by_its_relay_alone() {
    let (log, site) = (Log::default(), Site::new(State::WithoutTables));
    let _guard = log.listen();
    let relays = relays(&[("orders", &site)]);
    let retention = Retention::default();
    tokio::select! {
        // Who purges is asked first.
        biased;
        _ = relays.purge_for_ever(&retention) => {}
        ended = relays.run_until(std::future::pending()) => drop(ended.unwrap_err()),
    }
    assert_eq!(log.lines(), [""; 0], "its error is what the caller has");
    // Who waits for a broker that is away keeps nothing for that.
    let pause = retention.pause();
    let purging = timeout(pause - Duration::from_secs(1), relays.purge_for_ever(&retention));
    assert!(purging.await.is_err() && log.lines().is_empty());
    let purging = timeout(pause + Duration::from_secs(1), relays.purge_for_ever(&retention));
    assert!(purging.await.is_err() && !log.with("cannot be removed").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_hold_is_told_once_in_each_run_and_its_end_when_it_ends() {
    let (log, site) = (Log::default(), Site::new(State::OnHold));
    let _guard = log.listen();
    let relays = relays(&[("orders", &site)]);
    let is_held = |held: bool| {
        let relays = &relays;
        async move {
            relays.iter().next().unwrap().started().await;
            at_last("it knows", || (relays.stats()[0].stats.hold == held).then_some(())).await
        }
    };
    for _ in 0..2 {
        relays.run_until(is_held(true)).await.unwrap();
    }
    assert_eq!((log.with("is on hold").len(), log.lines().len()), (2, 2), "{:#?}", log.lines());
    let course = async {
        is_held(true).await;
        site.becomes(State::Well);
        is_held(false).await;
    };
    relays.run_until(course).await.unwrap();
    assert_eq!((log.with("has ended").len(), log.lines().len()), (1, 4), "{:#?}", log.lines());
}

#[test]
fn databases_that_nobody_could_tell_apart_are_refused() {
    let relay = |name: &str| {
        OutboxRelay::builder(Arc::new(MemoryOutbox::new()), Arc::new(MemoryBroker::new()))
            .database(name)
            .build()
            .unwrap()
    };
    let error = Relays::new([relay("orders"), relay("shop"), relay("orders")]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("`orders`"), "{error}");
    let error = Relays::new([]).unwrap_err();
    assert!(error.to_string().contains("no database"), "{error}");
}
