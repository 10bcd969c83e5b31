//! What an operator wants to know.

#[cfg(feature = "metrics")]
use std::collections::BTreeSet;
use std::time::Duration;

use cqrs_outbox::{Lane, OrderUnit, SuspendedTopic};
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Bool, Double, Integer, Nullable, Text};
use uuid::Uuid;

/// What waits, what is stuck, and who is at work: [`Outbox::status`](crate::Outbox::status).
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxStatus {
    /// The version of the tables.
    pub schema_version: i32,
    /// The oldest version that may use them.
    pub min_reader_version: i32,
    /// Which installation this is: [`Outbox::installation_id`](crate::Outbox::installation_id), which tells more of what is no UUID;
    /// here it is the nil one.
    pub installation_id: Uuid,
    /// What is in order.
    pub order_unit: OrderUnit,
    /// Whether an operator has stopped all relaying.
    pub hold: bool,
    /// Events that wait to be sent: in line, aside, and scheduled ones that are due. Not those that are not due yet, and not the
    /// dead letters.
    pub waiting: u64,
    /// How long the oldest of these has been waiting, by the database's clock: since it was written or, if it was scheduled, due, or
    /// replayed, if it was a dead letter. `None` if nothing waits.
    ///
    /// It is the oldest of the first 1,000 in line, of the first 1,000 that stand aside, and of all that are scheduled and due. So an
    /// event that was long overdue when it came in line counts as soon as less than 1,000 are before it.
    pub oldest_waiting: Option<Duration>,
    /// How many of those that wait stand aside, behind the closed gate of their lane.
    pub parked: u64,
    /// Lanes that wait.
    pub closed_gates: u64,
    /// The first of these that were closed, and why; five at most.
    pub gates: Vec<GateStatus>,
    /// Events that are not due yet.
    pub scheduled: u64,
    /// Events that were given up.
    pub dead_letters: u64,
    /// How many groups the slots are in.
    pub groups: u64,
    /// Of these, how many nobody owns, or only by a lease that has expired: what waits there is not sent.
    pub unowned_groups: u64,
    /// The relays that were seen lately, by name. One that stopped well has signed off; one that died is forgotten after
    /// ten lease times, once another one lives.
    pub relays: Vec<RelayStatus>,
    /// On PostgreSQL, the oldest snapshot that somebody in this database holds: what was removed since cannot be cleaned up.
    /// Of other users' sessions only with the privileges of `pg_read_all_stats`; replication slots and prepared
    /// transactions are not looked at. `None` if there is none, and on the other databases.
    pub oldest_snapshot: Option<SnapshotStatus>,
}

#[cfg(feature = "metrics")]
impl OutboxStatus {
    /// Tells the recorder of the [`metrics`](https://docs.rs/metrics) crate, as gauges. Call it every minute or so, in one
    /// place for each outbox, which need not be where a relay runs. `labels` say which outbox it is, where there are several.
    ///
    /// | name | |
    /// |---|---|
    /// | `cqrs_outbox_waiting` | events that wait to be sent, those aside included |
    /// | `cqrs_outbox_oldest_waiting_seconds` | how long the first of them has been waiting; 0 if nothing waits |
    /// | `cqrs_outbox_parked`, `cqrs_outbox_closed_gates` | how many of them stand aside, and the lanes that wait |
    /// | `cqrs_outbox_scheduled` | events that are not due yet |
    /// | `cqrs_outbox_dead_letters` | events that were given up |
    /// | `cqrs_outbox_groups`, `cqrs_outbox_unowned_groups` | groups, and those that nobody owns: what waits there is not sent |
    /// | `cqrs_outbox_relays` | relays that were seen lately |
    /// | `cqrs_outbox_suspended_topics` | topics that one of them cannot reach |
    /// | `cqrs_outbox_hold` | 1 while relaying is on hold |
    /// | `cqrs_outbox_oldest_snapshot_seconds` | on PostgreSQL: see [`oldest_snapshot`](Self::oldest_snapshot); 0 if there is none |
    pub fn tell_metrics(&self, labels: &[(&'static str, String)]) {
        let seconds = |age: Option<Duration>| age.unwrap_or_default().as_secs_f64();
        let suspended = self.relays.iter().flat_map(|relay| &relay.suspended);
        let suspended: BTreeSet<&str> = suspended.map(|one| &*one.topic).collect();
        for (name, value) in [
            ("cqrs_outbox_waiting", self.waiting as f64),
            ("cqrs_outbox_oldest_waiting_seconds", seconds(self.oldest_waiting)),
            ("cqrs_outbox_parked", self.parked as f64),
            ("cqrs_outbox_closed_gates", self.closed_gates as f64),
            ("cqrs_outbox_scheduled", self.scheduled as f64),
            ("cqrs_outbox_dead_letters", self.dead_letters as f64),
            ("cqrs_outbox_groups", self.groups as f64),
            ("cqrs_outbox_unowned_groups", self.unowned_groups as f64),
            ("cqrs_outbox_relays", self.relays.len() as f64),
            ("cqrs_outbox_suspended_topics", suspended.len() as f64),
            ("cqrs_outbox_hold", f64::from(u8::from(self.hold))),
            (
                "cqrs_outbox_oldest_snapshot_seconds",
                seconds(self.oldest_snapshot.as_ref().map(|snapshot| snapshot.age)),
            ),
        ] {
            metrics::gauge!(name, labels).set(value);
        }
    }
}

/// A lane that waits.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateStatus {
    /// Which.
    pub lane: Lane,
    /// How long it still waits, by the database's clock; zero if it is due, `None` if it waits until somebody acts.
    pub opens_in: Option<Duration>,
    /// Why: the beginning of the last refusal, up to 500 characters.
    pub error: Option<String>,
    /// How long ago it was closed.
    pub closed: Duration,
}

/// A snapshot that somebody holds.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// How long its transaction has been open.
    pub age: Duration,
    /// Whose it is, for people: process, user, application and state.
    pub holder: String,
}

