//! What operators ask for dead letters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cqrs_core::broker::{Capabilities, Confirm, SubscribeOptions, Subscription};
use cqrs_core::{BeginTransaction, BrokerError, ErrorClass, ErrorKind, Message, MessageBroker, Transaction};
use cqrs_outbox::{OutboxRelay, OutboxRow, Place};
use cqrs_outbox_diesel::{
    Asking, DeadLetter, DeadLetterFilter, Outbox, Page, RequestFilter, RequestKind, RequestOutcome,
};
use diesel_async::SimpleAsyncConnection;
use tokio::time::{sleep, timeout};

use crate::backend::{Db, PlainSql, Site};
use crate::dead_letters::{Owner, buried, letter};
use crate::events::{Sink, quick};
use crate::harness::{OnEach, Test, tests};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        let mut tests = tests!(requests<D> {
            what_is_taken_back_is_not_done,
            another_event_that_had_the_id_is_another_request,
            a_key_goes_again_in_order_before_what_is_written_meanwhile,
            what_is_due_does_not_pass_what_is_asked_for_before_it,
            a_lane_that_waits_goes_as_a_whole,
            a_lane_that_waits_for_many_goes_as_a_whole,
            a_lane_that_waits_goes_on_when_none_is_left,
            a_lane_that_is_held_up_holds_up_no_other,
            a_dry_run_asks_for_nothing,
            a_limit_is_kept_and_told,
            a_heartbeat_carries_out_a_part,
            large_ones_go_one_by_one,
            those_that_were_seen_are_meant,
            what_was_open_before_is_told,
            the_gone_ones_are_one_relays,
            what_became_of_each_is_kept,
            a_key_that_lives_on_stays_in_order,
            a_lane_goes_on_when_its_last_one_is_discarded,
            wrong_rates_are_refused,
        });
        if D::SERVICE.is_some() {
            tests.extend(tests!(requests<D> {
                what_takes_long_holds_up_no_heartbeat,
                what_is_held_is_passed_by,
                a_dead_letter_that_is_held_is_passed_by,
                only_the_owner_carries_out,
            }));
        }
        tests
    }
}

/// So slow that only the first is ever due.
const GLACIAL: f64 = 1e-6;

fn named(name: &str, key: &str) -> Message {
    letter("rooms", name, Some(key.as_bytes()))
}

fn key(key: &'static str) -> DeadLetterFilter {
    DeadLetterFilter::new().key(key)
}

fn all() -> DeadLetterFilter {
    DeadLetterFilter::new()
}

fn now() -> Asking {
    Asking::new()
}

fn names(rows: &[OutboxRow]) -> Vec<&str> {
    rows.iter().map(|row| &*row.message.name).collect()
}

async fn left<D: Db>(outbox: &Outbox<D>) -> Vec<DeadLetter> {
    outbox.dead_letters(&all(), Page::oldest_first()).await.unwrap()
}

async fn open<D: Db>(outbox: &Outbox<D>) -> usize {
    outbox.requests(&RequestFilter::new().open(), Page::oldest_first().limit(10_000)).await.unwrap().len()
}

async fn a_key_goes_again_in_order_before_what_is_written_meanwhile<D: Db>(site: &Site) {
    let messages = vec![named("a1", "a"), named("b1", "b"), named("a2", "a"), named("a3", "a")];
    let (outbox, owner) = buried::<D>(site, false, messages).await;
    let write = async |name: &str| {
        let message = named(name, "a");
        outbox.transaction(async move |tx| tx.publish(message).await).await.unwrap();
    };
    write("a4").await;
    let asked = outbox.replay_all(&key("a"), &now()).await.unwrap();
    assert_eq!((asked.letters.len(), asked.more), (3, false));
    write("a5").await;
    assert_eq!(names(&owner.parked().await), ["a1", "a2", "a3"]);
    write("a6").await;
    let rows = owner.read().await;
    assert_eq!(names(&rows), ["a4", "a5", "a6"]);
    assert!(rows.iter().all(|row| row.place == Place::Gated), "{rows:?}");
    let left = left(&outbox).await;
    assert_eq!(left.iter().map(|letter| &*letter.name).collect::<Vec<_>>(), ["b1"]);
    assert_eq!(open(&outbox).await, 0);
}

