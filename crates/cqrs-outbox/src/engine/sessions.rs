//! Several events of a key with the broker at the same time: in a session, on which nothing overtakes what went before it
//! and nothing follows what was lost (see [`PublishSession`](cqrs_core::broker::PublishSession)).
//!
//! A session never judges. Whatever goes wrong in it is an unknown outcome for all that it carried, and a new session takes
//! its place; the lanes it was carrying wait for all its answers, then send one by one what was not confirmed, by the way of
//! everyone else, and what becomes of these is decided there. So only lanes that go well are in a session, and an event that
//! the broker refuses ends one session, not one for each attempt.

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use cqrs_core::broker::Receipt;

use super::{Action, Engine, LaneState};
use crate::row::{Lane, OutboxRow};
use crate::settings::RelaySettings;

/// The session of this relay: at most one takes events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Sessions {
    /// The number of the present one.
    number: u64,
    failures: u32,
    /// No event goes into a session before.
    resumes: Duration,
}

impl Sessions {
    fn success(&mut self) {
        self.failures = 0;
    }

    /// This one is over; `false` if it was before.
    fn end(&mut self, number: u64, now: Duration, settings: &RelaySettings) -> bool {
        let is_present = number == self.number;
        if is_present {
            self.number += 1;
            self.failures += 1;
            self.resumes = now + settings.backoff_after(self.failures);
        }
        is_present
    }

    pub(super) fn rebase(&mut self, now: Duration) {
        self.resumes = self.resumes.saturating_sub(now);
    }
}

/// How the events of a lane go to the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Course {
    /// One by one.
    #[default]
    Alone,
    /// The same, and the last one was confirmed: the next may be the first in a session.
    Confirmed,
    /// In a session.
    Session(Flight),
}

/// What a lane has in a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Flight {
    session: u64,
    topic: String,
    rows: BTreeSet<i64>,
    /// The last receipt. Before the first one nothing follows.
    receipt: Option<Receipt>,
    /// Those that were not confirmed. With the first of them the session is over, and nothing follows; they stay here until all are
    /// answered, for they go again together: nothing of the lane may come between them, whoever owns it meanwhile.
    not_confirmed: BTreeSet<i64>,
}

/// How an event goes to the broker.
pub(super) enum Way {
    Alone,
    Session(Option<Receipt>),
}

impl Engine {
    /// How the next event of a lane goes; `None` if it has to wait for those that are in a session.
    pub(super) fn way(&self, row: &OutboxRow, now: Duration) -> Option<Way> {
        let state = self.lanes.get(&row.lane)?;
        let may_be_in_session = self.may_be_in_session(state, row);
        match &state.course {
            Course::Session(flight) => match &flight.receipt {
                Some(receipt) if may_be_in_session && self.is_of_present(flight, row) => {
                    let has_room = flight.rows.len() < self.settings.max_in_flight_per_key;
                    has_room.then(|| Way::Session(Some(receipt.clone())))
                }
                _ => flight.rows.is_empty().then_some(Way::Alone),
            },
            Course::Confirmed
                if may_be_in_session && state.queue.len() > 1 && now >= self.sessions.resumes =>
            {
                Some(Way::Session(None))
            }
            Course::Confirmed | Course::Alone => Some(Way::Alone),
        }
    }

    fn is_of_present(&self, flight: &Flight, row: &OutboxRow) -> bool {
        flight.session == self.sessions.number && flight.topic == row.message.topic
    }

    /// What may be held against an event, and what waits behind a gate, goes by itself.
    fn may_be_in_session(&self, state: &LaneState, row: &OutboxRow) -> bool {
        self.settings.max_in_flight_per_key > 1
            && row.lane.is_of_key()
            && row.defect.is_none()
            && state.alone_up_to.is_none_or(|last| row.id > last)
            && !self.is_watched(row.group)
            && !self.gates.contains_key(&row.lane)
            && !self.destinations.is_suspended(&row.message.topic)
    }

    pub(super) fn begin_publish(&mut self, row: Arc<OutboxRow>, way: Way) -> Action {
        let number = self.sessions.number;
        let Some(state) = self.lanes.get_mut(&row.lane) else { return Action::Publish(row) };
        state.queue.pop_front();
        let Way::Session(after) = way else {
            state.course = Course::Alone;
            state.busy = true;
            return Action::Publish(row);
        };
        if let (Course::Session(flight), Some(_)) = (&mut state.course, &after) {
            flight.rows.insert(row.id);
        } else {
            state.course = Course::Session(Flight {
                session: number,
                topic: row.message.topic.clone(),
                rows: [row.id].into(),
                receipt: None,
                not_confirmed: BTreeSet::new(),
            });
        }
        let lane = row.lane.clone();
        self.schedule(&lane);
        Action::PublishInSession { row, session: number, after }
    }

    /// Takes the row out of its session, if it was in one, and says in which.
    pub(super) fn land(&mut self, row: &OutboxRow) -> Option<u64> {
        match &mut self.lanes.get_mut(&row.lane)?.course {
            Course::Session(flight) => flight.rows.remove(&row.id).then_some(flight.session),
            Course::Alone | Course::Confirmed => None,
        }
    }

    pub(super) fn confirmed_in_session(&mut self, row: &OutboxRow, receipt: &Receipt) {
        if let Some(state) = self.lanes.get_mut(&row.lane)
            && let Course::Session(flight) = &mut state.course
        {
            flight.receipt = Some(receipt.clone());
            if flight.session == self.sessions.number {
                self.sessions.success();
            }
        }
    }

    pub(super) fn failed_in_session(&mut self, now: Duration, row: &OutboxRow, session: u64) {
        if self.sessions.end(session, now, &self.settings) {
            self.pace.doubt();
        }
        if let Some(state) = self.lanes.get_mut(&row.lane)
            && let Course::Session(flight) = &mut state.course
        {
            flight.not_confirmed.insert(row.id);
        }
    }

    /// Once all that a lane had in a session that failed was answered, it goes on alone, after a while.
    pub(super) fn end_flight(&mut self, now: Duration, lane: &Lane) {
        let Some(state) = self.lanes.get_mut(lane) else { return };
        let Course::Session(flight) = &mut state.course else { return };
        if !flight.rows.is_empty() || flight.not_confirmed.is_empty() {
            return;
        }
        let (group, not_confirmed) = (state.group, mem::take(&mut flight.not_confirmed));
        state.course = Course::Alone;
        state.alone_up_to = state.alone_up_to.max(not_confirmed.last().copied());
        not_confirmed.iter().for_each(|_| self.deactivate(group));
        if self.lease(group).is_none() || self.hold {
            // The new owner finds out; or whoever ends the hold, behind which other events may stand there.
            return self.forget_unsent(lane, not_confirmed);
        }
        let Some(state) = self.lanes.get_mut(lane) else { return };
        not_confirmed.into_iter().for_each(|id| state.insert(id));
        if state.may_be_scheduled() {
            state.scheduled = true;
            state.doubts += 1;
            let at = now + self.settings.backoff_after(state.doubts);
            self.delayed.insert((at, lane.clone()));
        }
    }
}

impl LaneState {
    /// How many of its rows are in a session.
    pub(super) fn in_session(&self) -> usize {
        match &self.course {
            Course::Session(flight) => flight.rows.len() + flight.not_confirmed.len(),
            Course::Alone | Course::Confirmed => 0,
        }
    }
}
