//! What is in order, as the tables say it. That it is so is shown by the suite, which runs with both.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cqrs_core::broker::{
    BrokerError, Capabilities, Confirm, ErrorClass, MessageBroker, SubscribeOptions, Subscription,
};
use cqrs_core::{BeginTransaction, ErrorKind, Message, Transaction};
use cqrs_outbox::{
    Fenced, Heartbeat, LaterEvents, OutboxRelay, OutboxRow, ReadRequest, Rejection, RelayId, Relays,
    StoreError, StoreErrorKind, Verdict,
};
use cqrs_outbox_diesel::{Asking, DeadLetterFilter, OrderUnit, Outbox, Page};
use diesel_async::SimpleAsyncConnection;
use futures_util::FutureExt;
use tokio::time::timeout;
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site};
use crate::dead_letters::{Owner, letter};
use crate::events::{Sink, quick};
use crate::harness::{OnEach, Test, tests};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        tests!(order_unit<D> {
            it_changes_only_while_nobody_goes_by_it,
            it_waits_for_who_takes_a_lease,
            a_relay_that_has_overslept_parks_nothing_by_the_old_one,
            a_relay_ends_when_it_is_another_one,
            however_a_run_ends_the_next_goes_by_the_new_one,
            one_of_several_relays_goes_on_by_the_new_one,
            a_unit_that_is_none_is_refused_by_the_table,
            it_is_known_again_when_its_row_was_lost,
            the_longest_topic_and_key_have_a_lane,
            dead_letters_are_found_by_key_in_any_lane,
        })
    }
}

const SOON: Duration = Duration::from_secs(20);

async fn by_topic<D: Db>(site: &Site) -> Outbox<D> {
    let outbox = site.outbox::<D>().await;
    outbox.set_order_unit(OrderUnit::TopicAndKey).await.unwrap();
    outbox
}

async fn write<D: Db>(outbox: &Outbox<D>, topic: &str, name: &str, key: Option<&[u8]>) {
    outbox.transaction(async |tx| tx.publish(letter(topic, name, key)).await).await.unwrap();
}

fn refuse(request: &ReadRequest, row: &OutboxRow, verdict: Verdict) -> Rejection {
    Rejection {
        lease: *request.leases.iter().find(|lease| lease.group == row.group).unwrap(),
        id: row.id,
        lane: row.lane.clone(),
        attempts: row.attempts + 1,
        error: "refused".to_owned(),
        verdict,
    }
}

async fn it_changes_only_while_nobody_goes_by_it<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    assert_eq!(outbox.order_unit().await.unwrap(), OrderUnit::Key);
    write(&outbox, "rooms", "waits", Some(b"a")).await;
    outbox.set_order_unit(OrderUnit::TopicAndKey).await.unwrap();
    assert_eq!(outbox.order_unit().await.unwrap(), OrderUnit::TopicAndKey);
    assert_eq!(outbox.status().await.unwrap().order_unit, OrderUnit::TopicAndKey);
    // As with each start of a service.
    outbox.migrate().await.unwrap();
    let refused = async |part: &str| {
        let error = outbox.set_order_unit(OrderUnit::Key).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Store);
        assert!(error.to_string().contains(part) && error.to_string().contains("`key`"), "{part}: {error}");
        outbox.set_order_unit(OrderUnit::TopicAndKey).await.unwrap();
    };

    let owner = Owner::new(&outbox).await;
    refused("a relay is at work").await;
    let request = owner.beat().await;
    let row = owner.read().await.remove(0);
    let park = refuse(&request, &row, Verdict::Park { retry_in: Duration::ZERO });
    owner.store.reject(&park).await.unwrap();
    let leave = async |owner: &Owner| owner.beat_and(0, owner.beat().await.leases).await;
    // All that is in the way, and in which order to mend it.
    for part in
        ["events that stand aside (1)", "closed gates (1)", "; a relay is at work: then end all relays"]
    {
        refused(part).await;
    }
    leave(&owner).await;
    outbox.hold().await.unwrap();
    refused("on hold: first `cqrs outbox resume`; there are events that stand aside (1)").await;
    outbox.resume().await.unwrap();
    refused("now: there are events that stand aside (1)").await;

    let request = owner.beat().await;
    let row = owner.parked().await.remove(0);
    let bury = refuse(&request, &row, Verdict::Bury { later: LaterEvents::GoOn });
    owner.store.reject(&bury).await.unwrap();
    leave(&owner).await;
    refused("dead letters (1)").await;

    outbox.discard_all(&DeadLetterFilter::new(), &Asking::new()).await.unwrap();
    owner.beat().await;
    owner.beat().await;
    leave(&owner).await;
    outbox.set_order_unit(OrderUnit::Key).await.unwrap();
    assert_eq!(outbox.order_unit().await.unwrap(), OrderUnit::Key);
    let error = site.bare::<D>().await.set_order_unit(OrderUnit::Key).await.unwrap_err();
    assert!(error.to_string().contains("migrate"), "{error}");
}