async fn what_is_due_does_not_pass_what_is_asked_for_before_it<D: Db>(site: &Site) {
    let messages = vec![named("b1", "b"), named("a1", "a"), named("a2", "a"), named("a3", "a")];
    let (outbox, owner) = buried::<D>(site, false, messages).await;
    // The first is due at once, the others in weeks.
    outbox.replay_all(&all(), &now().limit(2).rate(GLACIAL)).await.unwrap();
    let [_, a1, a2, a3] = left(&outbox).await.try_into().unwrap();
    outbox.replay(a2.event_id).await.unwrap();
    assert_eq!(names(&owner.parked().await), ["b1"]);
    assert_eq!(names(&owner.parked().await), ["b1"]);
    // A discard does not send anything.
    outbox.discard(a3.event_id).await.unwrap();
    assert_eq!(names(&owner.parked().await), ["b1"]);
    assert_eq!(left(&outbox).await.len(), 2);
    // Now it is due: they go, in their order.
    outbox.replay(a1.event_id).await.unwrap();
    assert_eq!(names(&owner.parked().await), ["b1", "a1", "a2"]);
    assert_eq!(open(&outbox).await, 0);
}

async fn a_lane_that_waits_goes_as_a_whole<D: Db>(site: &Site) {
    let (outbox, owner) = buried::<D>(site, true, vec![named("a1", "a"), named("a2", "a")]).await;
    outbox.transaction(async |tx| tx.publish(named("a3", "a")).await).await.unwrap();
    let asked = outbox.replay_all(&key("a"), &now().rate(GLACIAL)).await.unwrap();
    // With the first the gate would let the third go.
    assert!(owner.parked().await.is_empty());
    assert_eq!(owner.read().await[0].place, Place::Gated);
    assert_eq!(left(&outbox).await.len(), 1);
    // Whoever asks again has not to wait for what was asked before.
    outbox.replay(asked.letters[1].event_id).await.unwrap();
    assert_eq!(names(&owner.parked().await), ["a1", "a2"]);
}

/// More than a heartbeat carries out.
async fn a_lane_that_waits_for_many_goes_as_a_whole<D: Db>(site: &Site) {
    let messages = (0..20).map(|nth| named(&format!("a{nth}"), "a"));
    let (outbox, owner) = buried::<D>(site, true, messages.collect()).await;
    copy(&outbox, "1 = 1", 5).await;
    outbox.transaction(async |tx| tx.publish(named("later", "a")).await).await.unwrap();
    outbox.replay_all(&all(), &now()).await.unwrap();
    assert!(owner.parked().await.is_empty());
    assert_eq!(left(&outbox).await.len(), 100);
    assert_eq!(owner.parked().await.len(), 640);
    assert_eq!(owner.read().await[0].place, Place::Gated);
}

async fn a_lane_that_waits_goes_on_when_none_is_left<D: Db>(site: &Site) {
    use RequestKind::{Discard, Replay};
    for (first, second, due) in
        [(Replay, Replay, &["a1", "a2"][..]), (Replay, Discard, &["a1"]), (Discard, Replay, &["a2"])]
    {
        let messages = vec![named("a1", "a"), named("a2", "a"), named("b1", "b")];
        let (outbox, owner) = buried::<D>(site, true, messages).await;
        outbox.transaction(async |tx| tx.publish(named("a3", "a")).await).await.unwrap();
        let [a1, a2, _] = left(&outbox).await.try_into().unwrap();
        outbox.ask(first, &all().event_id(a1.event_id), &now()).await.unwrap();
        // Another lane's is none of its business.
        outbox.replay_all(&key("b"), &now()).await.unwrap();
        assert_eq!(names(&owner.parked().await), ["b1"]);
        assert_eq!(owner.read().await[0].place, Place::Gated);
        outbox.ask(second, &all().event_id(a2.event_id), &now()).await.unwrap();
        let parked = owner.parked().await;
        let of_a: Vec<_> = names(&parked).into_iter().filter(|name| name.starts_with('a')).collect();
        assert_eq!(of_a, due);
    }
    let (outbox, owner) = buried::<D>(site, true, vec![named("a1", "a"), named("a2", "a")]).await;
    let [a1, a2] = left(&outbox).await.try_into().unwrap();
    outbox.replay(a1.event_id).await.unwrap();
    outbox.discard(a2.event_id).await.unwrap();
    assert_eq!(names(&owner.parked().await), ["a1"]);
}