/// A relay that was seen.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayStatus {
    /// Its name.
    pub name: String,
    /// New for each of its starts.
    pub incarnation: Uuid,
    /// Of this library.
    pub version: String,
    /// How many groups it owns.
    pub owned_groups: u64,
    /// How long ago it was seen, by the database's clock.
    pub seen: Duration,
    /// The topics that it could not reach when it was last seen, 20 at most: what is for them waits.
    pub suspended: Vec<SuspendedTopic>,
}

/// All of it, as one statement gives it.
#[derive(QueryableByName, Debug)]
pub struct StatusRow {
    #[diesel(sql_type = Integer)]
    schema_version: i32,
    #[diesel(sql_type = Integer)]
    min_reader_version: i32,
    #[diesel(sql_type = Text)]
    installation_id: String,
    #[diesel(sql_type = Text)]
    order_unit: String,
    #[diesel(sql_type = Bool)]
    hold: bool,
    /// In the hot table.
    #[diesel(sql_type = BigInt)]
    hot: i64,
    /// Seconds.
    #[diesel(sql_type = Nullable<Double>)]
    oldest_waiting: Option<f64>,
    #[diesel(sql_type = BigInt)]
    parked: i64,
    #[diesel(sql_type = BigInt)]
    closed_gates: i64,
    #[diesel(sql_type = BigInt)]
    all_scheduled: i64,
    /// Of these.
    #[diesel(sql_type = BigInt)]
    due: i64,
    /// Seconds; negative if it is not due.
    #[diesel(sql_type = Nullable<Double>)]
    oldest_due: Option<f64>,
    #[diesel(sql_type = BigInt)]
    dead_letters: i64,
    #[diesel(sql_type = BigInt)]
    all_groups: i64,
    #[diesel(sql_type = BigInt)]
    unowned_groups: i64,
    /// JSON: `[[name, incarnation, version, owned groups, seconds since it was seen, suspended topics as text], ..]`
    #[diesel(sql_type = Text)]
    relays: String,
    /// JSON: `[[lane in hex, seconds until it opens or null, error or null, seconds since it was closed], ..]`
    #[diesel(sql_type = Text)]
    gates: String,
    /// JSON: `[seconds, holder]`
    #[diesel(sql_type = Nullable<Text>)]
    oldest_snapshot: Option<String>,
}

