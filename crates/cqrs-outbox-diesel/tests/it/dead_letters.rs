//! What an operator sees of the events that were given up.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cqrs_core::{Message, codec::header};
use cqrs_outbox::{
    Fenced, Heartbeat, LaterEvents, Lease, OutboxRow, OutboxStore, ReadRequest, Rejection, RelayId, Verdict,
};
use cqrs_outbox_diesel::{DeadLetter, DeadLetterFilter, Outbox, Page};
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site};
use crate::harness::{OnEach, Test, tests};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        tests!(dead_letters<D> {
            none_is_an_empty_list,
            a_list_goes_on_page_by_page,
            each_filter_finds_its_own,
            one_is_shown_in_full,
            an_id_in_capitals_is_found,
        })
    }
}

/// Events that are given up: of this topic, name and key.
pub(crate) fn letter(topic: &str, name: &str, key: Option<&[u8]>) -> Message {
    let mut message = Message::new(topic, "{}");
    message.name = name.to_owned();
    message.id = Some(Uuid::new_v4().into());
    message.key = key.map(Bytes::copy_from_slice);
    message
}

/// A relay that owns all groups of a store.
pub(crate) struct Owner {
    pub(crate) store: std::sync::Arc<dyn OutboxStore>,
    pub(crate) relay: RelayId,
}

impl Owner {
    pub(crate) async fn new<D: Db>(outbox: &Outbox<D>) -> Self {
        let relay = RelayId { name: "owner".to_owned(), incarnation: Uuid::new_v4() };
        let owner = Self { store: D::store(outbox), relay };
        owner.beat().await;
        owner
    }

    /// A heartbeat, which carries out what was asked for.
    pub(crate) async fn beat(&self) -> ReadRequest {
        self.beat_and(usize::MAX, Vec::new()).await
    }

    /// Takes so many groups more, and gives these back.
    pub(crate) async fn beat_and(&self, take: usize, release: Vec<Lease>) -> ReadRequest {
        let beat = Heartbeat { lease: Duration::from_secs(600), take, release };
        let leases = self.store.heartbeat(&self.relay, &beat).await.unwrap().leases;
        ReadRequest { leases, known: Vec::new(), limit: 1_000_000, max_bytes: usize::MAX }
    }

    pub(crate) async fn is_on_hold(&self) -> bool {
        let beat = Heartbeat { lease: Duration::from_secs(600), take: 0, release: Vec::new() };
        self.store.heartbeat(&self.relay, &beat).await.unwrap().hold
    }

    pub(crate) async fn record_suspects(&self, ids: &[i64]) {
        self.store.record_suspects(&self.relay, ids).await.unwrap();
    }

    pub(crate) async fn read(&self) -> Vec<OutboxRow> {
        let request = self.beat().await;
        self.store.read(&request).await.unwrap()
    }

    pub(crate) async fn parked(&self) -> Vec<OutboxRow> {
        let request = self.beat().await;
        self.store.read_parked(&request).await.unwrap()
    }

    /// Gives up everything that waits.
    pub(crate) async fn bury_all(&self, lane_waits: bool, error: &str) -> Vec<OutboxRow> {
        let request = self.beat().await;
        let rows = self.store.read(&request).await.unwrap();
        for row in &rows {
            let lease = *request.leases.iter().find(|lease| lease.group == row.group).unwrap();
            let (lane, error) = (row.lane.clone(), error.to_owned());
            let verdict =
                Verdict::Bury { later: if lane_waits { LaterEvents::Wait } else { LaterEvents::GoOn } };
            let rejection = Rejection { lease, id: row.id, lane, attempts: 3, error, verdict };
            assert_eq!(self.store.reject(&rejection).await.unwrap(), Fenced::Done(()));
        }
        rows
    }
}