/// The transaction of a heartbeat that takes all groups, before its commit.
async fn it_waits_for_who_takes_a_lease<D: Db>(site: &Site) {
    let outbox = site.outbox_at_repeatable_read::<D>().await;
    let in_an_hour = match D::NAME {
        "postgres" => "now() + interval '1 hour'",
        "mysql" => "utc_timestamp(6) + INTERVAL 1 HOUR",
        _ => "unixepoch('now', '+1 hour')",
    };
    let mut tx = outbox.begin().await.unwrap();
    let take =
        "UPDATE cqrs_outbox_group SET incarnation = '00000000-0000-4000-8000-000000000000', expires_at = ";
    tx.batch_execute(&format!("{take}{in_an_hour}")).await.unwrap();
    let changing = tokio::spawn({
        let outbox = outbox.clone();
        async move { outbox.set_order_unit(OrderUnit::TopicAndKey).await }
    });
    outbox.is_waited_for(&changing).await;
    tx.commit().await.unwrap();
    let error = changing.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("a relay is at work"), "{error}");
    assert_eq!(outbox.order_unit().await.unwrap(), OrderUnit::Key);
}

/// It has slept past its lease, and nobody has taken its groups. The broker has refused what it had sent before.
async fn a_relay_that_has_overslept_parks_nothing_by_the_old_one<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    write(&outbox, "rooms", "1", Some(b"a")).await;
    write(&outbox, "rooms", "2", Some(b"a")).await;
    let relay = RelayId { name: "asleep".to_owned(), incarnation: Uuid::new_v4() };
    let store = D::store(&outbox);
    let beat = Heartbeat { lease: Duration::from_millis(100), take: usize::MAX, release: Vec::new() };
    let leases = store.heartbeat(&relay, &beat).await.unwrap().leases;
    let request = ReadRequest { leases, known: Vec::new(), limit: 10, max_bytes: usize::MAX };
    let row = store.read(&request).await.unwrap().remove(0);
    let changed = async || outbox.set_order_unit(OrderUnit::TopicAndKey).await;
    let lease_is_over = async {
        while changed().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, lease_is_over).await.unwrap();
    let park = refuse(&request, &row, Verdict::Park { retry_in: Duration::from_secs(600) });
    assert_eq!(store.reject(&park).await.unwrap(), Fenced::LeaseLost);
    // Nor does it come by new leases, whoever else asks.
    outbox.check_schema().await.unwrap();
    let error = store.heartbeat(&relay, &beat).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Schema, "{error}");
    let status = outbox.status().await.unwrap();
    assert_eq!((status.unowned_groups, status.closed_gates), (status.groups, 0));
}