async fn a_lane_that_is_held_up_holds_up_no_other<D: Db>(site: &Site) {
    let mut messages = vec![named("x", "x")];
    messages.extend((0..50).map(|nth| named(&format!("a{nth}"), "a")));
    messages.push(named("b1", "b"));
    let (outbox, owner) = buried::<D>(site, false, messages).await;
    // More than a heartbeat looks at.
    copy(&outbox, "event_name LIKE 'a%'", 7).await;
    outbox.sql("UPDATE cqrs_outbox_dead SET id = 1000000 WHERE event_name = 'b1'").await.unwrap();
    // The first of them is due in weeks only.
    outbox.replay_all(&all(), &now().limit(2).rate(GLACIAL)).await.unwrap();
    let mut rest = outbox.replay_all(&key("a"), &now().limit(10_000).dry_run(true)).await.unwrap().letters;
    rest.remove(0);
    assert_eq!(rest.len(), 6_399);
    outbox.ask_for(RequestKind::Replay, &rest, &now()).await.unwrap();
    outbox.replay_all(&key("b"), &now()).await.unwrap();
    assert_eq!(names(&owner.parked().await), ["x", "b1"]);
    // What is to be dropped waits for nothing.
    outbox.discard_all(&key("a"), &now().limit(1)).await.unwrap();
    let first = left(&outbox).await.remove(0);
    owner.beat().await;
    assert!(left(&outbox).await[0].id > first.id);
}

/// Doubles these dead letters, and the doubles, so many times; their order stays.
pub(crate) async fn copy<D: Db>(outbox: &Outbox<D>, which: &str, times: u32) {
    let columns = "event_id, event_name, event_kind, event_version, topic, message_key, headers, content_type, payload, \
        payload_text, tombstone, occurred_at, attempts, size, slot, lane, error, errors, parked_at, dead_at";
    for nth in 0..times {
        let copy = format!(
            "INSERT INTO cqrs_outbox_dead (id, {columns}) SELECT id + {}, {columns} FROM cqrs_outbox_dead WHERE {which}",
            1_000 << nth
        );
        outbox.sql(&copy).await.unwrap();
    }
}

async fn a_dry_run_asks_for_nothing<D: Db>(site: &Site) {
    let (outbox, owner) = buried::<D>(site, true, vec![named("a1", "a"), named("b1", "b")]).await;
    let dry = now().dry_run(true);
    for asked in [outbox.replay_all(&all(), &dry).await, outbox.discard_all(&all(), &dry).await] {
        let asked = asked.unwrap();
        assert_eq!(asked.letters, left(&outbox).await);
    }
    assert_eq!(open(&outbox).await, 0);
    assert!(owner.parked().await.is_empty());
    assert_eq!(left(&outbox).await.len(), 2);
}

async fn a_limit_is_kept_and_told<D: Db>(site: &Site) {
    let messages = ["a", "b", "c"].map(|name| named(name, name)).to_vec();
    let (outbox, owner) = buried::<D>(site, false, messages).await;
    for (limit, asked_for, more) in [(0, 0, true), (2, 2, true), (2, 1, false), (3, 0, false)] {
        let asked = outbox.discard_all(&all(), &now().limit(limit)).await.unwrap();
        assert_eq!((asked.letters.len(), asked.more), (asked_for, more), "{limit}");
        owner.beat().await;
    }
    // More than one statement's worth.
    let many = (0..1_200).map(|nth| named("m", &nth.to_string()));
    let (outbox, _) = buried::<D>(site, false, many.collect()).await;
    assert_eq!(outbox.discard_all(&all(), &now()).await.unwrap().letters.len(), 1_000);
    assert!(outbox.discard_all(&all(), &now()).await.unwrap().more);
    let asked = outbox.replay_all(&all(), &now().limit(5_000).rate(10.0)).await.unwrap();
    assert_eq!((asked.letters.len(), asked.more), (1_200, false));
    let requests = outbox.requests(&RequestFilter::new(), Page::oldest_first().limit(10_000)).await.unwrap();
    let replays: Vec<_> = requests.iter().filter(|request| request.kind == RequestKind::Replay).collect();
    let spaced = |nth: usize| (replays[nth].not_before - replays[0].not_before).num_seconds();
    assert_eq!(replays.len(), 1_200);
    // Within what it takes to write them.
    assert!((9..=40).contains(&spaced(100)) && (119..=150).contains(&spaced(1_199)), "{replays:?}");
    assert!(replays.is_sorted_by_key(|request| request.not_before));
}

