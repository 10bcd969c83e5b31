//! What operators ask for dead letters.

use bytes::Bytes;
use cqrs_core::{ErrorKind, Message};
use cqrs_outbox::{OutboxRow, Place};
use cqrs_outbox_diesel::{
    Asking, DeadLetter, DeadLetterFilter, Outbox, Page, RequestFilter, RequestKind, RequestOutcome,
};

use crate::backend::{Db, PlainSql, Site};
use crate::dead_letters::{buried, letter};
use crate::harness::{OnEach, Test, tests};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        tests!(requests<D> {
            a_key_goes_again_in_order_before_what_is_written_meanwhile,
            what_is_due_does_not_pass_what_is_asked_for_before_it,
            a_lane_that_waits_goes_as_a_whole,
            a_lane_that_is_held_up_holds_up_no_other,
            a_dry_run_asks_for_nothing,
            a_limit_is_kept_and_told,
            a_heartbeat_carries_out_a_part,
            large_ones_go_one_by_one,
            what_became_of_each_is_kept,
            a_lane_goes_on_when_its_last_one_is_discarded,
            wrong_rates_are_refused,
        })
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
    // Whoever asks again has not to wait for what was asked before.
    outbox.replay(asked.letters[1].event_id).await.unwrap();
    assert_eq!(names(&owner.parked().await), ["a1", "a2"]);
}

async fn a_lane_that_is_held_up_holds_up_no_other<D: Db>(site: &Site) {
    let mut messages = vec![named("x", "x")];
    messages.extend((0..600).map(|nth| named(&format!("a{nth}"), "a")));
    messages.push(named("b1", "b"));
    let (outbox, owner) = buried::<D>(site, false, messages).await;
    outbox.replay_all(&all(), &now().limit(2).rate(GLACIAL)).await.unwrap();
    outbox.replay_all(&all().name("b1"), &now()).await.unwrap();
    let rest = outbox.replay_all(&key("a"), &now()).await.unwrap();
    assert_eq!(rest.letters.len(), 600);
    let first = rest.letters[0].event_id;
    // The first of them is asked for in weeks only, if nobody asks again.
    let taken_back = format!("DELETE FROM cqrs_outbox_request WHERE event_id = '{first}' AND id > 2");
    outbox.sql(&taken_back).await.unwrap();
    assert_eq!(names(&owner.parked().await), ["x", "b1"]);
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
    outbox.sql("INSERT INTO cqrs_outbox_request (kind) VALUES ('edit')").await.unwrap();
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

async fn wrong_rates_are_refused<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = outbox.replay_all(&all(), &now().rate(rate)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains(&rate.to_string()), "{error}");
    }
}