async fn a_relay_ends_when_it_is_another_one<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let mut settings = quick();
    settings.heartbeat_interval = Duration::from_millis(100);
    // Long enough for its failure to be seen.
    settings.backoff = Duration::from_secs(2);
    settings.max_backoff = Duration::from_secs(2);
    let relay = OutboxRelay::builder(D::store(&outbox), Arc::new(Sink::default()))
        .settings(settings)
        .build()
        .unwrap();
    let exchanged = async {
        relay.started().await;
        // It has renewed its leases by then, and has nothing to take: what most heartbeats are.
        tokio::time::sleep(Duration::from_millis(400)).await;
        // By hand.
        outbox.sql("UPDATE cqrs_outbox_meta SET order_unit = 'topic_and_key'").await.unwrap();
    };
    let running = relay.run_until(std::future::pending());
    let (ended, ()) = timeout(SOON, async { tokio::join!(running, exchanged) }).await.unwrap();
    let error = ended.unwrap_err();
    let kind = error.downcast_ref::<StoreError>().map(StoreError::kind);
    assert_eq!(kind, Some(StoreErrorKind::Schema), "{error}");
    assert!(error.to_string().contains("is `topic_and_key`, and was `key`"), "{error}");
    // It has given its groups back. Started again it goes by the new one.
    let status = outbox.status().await.unwrap();
    assert_eq!(status.unowned_groups, status.groups);
    timeout(SOON, relay.run_until_empty()).await.unwrap().unwrap();
    // Not while another one of this process is at work: that one has lanes of the unit before in memory.
    let other = RelayId { name: "other".to_owned(), incarnation: Uuid::new_v4() };
    let beat = Heartbeat { lease: Duration::from_secs(60), take: 0, release: Vec::new() };
    let store = D::store(&outbox);
    store.heartbeat(&other, &beat).await.unwrap();
    outbox.sql("UPDATE cqrs_outbox_meta SET order_unit = 'key'").await.unwrap();
    let error = timeout(SOON, relay.run_until_empty()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("is `key`, and was `topic_and_key`"), "{error}");
    store.forget(&other);
    timeout(SOON, relay.run_until_empty()).await.unwrap().unwrap();
}

/// A driver with a bug.
#[derive(Debug)]
struct Panicking;

#[async_trait]
impl MessageBroker for Panicking {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new("panicking")
    }

    async fn enqueue(&self, _: &Message) -> Result<Confirm, BrokerError> {
        panic!("a bug")
    }

    async fn subscribe(&self, _: SubscribeOptions) -> Result<Box<dyn Subscription>, BrokerError> {
        Err(BrokerError::new(ErrorClass::Destination, "nothing to read"))
    }

    async fn check(&self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), BrokerError> {
        Ok(())
    }
}

/// Without a word to the database: by a panic, dropped, or since that is another one.
async fn however_a_run_ends_the_next_goes_by_the_new_one<D: Db>(site: &Site) {
    let url = site.empty().await;
    let outbox = D::connect(url.clone()).await.unwrap();
    outbox.migrate().await.unwrap();
    let id = outbox.installation_id().await.unwrap();
    let store = D::store(&D::of_installation(url, id).await.unwrap());
    let mut settings = quick();
    settings.heartbeat_interval = Duration::from_millis(100);
    let relay = OutboxRelay::builder(store.clone(), Arc::new(Sink::default()))
        .settings(settings.clone())
        .build()
        .unwrap();
    let unit = async |unit: &str| {
        outbox.sql(&format!("UPDATE cqrs_outbox_meta SET order_unit = '{unit}'")).await.unwrap();
    };
    write(&outbox, "rooms", "waits", None).await;
    let panicking =
        OutboxRelay::builder(store.clone(), Arc::new(Panicking)).settings(settings).build().unwrap();
    let running = AssertUnwindSafe(panicking.run_until(std::future::pending())).catch_unwind();
    let panic = timeout(SOON, running).await.unwrap().unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"a bug"));
    unit("topic_and_key").await;
    store.check().await.unwrap();

    tokio::select! {
        ended = relay.run_until(std::future::pending()) => panic!("{ended:?}"),
        () = relay.started() => {}
    }
    unit("key").await;
    store.check().await.unwrap();

    let exchanged = async {
        relay.started().await;
        outbox.renew_installation_id().await.unwrap();
    };
    let running = relay.run_until(std::future::pending());
    let (ended, ()) = timeout(SOON, async { tokio::join!(running, exchanged) }).await.unwrap();
    let error = ended.unwrap_err();
    let kind = error.downcast_ref::<StoreError>().map(StoreError::kind);
    assert_eq!(kind, Some(StoreErrorKind::Installation), "{error}");
    unit("topic_and_key").await;
    outbox.sql(&format!("UPDATE cqrs_outbox_meta SET installation_id = '{id}'")).await.unwrap();
    // Without a look before, as of one whose database could not be reached at its start.
    let next = RelayId { name: "next".to_owned(), incarnation: Uuid::new_v4() };
    let beat = Heartbeat { lease: Duration::from_secs(60), take: 0, release: Vec::new() };
    store.heartbeat(&next, &beat).await.unwrap();
}