/// An outbox with these as its dead letters, and who owns all of it.
pub(crate) async fn buried<D: Db>(
    site: &Site,
    lane_waits: bool,
    messages: Vec<Message>,
) -> (Outbox<D>, Owner) {
    let outbox = site.outbox_at_repeatable_read::<D>().await;
    let owner = Owner::new(&outbox).await;
    outbox.transaction(async |tx| tx.publish_all(messages).await).await.unwrap();
    owner.bury_all(lane_waits, "not readable").await;
    (outbox, owner)
}

fn names(letters: &[DeadLetter]) -> Vec<&str> {
    letters.iter().map(|letter| &*letter.name).collect()
}

async fn none_is_an_empty_list<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let all = DeadLetterFilter::new();
    assert!(outbox.dead_letters(&all, Page::newest_first()).await.unwrap().is_empty());
    assert_eq!(outbox.count_dead_letters(&all).await.unwrap(), 0);
    assert_eq!(outbox.dead_letter(Uuid::new_v4()).await.unwrap(), None);
}

async fn a_list_goes_on_page_by_page<D: Db>(site: &Site) {
    let messages = ["a", "b", "c", "d", "e"].map(|name| letter("rooms", name, None)).to_vec();
    let (outbox, _) = buried::<D>(site, false, messages).await;
    for (page, wanted) in [
        (Page::newest_first(), [&["e", "d"][..], &["c", "b"], &["a"]]),
        (Page::oldest_first(), [&["a", "b"], &["c", "d"], &["e"]]),
    ] {
        let mut page = page.limit(2);
        for wanted in wanted {
            let letters = outbox.dead_letters(&DeadLetterFilter::new(), page).await.unwrap();
            assert_eq!(names(&letters), wanted);
            page = page.after(letters.last().unwrap().id);
        }
        assert!(outbox.dead_letters(&DeadLetterFilter::new(), page).await.unwrap().is_empty());
    }
}

async fn each_filter_finds_its_own<D: Db>(site: &Site) {
    let messages = vec![
        letter("rooms", "a", Some(b"5")),
        letter("rooms", "b", Some(b"")),
        letter("halls", "c", Some(b"\x00\xff")),
        letter("halls", "d", None),
    ];
    let (outbox, owner) = buried::<D>(site, false, messages).await;
    let died = |letters: &[DeadLetter]| letters.iter().map(|letter| letter.died_at).max().unwrap();
    let all = DeadLetterFilter::new();
    let first = died(&outbox.dead_letters(&all, Page::newest_first()).await.unwrap());
    // Of a later millisecond: SQLite's times have no more.
    outbox.transaction(async |tx| tx.publish(letter("rooms", "e", Some(b"5"))).await).await.unwrap();
    let now = async || {
        let now = if D::NAME == "sqlite" {
            "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now') AS value"
        } else if D::NAME == "mysql" {
            "SELECT CAST(utc_timestamp(3) AS text) AS value"
        } else {
            "SELECT CAST(clock_timestamp() AT TIME ZONE 'UTC' AS text) AS value"
        };
        let text = outbox.values(now).await.remove(0).replace(' ', "T");
        let text = format!("{}Z", text.trim_end_matches('Z'));
        DateTime::parse_from_rfc3339(&text).unwrap().with_timezone(&Utc)
    };
    while now().await <= first + Duration::from_millis(1) {}
    owner.bury_all(false, "gone").await;
    let e = outbox.dead_letters(&all, Page::newest_first()).await.unwrap().remove(0);
    let between = e.died_at;
    let id = |nth: usize| {
        let outbox = outbox.clone();
        async move {
            outbox.dead_letters(&DeadLetterFilter::new(), Page::oldest_first()).await.unwrap()[nth].event_id
        }
    };
    for (filter, wanted) in [
        (all.clone(), &["a", "b", "c", "d", "e"][..]),
        (all.clone().topic("rooms"), &["a", "b", "e"]),
        (all.clone().topic("Rooms"), &[]),
        (all.clone().name("d"), &["d"]),
        (all.clone().key("5"), &["a", "e"]),
        (all.clone().key(""), &["b"]),
        (all.clone().key(&b"\x00\xff"[..]), &["c"]),
        (all.clone().event_id(id(3).await), &["d"]),
        (all.clone().event_id(Uuid::new_v4()), &[]),
        (all.clone().since(between), &["e"]),
        (all.clone().until(between), &["a", "b", "c", "d"]),
        (all.clone().since(first + Duration::from_secs(3_600)), &[]),
        (all.clone().key("5").since(between).topic("rooms"), &["e"]),
        (all.clone().key("5").topic("halls"), &[]),
        // What is asked for is a value, not SQL.
        (all.clone().topic("x' OR '1' = '1"), &[]),
        (all.clone().name("?"), &[]),
    ] {
        let letters = outbox.dead_letters(&filter, Page::oldest_first()).await.unwrap();
        assert_eq!(names(&letters), wanted, "{filter:?}");
        assert_eq!(outbox.count_dead_letters(&filter).await.unwrap(), wanted.len() as u64, "{filter:?}");
    }
    assert_eq!((e.error.as_deref(), e.attempts), (Some("gone"), 3));
}