async fn a_heartbeat_carries_out_a_part<D: Db>(site: &Site) {
    let messages = (0..700).map(|nth| named(&format!("{nth:03}"), &(nth % 7).to_string()));
    let (outbox, owner) = buried::<D>(site, false, messages.collect()).await;
    outbox.replay_all(&all(), &now()).await.unwrap();
    let parked = owner.parked().await;
    assert_eq!((parked.len(), left(&outbox).await.len()), (500, 100));
    let oldest: Vec<String> = (0..500).map(|nth| format!("{nth:03}")).collect();
    assert_eq!(names(&parked), oldest);
    assert_eq!(owner.parked().await.len(), 700);
    assert_eq!(open(&outbox).await, 0);
}

async fn large_ones_go_one_by_one<D: Db>(site: &Site) {
    let messages = ["a", "b", "c"].map(|name| named(name, "a")).to_vec();
    let (outbox, owner) = buried::<D>(site, false, messages).await;
    outbox.sql("UPDATE cqrs_outbox_dead SET size = 20000000").await.unwrap();
    outbox.replay_all(&all(), &now()).await.unwrap();
    for wanted in [&["a"][..], &["a", "b"], &["a", "b", "c"]] {
        assert_eq!(names(&owner.parked().await), wanted);
    }
}

async fn those_that_were_seen_are_meant<D: Db>(site: &Site) {
    let messages = ["a", "b", "c"].map(|name| named(name, name)).to_vec();
    let (outbox, owner) = buried::<D>(site, false, messages).await;
    let mut seen = left(&outbox).await;
    seen.pop();
    outbox.discard(seen[0].event_id).await.unwrap();
    owner.beat().await;
    // The order of the list is no matter.
    seen.reverse();
    outbox.ask_for(RequestKind::Replay, &seen, &now().rate(GLACIAL)).await.unwrap();
    outbox.ask_for(RequestKind::Discard, &[], &now()).await.unwrap();
    let requests = outbox.requests(&RequestFilter::new().open(), Page::oldest_first()).await.unwrap();
    let asked: Vec<_> = requests.iter().map(|request| request.event_id).collect();
    assert_eq!(asked, [seen[1].event_id, seen[0].event_id]);
    owner.beat().await;
    let gone = outbox.requests(&RequestFilter::new().event_id(seen[1].event_id), Page::newest_first()).await;
    assert_eq!(gone.unwrap()[0].done.unwrap().1, RequestOutcome::Gone);
    assert_eq!(left(&outbox).await.len(), 2);
}

async fn what_was_open_before_is_told<D: Db>(site: &Site) {
    let messages = ["a", "b", "c"].map(|name| named(name, name)).to_vec();
    let (outbox, owner) = buried::<D>(site, false, messages).await;
    let asked = outbox.replay_all(&all(), &now().limit(2).rate(GLACIAL)).await.unwrap();
    assert_eq!(asked.open, []);
    let open = outbox.requests(&RequestFilter::new().open(), Page::oldest_first()).await.unwrap();
    for asking in [now().dry_run(true), now()] {
        let asked = outbox.discard_all(&key("b"), &asking).await.unwrap();
        assert_eq!(asked.open, open[1..]);
        assert_eq!(outbox.discard_all(&key("c"), &now().dry_run(true)).await.unwrap().open, []);
    }
    // What is done, or taken back, is not open; nor is what another event was asked for that had the id.
    owner.beat().await;
    outbox.cancel_requests(&RequestFilter::new()).await.unwrap();
    outbox.replay_all(&key("c"), &now().rate(GLACIAL)).await.unwrap();
    outbox.sql("UPDATE cqrs_outbox_request SET event_id = NULL WHERE done_at IS NULL").await.unwrap();
    assert_eq!(outbox.discard_all(&all(), &now()).await.unwrap().open, []);
}

/// No two heartbeats write the same request, and wait for each other.
async fn the_gone_ones_are_one_relays<D: Db>(site: &Site) {
    if D::SERVICE.is_none() {
        // It has one group only.
        return;
    }
    let (outbox, first) = buried::<D>(site, false, vec![named("a", "a")]).await;
    let leases = first.beat().await.leases;
    first.beat_and(0, leases.into_iter().filter(|lease| lease.group.0 == 0).collect()).await;
    outbox.replay_all(&all(), &now()).await.unwrap();
    outbox.sql("DELETE FROM cqrs_outbox_dead").await.unwrap();
    first.beat_and(0, Vec::new()).await;
    assert_eq!(open(&outbox).await, 1);
    let _second = Owner::new(&outbox).await;
    assert_eq!(open(&outbox).await, 0);
}