impl StatusRow {
    pub(crate) fn into_status(self) -> serde_json::Result<OutboxStatus> {
        let relays: Vec<(String, String, String, u64, f64, Option<String>)> =
            serde_json::from_str(&self.relays)?;
        let mut relays: Vec<RelayStatus> = relays
            .into_iter()
            .map(|(name, incarnation, version, owned_groups, seen, suspended)| RelayStatus {
                name,
                incarnation: Uuid::try_parse(&incarnation).unwrap_or_default(),
                version,
                owned_groups,
                seen: duration(seen),
                suspended: suspended.as_deref().map(suspended_topics).unwrap_or_default(),
            })
            .collect();
        relays.sort_by(|a, b| (&a.name, a.incarnation).cmp(&(&b.name, b.incarnation)));
        let mut gates: Vec<(String, Option<f64>, Option<String>, f64)> = serde_json::from_str(&self.gates)?;
        gates.sort_by(|a, b| b.3.total_cmp(&a.3));
        let gates = gates.into_iter().map(|(lane, opens_in, error, closed)| GateStatus {
            lane: Lane::from(from_hex(&lane)),
            opens_in: opens_in.map(duration),
            error,
            closed: duration(closed),
        });
        let oldest_snapshot: Option<(f64, String)> =
            self.oldest_snapshot.map(|snapshot| serde_json::from_str(&snapshot)).transpose()?;
        let oldest_due = self.oldest_due.filter(|_| self.due > 0);
        Ok(OutboxStatus {
            schema_version: self.schema_version,
            min_reader_version: self.min_reader_version,
            // What is no UUID is told where it is asked for.
            installation_id: Uuid::try_parse(&self.installation_id).unwrap_or_default(),
            order_unit: OrderUnit::parse(&self.order_unit).unwrap_or_default(),
            hold: self.hold,
            waiting: count(self.hot) + count(self.parked) + count(self.due),
            oldest_waiting: self
                .oldest_waiting
                .into_iter()
                .chain(oldest_due)
                .max_by(f64::total_cmp)
                .map(duration),
            parked: count(self.parked),
            closed_gates: count(self.closed_gates),
            gates: gates.collect(),
            oldest_snapshot: oldest_snapshot
                .map(|(age, holder)| SnapshotStatus { age: duration(age), holder }),
            scheduled: count(self.all_scheduled - self.due),
            dead_letters: count(self.dead_letters),
            groups: count(self.all_groups),
            unowned_groups: count(self.unowned_groups),
            relays,
        })
    }
}

/// As a relay records them.
fn suspended_topics(text: &str) -> Vec<SuspendedTopic> {
    let pairs: Vec<(String, String)> = serde_json::from_str(text).unwrap_or_default();
    pairs.into_iter().map(|(topic, error)| SuspendedTopic { topic, error }).collect()
}

/// Bytes, as the databases write them.
fn from_hex(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks_exact(2);
    pairs.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// What is in the database's future has taken no time at all.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

fn count(rows: i64) -> u64 {
    u64::try_from(rows).unwrap_or(0)
}

#[cfg(all(test, feature = "metrics"))]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use metrics::{Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

    use super::*;

    #[derive(Clone, Default)]
    struct Gauges(Arc<Mutex<BTreeMap<String, f64>>>);

    struct Named(Gauges, String);

    impl GaugeFn for Named {
        fn increment(&self, _: f64) {}
        fn decrement(&self, _: f64) {}

        fn set(&self, value: f64) {
            if let Ok(mut values) = self.0.0.lock() {
                values.insert(self.1.clone(), value);
            }
        }
    }

    impl Recorder for Gauges {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            let labels: Vec<_> = key.labels().map(|label| label.value()).collect();
            Gauge::from_arc(Arc::new(Named(self.clone(), format!("{} of {}", key.name(), labels.join(",")))))
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn a_status_is_told_by_its_names() {
        let row = StatusRow {
            schema_version: 1,
            min_reader_version: 1,
            installation_id: "0190A8F2C5B07D3E8F1A2B3C4D5E6F70".to_owned(),
            order_unit: "topic_and_key".to_owned(),
            hold: true,
            hot: 2,
            oldest_waiting: Some(1.5),
            parked: 3,
            all_scheduled: 7,
            due: 4,
            oldest_due: Some(2.5),
            closed_gates: 4,
            dead_letters: 5,
            all_groups: 64,
            unowned_groups: 6,
            relays: r#"[["one", "", "", 0, 0, null], ["two", "", "", 0, 0, "[[\"a\", \"no\"]]"]]"#.to_owned(),
            gates: r#"[["6b61", null, "no", 1], ["6b62", -1, null, 2]]"#.to_owned(),
            oldest_snapshot: Some(r#"[7.5, "process 1"]"#.to_owned()),
        };
        let status = row.into_status().unwrap();
        let lanes: Vec<_> = status.gates.iter().map(|gate| (gate.lane.as_bytes(), gate.opens_in)).collect();
        assert_eq!(lanes, [(&b"kb"[..], Some(Duration::ZERO)), (b"ka", None)]);

        let gauges = Gauges::default();
        metrics::with_local_recorder(&gauges, || status.tell_metrics(&[("outbox", "orders".to_owned())]));
        let told: Vec<_> = gauges.0.lock().unwrap().clone().into_iter().collect();
        let wanted = [
            ("closed_gates", 4.0),
            ("dead_letters", 5.0),
            ("groups", 64.0),
            ("hold", 1.0),
            ("oldest_snapshot_seconds", 7.5),
            ("oldest_waiting_seconds", 2.5),
            ("parked", 3.0),
            ("relays", 2.0),
            ("scheduled", 3.0),
            ("suspended_topics", 1.0),
            ("unowned_groups", 6.0),
            ("waiting", 9.0),
        ];
        assert_eq!(told, wanted.map(|(name, value)| (format!("cqrs_outbox_{name} of orders"), value)));
    }
}
