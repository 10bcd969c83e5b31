//! What an operator wants to know.

use std::time::Duration;

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
    /// Whether an operator has stopped all relaying.
    pub hold: bool,
    /// Events in the hot table: they may be sent now, or their lane is about to be set aside.
    pub waiting: u64,
    /// How long the first event in line has been waiting, by the database's clock and counted from when it occurred; of
    /// the hot and of the parked events, not of the dead ones. `None` if nothing waits.
    pub oldest_waiting: Option<Duration>,
    /// Events that stand aside behind the closed gate of their lane.
    pub parked: u64,
    /// Lanes that wait.
    pub closed_gates: u64,
    /// Events that wait for their time.
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
}

/// All of it, as one statement gives it.
#[derive(QueryableByName, Debug)]
pub struct StatusRow {
    #[diesel(sql_type = Integer)]
    schema_version: i32,
    #[diesel(sql_type = Integer)]
    min_reader_version: i32,
    #[diesel(sql_type = Bool)]
    hold: bool,
    #[diesel(sql_type = BigInt)]
    waiting: i64,
    /// Seconds.
    #[diesel(sql_type = Nullable<Double>)]
    oldest_waiting: Option<f64>,
    #[diesel(sql_type = BigInt)]
    parked: i64,
    #[diesel(sql_type = BigInt)]
    closed_gates: i64,
    #[diesel(sql_type = BigInt)]
    scheduled: i64,
    #[diesel(sql_type = BigInt)]
    dead_letters: i64,
    #[diesel(sql_type = BigInt)]
    all_groups: i64,
    #[diesel(sql_type = BigInt)]
    unowned_groups: i64,
    /// JSON: `[[name, incarnation, version, owned groups, seconds since it was seen], ..]`
    #[diesel(sql_type = Text)]
    relays: String,
}

impl StatusRow {
    pub(crate) fn into_status(self) -> serde_json::Result<OutboxStatus> {
        let relays: Vec<(String, String, String, u64, f64)> = serde_json::from_str(&self.relays)?;
        let mut relays: Vec<RelayStatus> = relays
            .into_iter()
            .map(|(name, incarnation, version, owned_groups, seen)| RelayStatus {
                name,
                incarnation: Uuid::try_parse(&incarnation).unwrap_or_default(),
                version,
                owned_groups,
                seen: duration(seen),
            })
            .collect();
        relays.sort_by(|a, b| (&a.name, a.incarnation).cmp(&(&b.name, b.incarnation)));
        Ok(OutboxStatus {
            schema_version: self.schema_version,
            min_reader_version: self.min_reader_version,
            hold: self.hold,
            waiting: count(self.waiting),
            oldest_waiting: self.oldest_waiting.map(duration),
            parked: count(self.parked),
            closed_gates: count(self.closed_gates),
            scheduled: count(self.scheduled),
            dead_letters: count(self.dead_letters),
            groups: count(self.all_groups),
            unowned_groups: count(self.unowned_groups),
            relays,
        })
    }
}

/// An event that says it occurred in the database's future has waited for no time at all.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

fn count(rows: i64) -> u64 {
    u64::try_from(rows).unwrap_or(0)
}
