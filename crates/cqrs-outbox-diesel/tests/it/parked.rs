//! What an operator does about events that stand aside.

use std::time::Duration;

use chrono::{DateTime, Utc};
use cqrs_outbox::{LaterEvents, Rejection, Verdict};
use cqrs_outbox_diesel::{Outbox, Page, ParkedEvent, ParkedFilter};
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site};
use crate::dead_letters::{Owner, letter};
use crate::harness::{OnEach, Test, tests};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        tests!(parked<D> { what_fits_is_tried_again_now, they_are_listed })
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

/// Two events for each of three keys, and one without a key; the first of each is refused, and for `dead` is given up.
async fn refused<D: Db>(site: &Site) -> (Outbox<D>, Owner) {
    let outbox = site.outbox::<D>().await;
    let keys: [Option<&[u8]>; 4] = [Some(b"a"), Some(b""), Some(b"dead"), None];
    let mut letters: Vec<_> = keys.into_iter().map(|key| letter("rooms", "first", key)).collect();
    letters.push(letter("halls", "second", Some(b"a")));
    outbox.transaction(async |tx| tx.publish_all(letters).await).await.unwrap();
    // As plain SQL may have written it.
    if D::NAME != "postgres" {
        outbox.sql("UPDATE cqrs_outbox SET event_id = upper(event_id)").await.unwrap();
    }
    let owner = Owner::new(&outbox).await;
    let request = owner.beat().await;
    for row in owner.read().await.into_iter().filter(|row| row.message.name == "first") {
        let is_dead = row.message.key.as_deref() == Some(b"dead");
        let rejection = Rejection {
            lease: *request.leases.iter().find(|lease| lease.group == row.group).unwrap(),
            id: row.id,
            lane: row.lane.clone(),
            attempts: 1,
            error: "no".to_owned(),
            verdict: if is_dead {
                Verdict::Bury { later: LaterEvents::Wait }
            } else {
                Verdict::Park { retry_in: HOUR }
            },
        };
        owner.store.reject(&rejection).await.unwrap();
    }
    let second = owner.read().await.remove(0);
    let lease = request.leases.iter().find(|lease| lease.group == second.group).unwrap();
    owner.store.set_aside(*lease, &second.lane, &[second.id], LaterEvents::Wait).await.unwrap();
    assert_eq!(owner.parked().await.len(), 0);
    (outbox, owner)
}

async fn what_fits_is_tried_again_now<D: Db>(site: &Site) {
    let (outbox, owner) = refused::<D>(site).await;
    let all = ParkedFilter::new;
    for nothing in [
        all().key("b"),
        all().key("dead"),
        all().topic("lobbies"),
        all().topic("halls").key(""),
        all().event_id(Uuid::new_v4()),
    ] {
        assert_eq!(outbox.unpark(&nothing).await.unwrap(), 0, "{nothing:?}");
    }
    assert_eq!(owner.parked().await.len(), 0);
    // With all that is of the key of one that fits.
    assert_eq!(outbox.unpark(&all().topic("halls")).await.unwrap(), 1);
    let parked = owner.parked().await;
    let names: Vec<_> = parked.iter().map(|row| (&*row.message.name, row.attempts)).collect();
    assert_eq!(names, [("first", 1), ("second", 0)]);
    // What is due is not asked for again.
    assert_eq!(outbox.unpark(&all().key("a")).await.unwrap(), 0);
    assert_eq!(outbox.unpark(&all().key("")).await.unwrap(), 1);
    assert_eq!(owner.parked().await.len(), 3);
    let last = outbox.values("SELECT lower(CAST(event_id AS char(36))) AS value FROM cqrs_outbox_parked WHERE message_key IS NULL").await;
    let last: Uuid = last[0].parse().unwrap();
    assert_eq!(outbox.unpark(&all().event_id(last)).await.unwrap(), 1);
    assert_eq!(owner.parked().await.len(), 4);
    assert_eq!(outbox.unpark(&all()).await.unwrap(), 0);
    let error = site.bare::<D>().await.unpark(&all()).await.unwrap_err();
    assert!(error.to_string().contains("migrate"), "{error}");
}

async fn they_are_listed<D: Db>(site: &Site) {
    let (outbox, owner) = refused::<D>(site).await;
    // One that waits for a dead letter.
    outbox
        .transaction(async |tx| tx.publish_all(vec![letter("rooms", "behind", Some(b"dead"))]).await)
        .await
        .unwrap();
    let behind = owner.read().await.remove(0);
    let request = owner.beat().await;
    let lease = request.leases.iter().find(|lease| lease.group == behind.group).unwrap();
    owner.store.set_aside(*lease, &behind.lane, &[behind.id], LaterEvents::Wait).await.unwrap();

    let all = ParkedFilter::new;
    let listed = async |filter: ParkedFilter| -> Vec<ParkedEvent> {
        let mut listed = outbox.parked(&filter, Page::newest_first()).await.unwrap();
        listed.sort_by_key(|event| event.key.clone());
        listed
    };
    let events = listed(all()).await;
    let mut keys: Vec<_> =
        events.iter().map(|event| (event.key.as_deref(), &*event.name, event.attempts)).collect();
    keys.sort();
    let a: &[u8] = b"a";
    assert_eq!(
        keys,
        [
            (None, "first", 1),
            (Some(b"" as &[u8]), "first", 1),
            (Some(a), "first", 1),
            (Some(a), "second", 0),
            (Some(b"dead"), "behind", 0)
        ]
    );
    let now = Utc::now();
    let near = |time: DateTime<Utc>, to: DateTime<Utc>| (time - to).num_minutes().abs() < 5;
    for event in &events {
        assert_eq!(event.error.as_deref(), (event.name == "first").then_some("no"), "{event:?}");
        assert!(near(event.parked_at, now) && near(event.occurred_at.unwrap(), now), "{event:?}");
        match event.tried_again_at {
            None => assert_eq!(event.name, "behind"),
            Some(at) => assert!(event.name != "behind" && near(at, now + HOUR), "{event:?}"),
        }
        assert_eq!(event.topic, if event.name == "second" { "halls" } else { "rooms" });
        assert!(event.size > 0 && !event.event_id.is_nil(), "{event:?}");
        assert_eq!(listed(all().event_id(event.event_id)).await, std::slice::from_ref(event));
    }

    assert_eq!(listed(all().key("a")).await.len(), 2);
    assert_eq!(listed(all().key("")).await.len(), 1);
    assert_eq!(listed(all().key("a").topic("halls")).await.len(), 1);
    assert!(listed(all().topic("lobbies")).await.is_empty());
    let page = Page::oldest_first().limit(2);
    let first = outbox.parked(&all(), page).await.unwrap();
    let rest = outbox.parked(&all(), Page::oldest_first().after(first[1].id)).await.unwrap();
    let ids: Vec<_> = first.iter().chain(&rest).map(|event| event.id).collect();
    assert!(first.len() == 2 && ids.len() == 5 && ids.is_sorted(), "{ids:?}");

    assert_eq!(outbox.unpark(&all().key("")).await.unwrap(), 1);
    let at = listed(all().key("")).await[0].tried_again_at.unwrap();
    assert!(near(at, now), "{at}");
}