async fn what_became_of_each_is_kept<D: Db>(site: &Site) {
    let messages = ["a", "b", "c", "d"].map(|name| named(name, name)).to_vec();
    let (outbox, owner) = buried::<D>(site, true, messages).await;
    let ada = now().requested_by("ada");
    outbox.replay_all(&key("a"), &ada).await.unwrap();
    // The second word comes too late.
    outbox.discard_all(&key("a"), &now()).await.unwrap();
    outbox.discard_all(&key("b"), &ada).await.unwrap();
    outbox.replay_all(&key("b"), &ada).await.unwrap();
    outbox.replay_all(&key("c"), &ada).await.unwrap();
    outbox.sql("DELETE FROM cqrs_outbox_dead WHERE event_name = 'c'").await.unwrap();
    // A kind that this version does not know stays open, and harms nobody.
    outbox.sql("INSERT INTO cqrs_outbox_request (kind) VALUES ('rename')").await.unwrap();
    let listed = async |filter: RequestFilter, page: Page| outbox.requests(&filter, page).await.unwrap();
    assert!(listed(RequestFilter::new(), Page::oldest_first()).await.iter().all(|one| one.done.is_none()));
    owner.beat().await;

    let requests = listed(RequestFilter::new(), Page::oldest_first()).await;
    let outcomes: Vec<_> =
        requests.iter().map(|one| (one.kind, one.done.map(|(_, outcome)| outcome))).collect();
    use RequestKind::{Discard, Replay};
    use RequestOutcome::{Discarded, Gone, Replayed};
    assert_eq!(
        outcomes,
        [
            (Replay, Some(Replayed)),
            (Discard, Some(Replayed)),
            (Discard, Some(Discarded)),
            (Replay, Some(Discarded)),
            (Replay, Some(Gone)),
        ]
    );
    assert_eq!(requests[0].requested_by, "ada");
    assert_eq!(requests[1].requested_by.is_empty(), D::NAME == "sqlite");
    for request in &requests {
        let (done, _) = request.done.unwrap();
        // SQLite's times end with the millisecond.
        let slack = chrono::TimeDelta::milliseconds(1);
        assert!(request.requested_at <= done && request.not_before <= done + slack, "{request:?}");
    }
    assert_eq!(names(&owner.parked().await), ["a"]);
    assert_eq!(open(&outbox).await, 0);
    let about = listed(RequestFilter::new().event_id(requests[2].event_id), Page::newest_first()).await;
    assert_eq!(about, [requests[3].clone(), requests[2].clone()]);
    let page = Page::oldest_first().limit(2).after(requests[0].id);
    assert_eq!(listed(RequestFilter::new(), page).await, requests[1..3]);
}

async fn a_lane_goes_on_when_its_last_one_is_discarded<D: Db>(site: &Site) {
    let (outbox, owner) = buried::<D>(site, true, vec![named("a1", "a"), named("a2", "a")]).await;
    outbox.transaction(async |tx| tx.publish(named("a3", "a")).await).await.unwrap();
    outbox.discard_all(&key("a"), &now().rate(GLACIAL)).await.unwrap();
    assert_eq!(owner.read().await[0].place, Place::Gated);
    assert_eq!(left(&outbox).await.len(), 1);
    outbox.discard_all(&key("a"), &now()).await.unwrap();
    let rows = owner.read().await;
    assert_eq!((rows[0].place, rows[0].message.payload.clone()), (Place::Hot, Some(Bytes::from("{}"))));
    assert!(left(&outbox).await.is_empty());
}

