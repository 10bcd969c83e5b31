//! How far a read looks: a key with very many rows does not keep the others out of it, where they are of other groups. SQLite
//! has one group, and reads in the order of the ids.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cqrs_outbox::{
    Fenced, GroupNo, Lane, LaterEvents, Lease, OutboxRow, OutboxStore, ReadRequest, Rejection, RelayId,
    Verdict,
};
use cqrs_outbox_diesel::{MySql, Outbox, Pg};
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site};
use crate::events::{closed, own_all};
use crate::harness::{Trials, tests};

pub(crate) fn trials(trials: &mut Trials) {
    trials.on::<Pg>(tests!(reach<Pg> {
        a_key_with_very_many_rows_leaves_room_for_others,
        keys_with_very_many_rows_leave_room_for_others,
        a_lane_that_drains_leaves_room_for_others
    }));
    trials.on::<MySql>(tests!(reach<MySql> {
        a_key_with_very_many_rows_leaves_room_for_others,
        keys_with_very_many_rows_leave_room_for_others,
        a_lane_that_drains_leaves_room_for_others
    }));
}

/// A relay whose memory grows, since nothing is confirmed.
struct Reader {
    store: Arc<dyn OutboxStore>,
    leases: Vec<Lease>,
    known: BTreeSet<i64>,
    by_lane: BTreeMap<Lane, Vec<i64>>,
}

impl Reader {
    async fn new<D: Db>(outbox: &Outbox<D>) -> Self {
        let store = D::store(outbox);
        let relay = RelayId { name: "reader".to_owned(), incarnation: Uuid::new_v4() };
        let leases = own_all(&store, &relay).await;
        Self { store, leases, known: BTreeSet::new(), by_lane: BTreeMap::new() }
    }

    /// Reads as one who has all groups, or all but one.
    async fn read(&mut self, limit: usize, max_bytes: usize, but: Option<GroupNo>) -> Vec<OutboxRow> {
        let leases = self.leases.iter().copied().filter(|lease| Some(lease.group) != but).collect();
        let request = ReadRequest { leases, known: self.known.iter().copied().collect(), limit, max_bytes };
        let rows = self.store.read(&request).await.unwrap();
        assert!(rows.is_sorted_by_key(|row| row.id), "not in the order of the ids");
        assert!(rows.len() <= limit);
        for row in &rows {
            assert!(self.known.insert(row.id), "{} is known", row.id);
            self.by_lane.entry(row.lane.clone()).or_default().push(row.id);
        }
        rows
    }

    /// Of each key, what was read is what comes first, and was read in that order.
    async fn nothing_was_skipped<D: Db>(&self, outbox: &Outbox<D>, keys: &[&str]) {
        for key in keys {
            let all = ids(outbox, key).await;
            let read = &self.by_lane[&lane(key)];
            assert_eq!(read[..], all[..read.len()], "of {key}");
        }
    }
}

fn lane(key: &str) -> Lane {
    Lane::of(Some(key.as_bytes()), Uuid::nil())
}

fn of(rows: &[OutboxRow], key: &str) -> usize {
    rows.iter().filter(|row| row.lane == lane(key)).count()
}

async fn ids<D: Db>(outbox: &Outbox<D>, key: &str) -> Vec<i64> {
    let cast =
        if D::NAME == "postgres" { format!("convert_to('{key}', 'UTF8')") } else { format!("'{key}'") };
    let ids =
        format!("SELECT CAST(id AS text) AS value FROM cqrs_outbox WHERE message_key = {cast} ORDER BY id");
    outbox.values(&ids).await.iter().map(|id| id.parse().unwrap()).collect()
}

async fn write<D: Db>(outbox: &Outbox<D>, key: &str, rows: usize) {
    outbox.transaction(async |tx| tx.publish_all((0..rows).map(|_| closed(key))).await).await.unwrap();
}

const ALL: usize = usize::MAX;