async fn one_is_shown_in_full<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let mut message = letter("rooms", "room_closed", Some(b"\xff"));
    message.headers.set(header::NAME, "room_closed");
    message.payload = Some(Bytes::from_static(b"\x00\xffnot text"));
    message.timestamp = DateTime::from_timestamp_micros(1_700_000_000_123_456);
    let id = message.id.as_ref().unwrap().to_uuid().unwrap();
    let written = message.clone();
    outbox.transaction(async move |tx| tx.publish(written).await).await.unwrap();
    let owner = Owner::new(&outbox).await;
    let row = owner.read().await.remove(0);
    let lease = *owner.beat().await.leases.iter().find(|lease| lease.group == row.group).unwrap();
    let park = Verdict::Park { retry_in: Duration::ZERO };
    for (attempts, verdict) in [(1, park), (2, Verdict::Bury { later: LaterEvents::Wait })] {
        let (lane, error) = (row.lane.clone(), format!("no {attempts}"));
        let rejection = Rejection { lease, id: row.id, lane, attempts, error, verdict };
        assert_eq!(owner.store.reject(&rejection).await.unwrap(), Fenced::Done(()));
    }

    let details = outbox.dead_letter(id).await.unwrap().unwrap();
    assert_eq!(details.message, row.message);
    let refusals: Vec<_> = details.refusals.iter().map(|refusal| &*refusal.error).collect();
    assert_eq!(refusals, ["no 1", "no 2"]);
    let times: Vec<_> = details.refusals.iter().map(|refusal| refusal.at.unwrap()).collect();
    assert!(times.is_sorted() && *times.last().unwrap() <= details.letter.died_at, "{details:?}");
    let listed = outbox.dead_letters(&DeadLetterFilter::new(), Page::newest_first()).await.unwrap();
    assert_eq!(listed, [details.letter]);
    let letter = &listed[0];
    assert_eq!((letter.event_id, letter.occurred_at, letter.attempts), (id, message.timestamp, 2));
    assert_eq!((letter.key.as_deref(), letter.error.as_deref()), (Some(&b"\xff"[..]), Some("no 2")));
    assert_eq!(letter.size, row.size);
}

async fn an_id_in_capitals_is_found<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let owner = Owner::new(&outbox).await;
    let id = "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11";
    let columns = "event_id, event_name, topic, payload_text";
    outbox.sql(&format!("INSERT INTO cqrs_outbox ({columns}) VALUES ('{id}', 'n', 't', 'x')")).await.unwrap();
    owner.bury_all(true, "no").await;
    let found = outbox.dead_letter(id.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(found.message.payload.as_deref(), Some(&b"x"[..]));
}