/// With relays at work, two operators at once, and a writer that goes on.
async fn a_key_that_lives_on_stays_in_order<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let broker = Arc::new(Moody::default());
    let mut settings = quick();
    (settings.max_attempts, settings.heartbeat_interval) = (1, Duration::from_millis(200));
    let relays: Vec<_> = (0..2)
        .map(|_| {
            let relay = OutboxRelay::builder(D::store(&outbox), broker.clone()).settings(settings.clone());
            let relay = relay.build().unwrap();
            tokio::spawn(async move { relay.run_until(std::future::pending()).await })
        })
        .collect();
    let keys = ["a", "b", "c"];
    let write = async |nth: usize| {
        let events = keys.map(|key| named(&format!("{nth:03}"), key));
        outbox.transaction(async |tx| tx.publish_all(events).await).await.unwrap();
    };
    let until = async |what: &str, is_so: &(dyn Fn(usize, u64) -> bool + Sync)| {
        let so = async {
            loop {
                let dead = outbox.count_dead_letters(&all()).await.unwrap();
                let mut sent: Vec<_> =
                    broker.sink.messages().into_iter().map(|one| (one.key, one.name)).collect();
                sent.sort();
                // One may be sent again by a relay that takes over.
                sent.dedup();
                if is_so(sent.len(), dead) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), so).await.unwrap_or_else(|_| panic!("{what}"));
    };
    for nth in 0..5 {
        write(nth).await;
    }
    until("nothing is refused", &|_, dead| dead == 3).await;
    broker.is_well.store(true, Ordering::Relaxed);
    let operate = || async { outbox.replay_all(&all(), &now()).await.unwrap() };
    let writer = async {
        for nth in 5..40 {
            write(nth).await;
        }
    };
    tokio::join!(writer, operate(), operate());
    until("not all of it arrives", &|sent, dead| sent >= 120 && dead == 0).await;
    relays.iter().for_each(tokio::task::JoinHandle::abort);
    for key in keys {
        let sent =
            broker.sink.messages().into_iter().filter(|one| one.key.as_deref() == Some(key.as_bytes()));
        let mut sent: Vec<String> = sent.map(|message| message.name).collect();
        sent.dedup();
        assert_eq!(sent, (0..40).map(|nth| format!("{nth:03}")).collect::<Vec<_>>(), "{key}");
    }
}

/// A broker that refuses every event until it is well.
#[derive(Debug, Default)]
struct Moody {
    sink: Sink,
    is_well: AtomicBool,
}

#[async_trait]
impl MessageBroker for Moody {
    fn capabilities(&self) -> Capabilities {
        self.sink.capabilities()
    }

    async fn enqueue(&self, message: &Message) -> Result<Confirm, BrokerError> {
        if self.is_well.load(Ordering::Relaxed) {
            return self.sink.enqueue(message).await;
        }
        Err(BrokerError::new(ErrorClass::Event, "not today"))
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Box<dyn Subscription>, BrokerError> {
        self.sink.subscribe(options).await
    }

    async fn check(&self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), BrokerError> {
        Ok(())
    }
}

async fn wrong_rates_are_refused<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = outbox.replay_all(&all(), &now().rate(rate)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains(&rate.to_string()), "{error}");
    }
    let (outbox, _) = buried::<D>(site, false, vec![named("a", "a")]).await;
    let error = outbox.replay_all(&all(), &now().rate(1e-300)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("raise it"), "{error}");
    assert_eq!(open(&outbox).await, 0);
}

/// Returns when somebody of this database sleeps, or when nobody does any more.
async fn somebody_sleeps<D: Db>(outbox: &Outbox<D>, sleeps: bool) {
    let sleeping = if D::NAME == "postgres" {
        "SELECT CAST(count(*) AS text) AS value FROM pg_stat_activity \
         WHERE application_name = current_setting('application_name') AND wait_event = 'PgSleep'"
    } else {
        "SELECT CAST(count(*) AS text) AS value FROM information_schema.processlist \
         WHERE db = database() AND state = 'User sleep'"
    };
    while (outbox.values(sleeping).await != ["0"]) != sleeps {
        sleep(Duration::from_millis(20)).await;
    }
}