async fn a_key_with_very_many_rows_leaves_room_for_others<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    write(&outbox, "hot", 10_000).await;
    write(&outbox, "first", 3).await;
    let mut reader = Reader::new(&outbox).await;
    let rows = reader.read(100, ALL, None).await;
    assert_eq!((of(&rows, "hot"), of(&rows, "first")), (97, 3));
    let group = |key: &str| rows.iter().find(|row| row.lane == lane(key)).unwrap().group;
    assert_ne!(group("hot"), group("first"), "the keys are of one group: take others");
    let elsewhere = (0..64).map(GroupNo).find(|no| *no != group("hot") && *no != group("first"));
    for _ in 0..5 {
        assert_eq!(of(&reader.read(100, ALL, elsewhere).await, "hot"), 100);
    }

    // While the memory fills with the one: as many as there is room for, and at once.
    write(&outbox, "first", 40).await;
    for (limit, wanted) in [(10, 5), (1, 0), (60, 30), (100, 5)] {
        let rows = reader.read(limit, ALL, elsewhere).await;
        assert_eq!((of(&rows, "first"), of(&rows, "hot")), (wanted, limit - wanted));
    }
    write(&outbox, "first", 40).await;
    // Room for so many, by their bytes.
    for (count, but) in [(10, elsewhere), (10, None), (4, elsewhere), (4, None)] {
        let rows = reader.read(100, count * rows[0].size + 20, but).await;
        let all = (count - 2)..=count;
        assert!(all.contains(&rows.len()), "{}", rows.len());
        assert!(of(&rows, "first").abs_diff(of(&rows, "hot")) <= 1, "{} of {}", of(&rows, "hot"), rows.len());
    }
    reader.nothing_was_skipped(&outbox, &["hot", "first"]).await;
}

/// Each of which has no more than its share.
async fn keys_with_very_many_rows_leave_room_for_others<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let hot = ["hot 1", "hot 2", "hot 3"];
    for key in hot {
        write(&outbox, key, 1_000).await;
    }
    write(&outbox, "first", 1).await;
    let mut reader = Reader::new(&outbox).await;
    let rows = reader.read(10, ALL, None).await;
    let groups: BTreeSet<_> = rows.iter().map(|row| row.group).collect();
    assert_eq!((of(&rows, "first"), groups.len()), (1, 4), "the keys are of one group: take others");
    for _ in 0..5 {
        assert_eq!(reader.read(100, ALL, None).await.len(), 100);
    }
    write(&outbox, "first", 1).await;
    assert_eq!(of(&reader.read(10, ALL, None).await, "first"), 1);
    reader.nothing_was_skipped(&outbox, &[hot[0], hot[1], hot[2], "first"]).await;
}

/// From the side table, when its gate is due.
async fn a_lane_that_drains_leaves_room_for_others<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    write(&outbox, "hot", 500).await;
    write(&outbox, "first", 2).await;
    let mut reader = Reader::new(&outbox).await;
    let rows = reader.read(1_000, ALL, None).await;
    for key in ["hot", "first"] {
        let of_key: Vec<_> = rows.iter().filter(|row| row.lane == lane(key)).collect();
        let lease = *reader.leases.iter().find(|lease| lease.group == of_key[0].group).unwrap();
        let (id, verdict) = (of_key[0].id, Verdict::Park { retry_in: Duration::ZERO });
        let rejection =
            Rejection { lease, id, lane: lane(key), attempts: 1, error: "no".to_owned(), verdict };
        assert_eq!(reader.store.reject(&rejection).await.unwrap(), Fenced::Done(()));
        let others: Vec<i64> = of_key[1..].iter().map(|row| row.id).collect();
        assert_eq!(
            reader.store.set_aside(lease, &lane(key), &others, LaterEvents::Wait).await.unwrap(),
            Fenced::Done(true)
        );
    }
    let size = rows[0].size;
    for (limit, max_bytes) in [(10, ALL), (100, 10 * size + 20)] {
        let request = ReadRequest { leases: reader.leases.clone(), known: Vec::new(), limit, max_bytes };
        let rows = reader.store.read_parked(&request).await.unwrap();
        assert!(rows.is_sorted_by_key(|row| row.id), "not in the order of the ids");
        assert_eq!((of(&rows, "first"), of(&rows, "hot")), (2, 8));
        let first: Vec<i64> = rows.iter().filter(|row| row.lane == lane("hot")).map(|row| row.id).collect();
        let wanted: Vec<i64> = reader.by_lane[&lane("hot")][..8].to_vec();
        assert_eq!(first, wanted);
    }
}
