//! The calls of an engine, carried out on the tables in memory.

use std::time::Duration;

use cqrs_outbox::engine::{Action, Failed, Input};
use cqrs_outbox::memory::MemoryTables;
use cqrs_outbox::{Lease, RelayId};

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
}

pub(crate) fn kind(action: &Action) -> &'static str {
    match action {
        Action::Heartbeat(_) => "heartbeat",
        Action::Read(_) => "read",
        Action::ReadParked(_) => "read parked",
        Action::Publish(_) => "publish",
        Action::Settle(_) => "settle",
        Action::Reject(_) => "reject",
        Action::SetAside { .. } => "set aside",
        Action::OpenGate { .. } => "open gate",
        Action::Leave => "leave",
    }
}

/// The answer to a call that failed.
pub(crate) fn failed(action: &Action) -> Input {
    match action {
        Action::Heartbeat(_) => Input::Heartbeat(Err(Failed)),
        Action::Read(_) => Input::Read(Err(Failed)),
        Action::ReadParked(_) => Input::ReadParked(Err(Failed)),
        Action::Settle(_) => Input::Settled(Err(Failed)),
        Action::Reject(_) => Input::Rejected(Err(Failed)),
        Action::SetAside { .. } => Input::SetAside(Err(Failed)),
        Action::OpenGate { .. } => Input::GateOpened(Err(Failed)),
        Action::Publish(_) | Action::Leave => Input::Left,
    }
}

/// The answer to a call that is carried out, `now` by the database's clock.
pub(crate) fn carry_out(tables: &mut MemoryTables, now: Duration, relay: &RelayId, action: &Action) -> Input {
    match action {
        Action::Heartbeat(heartbeat) => Input::Heartbeat(Ok(tables.heartbeat(now, relay, heartbeat))),
        Action::Read(request) => Input::Read(Ok(tables.read(request))),
        Action::ReadParked(request) => Input::ReadParked(Ok(tables.read_parked(now, request))),
        Action::Settle(confirmed) => {
            tables.settle(confirmed);
            Input::Settled(Ok(()))
        }
        Action::Reject(rejection) => Input::Rejected(Ok(tables.reject(now, rejection))),
        Action::SetAside { lease, lane, ids } => Input::SetAside(Ok(tables.set_aside(*lease, lane, ids))),
        Action::OpenGate { lease, lane } => Input::GateOpened(Ok(tables.open_gate(*lease, lane))),
        Action::Leave => {
            tables.leave(relay);
            Input::Left
        }
        Action::Publish(_) => unreachable!("that is for the broker"),
    }
}

/// The lease that a negative outcome names.
pub(crate) fn fenced_by(action: &mut Action) -> Option<&mut Lease> {
    match action {
        Action::Reject(rejection) => Some(&mut rejection.lease),
        Action::SetAside { lease, .. } | Action::OpenGate { lease, .. } => Some(lease),
        _ => None,
    }
}
