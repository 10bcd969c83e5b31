//! Only a relay can say that a broker has a row. So a relay's engine is told so.

use std::time::Duration;

use cqrs_core::broker::Receipt;
use cqrs_outbox::engine::{Action, Engine, Input};
use cqrs_outbox::{Confirmed, Fenced, Lease, OutboxRow, Ownership, Place, Promoted, RelaySettings};

use super::bench::{Checked, fail};

/// What the engine settles when it has read these rows and the broker has confirmed each.
pub(super) fn confirmed(rows: Vec<OutboxRow>) -> Checked<Vec<Confirmed>> {
    let wanted = rows.len();
    let mut groups: Vec<_> = rows.iter().map(|row| row.group).collect();
    groups.sort();
    groups.dedup();
    let ownership = Ownership {
        leases: groups.iter().map(|group| Lease { group: *group, epoch: 1 }).collect(),
        groups: groups.len(),
        relays: 1,
        hold: false,
    };
    let (mut parked, mut hot): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| row.place == Place::Parked);
    let mut confirmed = Vec::new();
    let mut engine = Engine::new(RelaySettings::default());
    let now = Duration::ZERO;
    while confirmed.len() < wanted {
        let answer = match engine.poll(now) {
            Some(Action::Heartbeat(_)) => Input::Heartbeat(Ok(ownership.clone())),
            Some(Action::Read(_)) => Input::Read(Ok(std::mem::take(&mut hot))),
            Some(Action::ReadParked(_)) => Input::ReadParked(Ok(std::mem::take(&mut parked))),
            Some(Action::Publish(row)) => Input::Published { id: row.id, outcome: Ok(Receipt::new()) },
            Some(Action::Settle(settled)) => {
                confirmed.extend(settled);
                Input::Settled(Ok(()))
            }
            Some(Action::Promote { .. }) => Input::Promoted(Ok(Promoted::default())),
            Some(Action::OpenGate { .. }) => Input::GateOpened(Ok(Fenced::Done(true))),
            other => return fail(format!("the suite cannot settle these rows: {other:?}")),
        };
        engine.step(now, answer);
    }
    Ok(confirmed)
}
