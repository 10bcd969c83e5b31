//! The calls of an engine, carried out on the tables in memory.

use std::time::Duration;

use cqrs_outbox::engine::{Action, Failed, Input};
use cqrs_outbox::memory::MemoryTables;
use cqrs_outbox::{Lease, OutboxRow, Place, RelayId};

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Reads leave rows out, as `SKIP LOCKED` does.
    HiddenRows,
    /// An unknown outcome counts as a receipt.
    OnAfterUnknown,
    /// The first confirm counts for everything that is in flight.
    BatchSettled,
    /// The store does not look at the epoch of a negative outcome.
    Unfenced,
    /// The store reads on from the largest id it has seen.
    Cursor,
    /// The store does not tell which rows stand behind a gate.
    GateIgnored,
    /// A session takes more after one of its messages was lost.
    SessionGoesOn,
    /// What a session has sent behind a message that was refused arrives all the same.
    SessionHasGaps,
}

pub(crate) fn kind(action: &Action) -> &'static str {
    match action {
        Action::Heartbeat(_) => "heartbeat",
        Action::Read(_) => "read",
        Action::ReadParked(_) => "read parked",
        Action::Promote { .. } => "promote",
        Action::Publish(_) | Action::PublishInSession { .. } => "publish",
        Action::Settle(_) => "settle",
        Action::Reject(_) => "reject",
        Action::SetAside { .. } => "set aside",
        Action::OpenGate { .. } => "open gate",
        Action::RecordSuspects(_) => "record suspects",
        Action::Leave => "leave",
    }
}

/// The answer to a call of this [`kind`] that failed.
pub(crate) fn failed(kind: &str) -> Input {
    match kind {
        "heartbeat" => Input::Heartbeat(Err(Failed)),
        "read" => Input::Read(Err(Failed)),
        "read parked" => Input::ReadParked(Err(Failed)),
        "promote" => Input::Promoted(Err(Failed)),
        "settle" => Input::Settled(Err(Failed)),
        "reject" => Input::Rejected(Err(Failed)),
        "set aside" => Input::SetAside(Err(Failed)),
        "open gate" => Input::GateOpened(Err(Failed)),
        "record suspects" => Input::SuspectsRecorded(Err(Failed)),
        "leave" => Input::Left,
        other => unreachable!("{other} is for the broker"),
    }
}

/// What a call that is carried out leads to.
pub(crate) struct Done {
    pub(crate) answer: Input,
    /// Of a negative outcome: it changed something although another relay owns the group. That must never be.
    pub(crate) by_former_owner: bool,
}

/// Carries a call out, `now` by the database's clock.
pub(crate) fn carry_out(
    tables: &mut MemoryTables,
    now: Duration,
    relay: &RelayId,
    action: &Action,
    mutant: Option<Mutant>,
) -> Done {
    let mut action = action.clone();
    let mut before = None;
    if let Some(lease) = fenced_by(&mut action)
        && let Some((_, epoch)) = tables.holder(lease.group)
        && epoch != lease.epoch
    {
        before = Some(tables.clone());
        if mutant == Some(Mutant::Unfenced) {
            lease.epoch = epoch;
        }
    }
    let answer = match &action {
        Action::Heartbeat(heartbeat) => Input::Heartbeat(Ok(tables.heartbeat(now, relay, heartbeat))),
        Action::Read(request) => Input::Read(Ok(tables.read(request))),
        Action::ReadParked(request) => Input::ReadParked(Ok(tables.read_parked(now, request))),
        Action::Promote { leases, limit } => Input::Promoted(Ok(tables.promote(now, leases, *limit))),
        Action::Settle(confirmed) => {
            tables.settle(confirmed);
            Input::Settled(Ok(()))
        }
        Action::Reject(rejection) => Input::Rejected(Ok(tables.reject(now, rejection))),
        Action::SetAside { lease, lane, ids, later } => {
            Input::SetAside(Ok(tables.set_aside(*lease, lane, ids, *later)))
        }
        Action::OpenGate { lease, lane } => Input::GateOpened(Ok(tables.open_gate(*lease, lane))),
        Action::RecordSuspects(ids) => {
            tables.record_suspects(relay, ids);
            Input::SuspectsRecorded(Ok(()))
        }
        Action::Leave => {
            tables.leave(relay);
            Input::Left
        }
        Action::Publish(_) | Action::PublishInSession { .. } => unreachable!("that is for the broker"),
    };
    Done { answer, by_former_owner: before.is_some_and(|before| before != *tables) }
}

/// The lease that a negative outcome names.
fn fenced_by(action: &mut Action) -> Option<&mut Lease> {
    match action {
        Action::Reject(rejection) => Some(&mut rejection.lease),
        Action::SetAside { lease, .. } | Action::OpenGate { lease, .. } => Some(lease),
        _ => None,
    }
}

impl Mutant {
    /// What a relay with this `cursor` gets of the rows that were read.
    pub(crate) fn distort(self, cursor: &mut i64, rows: &mut Vec<OutboxRow>) {
        match self {
            Self::Cursor => {
                rows.retain(|row| row.id > *cursor);
                *cursor = rows.last().map_or(*cursor, |row| row.id);
            }
            Self::GateIgnored => {
                for row in rows.iter_mut().filter(|row| row.place == Place::Gated) {
                    row.place = Place::Hot;
                }
            }
            _ => {}
        }
    }
}