/// A trigger of somebody's, which takes its time. All of it at once takes more than a heartbeat has; a part of it goes with each.
async fn what_takes_long_holds_up_no_heartbeat<D: Db>(site: &Site) {
    let messages = (0..4).map(|nth| named("m", &nth.to_string())).collect();
    let (outbox, owner) = buried::<D>(site, false, messages).await;
    outbox.discard_all(&all(), &now()).await.unwrap();
    let slow = match D::NAME {
        "postgres" => {
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.7); RETURN OLD; END $$; \
             CREATE TRIGGER slow BEFORE DELETE ON cqrs_outbox_dead FOR EACH ROW EXECUTE FUNCTION slow()"
        }
        _ => "CREATE TRIGGER slow BEFORE DELETE ON cqrs_outbox_dead FOR EACH ROW SET @slept = SLEEP(0.7)",
    };
    outbox.sql(slow).await.unwrap();
    let owner = Arc::new(owner);
    let beating = tokio::spawn({
        let owner = Arc::clone(&owner);
        async move { owner.beat().await.leases.len() }
    });
    timeout(Duration::from_secs(30), somebody_sleeps(&outbox, true)).await.expect("nothing is carried out");
    // It has renewed its leases by now, and what it sends with suspicion can be recorded.
    owner.record_suspects(&[1]).await;
    assert!(!beating.is_finished(), "it waited for what is carried out");
    // It fails, and that costs no lease.
    assert_eq!(beating.await.unwrap(), 64);
    assert_eq!(open(&outbox).await, 4);
    for _ in 0..20 {
        if open(&outbox).await == 0 {
            break;
        }
        // As long as a server goes on with what was given up, it holds the leases' rows; a relay comes back later than this.
        somebody_sleeps(&outbox, false).await;
        assert_eq!(owner.beat().await.leases.len(), 64);
    }
    assert_eq!((open(&outbox).await, left(&outbox).await.len()), (0, 0));
}

/// A request that somebody takes back, or only looks at, for however long.
async fn what_is_held_is_passed_by<D: Db>(site: &Site) {
    let messages = vec![named("a1", "a"), named("a2", "a"), named("b1", "b"), named("c1", "c")];
    let (outbox, owner) = buried::<D>(site, false, messages).await;
    outbox.replay_all(&all(), &now()).await.unwrap();
    let a1 = outbox.requests(&RequestFilter::new(), Page::oldest_first()).await.unwrap().remove(0);
    let mut other = outbox.begin().await.unwrap();
    let hold = format!("SELECT * FROM cqrs_outbox_request WHERE id = {} FOR UPDATE", a1.id);
    other.batch_execute(&hold).await.unwrap();
    // What is behind it in its lane waits with it.
    assert_eq!(names(&owner.parked().await), ["b1", "c1"]);
    assert_eq!(open(&outbox).await, 2);
    other.rollback().await.unwrap();
    assert_eq!(names(&owner.parked().await), ["a1", "a2", "b1", "c1"]);

    // What has been taken back by then is not done.
    let (outbox, owner) = buried::<D>(site, true, vec![named("a", "a")]).await;
    outbox.discard_all(&all(), &now()).await.unwrap();
    let mut tx = outbox.begin().await.unwrap();
    let at = if D::NAME == "postgres" { "clock_timestamp()" } else { "utc_timestamp(6)" };
    let cancel = format!("UPDATE cqrs_outbox_request SET outcome = 'cancelled', done_at = {at}");
    tx.batch_execute(&cancel).await.unwrap();
    owner.beat().await;
    tx.commit().await.unwrap();
    owner.beat().await;
    assert_eq!(left(&outbox).await.len(), 1);
    let requests = outbox.requests(&RequestFilter::new(), Page::oldest_first()).await.unwrap();
    assert_eq!(requests[0].done.unwrap().1, RequestOutcome::Cancelled);
}

async fn a_dead_letter_that_is_held_is_passed_by<D: Db>(site: &Site) {
    let mut messages = vec![named("a1", "a"), named("a2", "a"), named("b1", "b")];
    messages.extend((0..600).map(|_| named("more", "a")));
    messages.push(named("c1", "c"));
    let (outbox, owner) = buried::<D>(site, false, messages).await;
    outbox.replay_all(&all(), &now()).await.unwrap();
    let a1 = left(&outbox).await.remove(0);
    let [b1] = outbox.dead_letters(&key("b"), Page::oldest_first()).await.unwrap().try_into().unwrap();
    outbox.discard(b1.event_id).await.unwrap();
    let mut other = outbox.begin().await.unwrap();
    let hold = format!("SELECT * FROM cqrs_outbox_dead WHERE id IN ({}, {}) FOR UPDATE", a1.id, b1.id);
    other.batch_execute(&hold).await.unwrap();
    // More than a heartbeat carries out waits behind the first; it keeps no other lane waiting. What was asked for first is first.
    assert_eq!(names(&owner.parked().await), ["c1"]);
    assert_eq!(outbox.count_dead_letters(&all()).await.unwrap(), 603);
    other.rollback().await.unwrap();
    assert_eq!(names(&owner.parked().await)[..4], ["a1", "a2", "b1", "more"]);
}