/// The others do not notice.
async fn one_of_several_relays_goes_on_by_the_new_one<D: Db>(site: &Site) {
    let (changed, other) = (site.outbox::<D>().await, site.outbox::<D>().await);
    let mut settings = quick();
    settings.heartbeat_interval = Duration::from_millis(100);
    let relay = |outbox: &Outbox<D>, name: &str| {
        let builder = OutboxRelay::builder(D::store(outbox), Arc::new(Sink::default()));
        builder.settings(settings.clone()).database(name).build().unwrap()
    };
    let relays = Relays::new([relay(&changed, "changed"), relay(&other, "other")]).unwrap();
    let course = async {
        for relay in relays.iter() {
            relay.started().await;
        }
        changed.sql("UPDATE cqrs_outbox_meta SET order_unit = 'topic_and_key'").await.unwrap();
        while relays.stats()[0].failure.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        write(&changed, "rooms", "1", Some(b"a")).await;
        while changed.waiting().await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(relays.stats()[1].failure, None);
    };
    timeout(SOON, relays.run_until(course)).await.expect("it does not go on").unwrap();
}

async fn a_unit_that_is_none_is_refused_by_the_table<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let update = "UPDATE cqrs_outbox_meta SET order_unit = 'tenant'";
    let error = outbox.sql(update).await.unwrap_err();
    assert!(
        error.to_string().to_lowercase().contains("check") || error.to_string().contains("order_unit"),
        "{error}"
    );
    assert_eq!(outbox.order_unit().await.unwrap(), OrderUnit::Key);
}

async fn it_is_known_again_when_its_row_was_lost<D: Db>(site: &Site) {
    let outbox = by_topic::<D>(site).await;
    write(&outbox, "rooms", "first", Some(b"a")).await;
    let owner = Owner::new(&outbox).await;
    let request = owner.beat().await;
    let row = owner.read().await.remove(0);
    let park = refuse(&request, &row, Verdict::Park { retry_in: Duration::from_secs(600) });
    owner.store.reject(&park).await.unwrap();
    outbox.sql("DELETE FROM cqrs_outbox_meta").await.unwrap();
    assert!(outbox.migrate().await.unwrap().restored);
    assert_eq!(outbox.order_unit().await.unwrap(), OrderUnit::TopicAndKey);
    let other = site.outbox::<D>().await;
    other.sql("DELETE FROM cqrs_outbox_meta").await.unwrap();
    assert!(other.migrate().await.unwrap().restored);
    assert_eq!(other.order_unit().await.unwrap(), OrderUnit::Key);
}

