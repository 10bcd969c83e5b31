//! What an operator does about events that stand aside.

use std::time::Duration;

use cqrs_outbox::{LaterEvents, Rejection, Verdict};
use cqrs_outbox_diesel::{Outbox, ParkedFilter};
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site};
use crate::dead_letters::{Owner, letter};
use crate::harness::{OnEach, Test, tests};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        tests!(parked<D> { what_fits_is_tried_again_now })
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