/// The request of one that has gone, or is to come back, is not answered by what becomes of the next one with its id.
async fn another_event_that_had_the_id_is_another_request<D: Db>(site: &Site) {
    let (outbox, owner) =
        buried::<D>(site, false, vec![named("x", "x"), named("a1", "a"), named("a2", "a")]).await;
    let [_, a1, a2] = left(&outbox).await.try_into().unwrap();
    let ask = async |time: &str| {
        let lane = if D::NAME == "postgres" { "'\\x6b61'" } else { "x'6b61'" };
        let event = uuid::Uuid::new_v4();
        let insert = format!(
            "INSERT INTO cqrs_outbox_request (kind, event_id, dead_id, lane, not_before) \
             VALUES ('replay', '{event}', {}, {lane}, {time})",
            a1.id
        );
        outbox.sql(&insert).await.unwrap();
    };
    let (past, future) = if D::NAME == "sqlite" { ("1", "1e10") } else { ("'2020-01-01'", "'2220-01-01'") };
    // One in weeks; that another one with its id is due does not make it so.
    outbox.replay_all(&all(), &now().limit(2).rate(GLACIAL)).await.unwrap();
    ask(past).await;
    outbox.replay(a2.event_id).await.unwrap();
    assert_eq!(names(&owner.parked().await), ["x"]);
    assert_eq!(left(&outbox).await.len(), 2);
    ask(future).await;
    outbox.replay(a1.event_id).await.unwrap();
    assert_eq!(names(&owner.parked().await), ["x", "a1"]);
    // The one in centuries is open, and holds up what it may be asked for before.
    assert_eq!(open(&outbox).await, 2);
}

async fn only_the_owner_carries_out<D: Db>(site: &Site) {
    let (outbox, owner) = buried::<D>(site, false, vec![named("a", "a")]).await;
    outbox.discard_all(&all(), &now()).await.unwrap();
    // Whoever reads the requests waits; by then it has its leases.
    let mut lock = outbox.connection().await.unwrap();
    let (take, release) = match D::NAME {
        "postgres" => ("BEGIN; LOCK TABLE cqrs_outbox_request", "COMMIT"),
        _ => ("LOCK TABLES cqrs_outbox_request WRITE", "UNLOCK TABLES"),
    };
    lock.batch_execute(take).await.unwrap();
    let beating = tokio::spawn(async move {
        owner.beat().await;
        owner
    });
    outbox.is_waited_for(&beating).await;
    // Another one takes over.
    outbox.sql("UPDATE cqrs_outbox_group SET epoch = epoch + 1").await.unwrap();
    lock.batch_execute(release).await.unwrap();
    let owner = beating.await.unwrap();
    assert_eq!((open(&outbox).await, left(&outbox).await.len()), (1, 1));
    owner.beat().await;
    assert_eq!((open(&outbox).await, left(&outbox).await.len()), (0, 0));
}

async fn what_is_taken_back_is_not_done<D: Db>(site: &Site) {
    let messages = ["a", "b"].map(|name| letter("rooms", name, Some(name.as_bytes()))).to_vec();
    let (outbox, owner) = buried::<D>(site, true, messages).await;
    outbox.replay_all(&all(), &Asking::new()).await.unwrap();
    outbox.discard_all(&all(), &Asking::new()).await.unwrap();
    let requests = outbox.requests(&RequestFilter::new(), Page::oldest_first()).await.unwrap();
    assert_eq!(requests.len(), 4);
    // Of `a` the replay, of `b` both.
    assert_eq!(outbox.cancel_requests(&RequestFilter::new().id(requests[0].id)).await.unwrap(), 1);
    let about_b = RequestFilter::new().event_id(requests[1].event_id);
    assert_eq!(outbox.cancel_requests(&about_b).await.unwrap(), 2);
    assert_eq!(outbox.cancel_requests(&about_b).await.unwrap(), 0);
    owner.beat().await;
    let left = outbox.dead_letters(&all(), Page::oldest_first()).await.unwrap();
    assert_eq!(left.iter().map(|letter| letter.event_id).collect::<Vec<_>>(), [requests[1].event_id]);
    let requests = outbox.requests(&RequestFilter::new(), Page::oldest_first()).await.unwrap();
    let outcomes: Vec<_> = requests.iter().map(|request| request.done.map(|(_, outcome)| outcome)).collect();
    let [cancelled, discarded] = [RequestOutcome::Cancelled, RequestOutcome::Discarded].map(Some);
    assert_eq!(outcomes, [cancelled, cancelled, discarded, cancelled]);
}