async fn the_longest_topic_and_key_have_a_lane<D: Db>(site: &Site) {
    let outbox = by_topic::<D>(site).await;
    // Nothing that an index could compress.
    let mut seed = 1_u32;
    let mut noise = |length: usize| -> Vec<u8> {
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b'0' + (seed >> 24) as u8 % 75
        };
        (0..length).map(|_| next()).collect()
    };
    let (topic, key) = (String::from_utf8(noise(500)).unwrap(), noise(2_000));
    for name in ["1", "2"] {
        write(&outbox, &topic, name, Some(&key)).await;
    }
    let owner = Owner::new(&outbox).await;
    let request = owner.beat().await;
    let row = owner.read().await.remove(0);
    assert_eq!((row.lane.topic(), row.lane.key()), (Some(&*topic), Some(&key[..])));
    let bury = refuse(&request, &row, Verdict::Bury { later: LaterEvents::Follow });
    owner.store.reject(&bury).await.unwrap();
    let second = owner.read().await.remove(0);
    let lease = request.leases.iter().find(|lease| lease.group == second.group).unwrap();
    owner.store.set_aside(*lease, &second.lane, &[second.id], LaterEvents::Follow).await.unwrap();
    let dead =
        outbox.dead_letters(&DeadLetterFilter::new().key(key.clone()), Page::oldest_first()).await.unwrap();
    assert_eq!(dead.len(), 2);
    outbox.replay_all(&DeadLetterFilter::new(), &Asking::new()).await.unwrap();
    owner.beat().await;
    assert_eq!(owner.parked().await.len(), 2);

    let longer = format!("{topic}t");
    let written = outbox.transaction(async |tx| tx.publish(letter(&longer, "3", None)).await).await;
    let error = written.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);
    assert!(error.to_string().contains("501 bytes, and the outbox takes 500"), "{error}");
    for table in ["cqrs_outbox", "cqrs_outbox_scheduled"] {
        let (also, value) = match table {
            "cqrs_outbox" => ("", ""),
            _ if D::NAME == "sqlite" => (", deliver_at", ", 1"),
            _ => (", deliver_at", ", '2030-01-01'"),
        };
        let insert = |topic: &str| {
            format!(
                "INSERT INTO {table} (event_name, topic, payload_text{also}) VALUES ('n', '{topic}', '{{}}'{value})"
            )
        };
        // Bytes, not characters.
        outbox.sql(&insert(&"ü".repeat(250))).await.unwrap();
        outbox.sql(&insert(&"ü".repeat(251))).await.unwrap_err();
    }
}

async fn dead_letters_are_found_by_key_in_any_lane<D: Db>(site: &Site) {
    let outbox = by_topic::<D>(site).await;
    let owner = Owner::new(&outbox).await;
    for (topic, name, key) in [
        ("rooms", "a", Some(&b"5"[..])),
        ("halls", "b", Some(b"5")),
        ("halls", "c", Some(b"6")),
        ("halls", "d", None),
        ("5", "e", Some(b"")),
    ] {
        write(&outbox, topic, name, key).await;
    }
    let request = owner.beat().await;
    for mut row in owner.read().await {
        if row.message.name == "b" {
            // As a relay refuses it that sends it without regard to its key.
            row.lane = OrderUnit::Key.lane("", None, row.event_id);
        }
        let bury = refuse(&request, &row, Verdict::Bury { later: LaterEvents::Wait });
        owner.store.reject(&bury).await.unwrap();
    }
    let found = async |filter: DeadLetterFilter| {
        let letters = outbox.dead_letters(&filter, Page::oldest_first()).await.unwrap();
        assert_eq!(outbox.count_dead_letters(&filter).await.unwrap(), letters.len() as u64);
        letters.iter().map(|letter| letter.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(found(DeadLetterFilter::new().key("5")).await, ["a", "b"]);
    assert_eq!(found(DeadLetterFilter::new().key("5").topic("rooms")).await, ["a"]);
    assert_eq!(found(DeadLetterFilter::new().key("6")).await, ["c"]);
    assert_eq!(found(DeadLetterFilter::new().key("")).await, ["e"]);

    // Asked for, each goes back into its own.
    outbox.replay_all(&DeadLetterFilter::new().key("5"), &Asking::new()).await.unwrap();
    let parked = owner.parked().await;
    let mut lanes: Vec<_> = parked.iter().map(|row| (row.lane.topic(), row.lane.key())).collect();
    lanes.sort_unstable();
    assert_eq!(lanes, [(None, None), (Some("rooms"), Some(&b"5"[..]))]);
    let details = outbox.dead_letters(&DeadLetterFilter::new().key("6"), Page::oldest_first()).await.unwrap();
    assert_eq!(details[0].lane.topic(), Some("halls"));
    let in_full = outbox.dead_letter(details[0].event_id).await.unwrap().unwrap();
    assert_eq!(in_full.letter, details[0]);
}
