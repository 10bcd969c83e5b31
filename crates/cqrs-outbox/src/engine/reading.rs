//! What the store is asked for, and what of its answers may be believed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Action, Engine, Failed, FencedChange, Gate, GateState, LaneState};
use crate::row::{Lane, OutboxRow, Place};
use crate::store::{Lease, ReadRequest};

impl Engine {
    pub(super) fn poll_read(&mut self, now: Duration) -> Option<Action> {
        if self.reading.is_some() || self.hold || now < self.store_resumes {
            return None;
        }
        let is_full = !self.has_room(8);
        // Each read has to step over what is in memory. But what is in memory may all be of a few keys that are slow.
        let waits = is_full || (now < self.top_up_at && !self.has_room(2));
        let hot_is_due = self.read_now || now >= self.next_read;
        let parked_is_due = self.read_parked_now || now >= self.next_read_parked;
        if !hot_is_due && !parked_is_due {
            return None;
        }
        let leases: Vec<Lease> = self.valid_leases(now).collect();
        if leases.is_empty() || waits {
            // Owed until there is room, or leases.
            (self.read_now, self.read_parked_now) = (hot_is_due, parked_is_due);
            let tops_up = !leases.is_empty() && !is_full;
            self.next_read_parked = now + self.settings.poll_interval;
            self.next_read = if tops_up { self.top_up_at } else { self.next_read_parked };
            if is_full {
                self.make_room(now);
            }
            return self.poll_fenced(now);
        }
        // In turns, so that neither waits for ever where a read takes as long as a heartbeat's interval.
        self.parked_last = parked_is_due && !(hot_is_due && self.parked_last);
        self.doubtful.clear();
        let room = self.settings.max_rows.saturating_sub(self.rows.len());
        let bytes = self.settings.max_bytes.saturating_sub(self.bytes);
        let request = ReadRequest {
            leases,
            known: self.rows.keys().copied().collect(),
            limit: room.min(self.settings.batch),
            max_bytes: bytes,
        };
        self.reading = Some(request.clone());
        if self.parked_last {
            // Their gate may be due still, but it is about to close.
            let closing = self.fenced.iter().filter_map(FencedChange::closes);
            self.doubtful.extend(closing.cloned());
            self.read_parked_now = false;
            self.next_read_parked = now + self.settings.heartbeat_interval;
            Some(Action::ReadParked(request))
        } else {
            self.read_now = false;
            self.next_read = now + self.quiet;
            Some(Action::Read(request))
        }
    }

    pub(super) fn on_read(&mut self, now: Duration, answer: Result<Vec<OutboxRow>, Failed>) {
        let request = self.reading.take();
        let (Some(rows), Some(request)) = (self.store_answered(now, answer), request) else {
            self.read_now = true;
            self.next_read = now;
            return;
        };
        self.stats.reads += 1;
        self.quiet = if rows.is_empty() { self.quiet * 2 } else { Duration::ZERO };
        self.limit_quiet();
        self.next_read = now + self.quiet;
        if self.hold {
            // It was asked before.
            self.read_now = true;
            return;
        }
        self.read_now |= may_have_more(&rows, &request);
        let mut aside = BTreeMap::<Lane, Vec<i64>>::new();
        for row in rows {
            let row = self.with_lane(row);
            if !self.is_wanted(&row, &request) {
                continue;
            }
            if self.doubtful.contains(&row.lane) {
                self.read_now = true;
                continue;
            }
            if row.place == Place::Gated {
                let closed = Gate { group: row.group, state: GateState::Closed };
                self.gates.entry(row.lane.clone()).or_insert(closed);
            }
            // The gate may have closed after the read began.
            if self.gates.contains_key(&row.lane) {
                aside.entry(row.lane.clone()).or_default().push(row.id);
                self.hold_row(row);
            } else {
                self.enqueue(row);
            }
        }
        for (lane, ids) in aside {
            self.fenced.push_back(FencedChange::SetAside { lane, ids });
        }
        if !self.read_now {
            self.looked_at(&request).for_each(|seen| seen.0 = true);
        }
        self.top_up_at = if self.has_room(2) { Duration::ZERO } else { now + TOP_UP };
    }

    /// Whether there is room for a batch, or at least for one part of so many of what memory may hold.
    fn has_room(&self, parts: usize) -> bool {
        let rows = self.settings.max_rows.saturating_sub(self.rows.len());
        let bytes = self.settings.max_bytes.saturating_sub(self.bytes);
        rows >= self.settings.batch.min((self.settings.max_rows / parts).max(1))
            && bytes >= (self.settings.max_bytes / parts).max(1)
    }

    /// Where its key's order is of no consequence, a row has its lane for itself, whatever its key waits for.
    fn with_lane(&self, row: OutboxRow) -> OutboxRow {
        if row.lane.is_of_key() && self.settings.unordered.includes(&row.message.topic) {
            OutboxRow { lane: Lane::of(None, row.event_id), place: Place::Hot, ..row }
        } else {
            row
        }
    }

    /// The interval of the polls, within its limits.
    fn limit_quiet(&mut self) {
        let shortest = self.settings.poll_interval;
        let told = if self.hears { HEARING } else { shortest };
        let longest = self.settings.idle_poll_interval.unwrap_or(told).max(shortest);
        self.quiet = self.quiet.clamp(shortest, longest);
    }

    pub(super) fn on_hears(&mut self, now: Duration, hears: bool) {
        self.hears = hears;
        self.limit_quiet();
        self.next_read = self.next_read.min(now + self.quiet);
    }

    pub(super) fn on_read_parked(&mut self, now: Duration, answer: Result<Vec<OutboxRow>, Failed>) {
        let request = self.reading.take();
        let (Some(rows), Some(request)) = (self.store_answered(now, answer), request) else {
            self.read_parked_now = true;
            self.next_read_parked = now;
            return;
        };
        if self.hold {
            self.read_parked_now = true;
            return;
        }
        self.read_parked_now |= may_have_more(&rows, &request);
        for row in rows {
            if !self.is_wanted(&row, &request) {
                continue;
            }
            if self.is_behind_held(&row) {
                self.next_read_parked = self.next_read_parked.min(now + self.settings.poll_interval);
                continue;
            }
            if self.doubtful.contains(&row.lane) {
                // While its gate is closing, every read would say the same.
                if self.fenced.iter().filter_map(FencedChange::closes).any(|lane| *lane == row.lane) {
                    self.next_read_parked = self.next_read_parked.min(now + self.settings.poll_interval);
                } else {
                    self.read_parked_now = true;
                }
                continue;
            }
            self.gates.insert(row.lane.clone(), Gate { group: row.group, state: GateState::Draining });
            self.enqueue(row);
        }
        if !self.read_parked_now {
            self.looked_at(&request).for_each(|seen| seen.1 = true);
        }
    }

    /// Of the groups that were read under the leases that they have now.
    fn looked_at<'a>(&'a mut self, request: &'a ReadRequest) -> impl Iterator<Item = &'a mut (bool, bool)> {
        let groups = self.groups.iter_mut();
        let same = |group, epoch| request.leases.contains(&Lease { group, epoch });
        groups.filter(move |(group, owned)| same(**group, owned.epoch)).map(|(_, owned)| &mut owned.looked_at)
    }

    /// Not in memory yet, and read under the lease that its group has now: between two leases another relay may have
    /// sent it, and what this one knew of the lane was forgotten.
    pub(super) fn is_wanted(&self, row: &OutboxRow, request: &ReadRequest) -> bool {
        let same_lease = self.lease(row.group).is_some_and(|lease| request.leases.contains(&lease));
        same_lease && !self.rows.contains_key(&row.id)
    }

    /// Earlier rows of its lane are in memory, to be moved aside. Another relay may own the group by now and have moved them:
    /// then they stand before this row, and the read was told to leave them out.
    fn is_behind_held(&self, row: &OutboxRow) -> bool {
        self.fenced.iter().any(|change| match change {
            FencedChange::SetAside { lane, ids } => *lane == row.lane && ids.iter().any(|id| *id < row.id),
            _ => false,
        })
    }

    pub(super) fn hold_row(&mut self, row: OutboxRow) {
        self.bytes += row.size;
        self.rows.insert(row.id, Arc::new(row));
    }

    pub(super) fn enqueue(&mut self, row: OutboxRow) {
        let (id, lane) = (row.id, row.lane.clone());
        let state = self.lanes.entry(lane.clone()).or_insert_with(|| LaneState::new(row.group));
        state.insert(id);
        self.hold_row(row);
        self.schedule(&lane);
    }
}

/// How far the interval of polls grows for a relay that is told of all commits, unless that is set.
const HEARING: Duration = Duration::from_secs(5);

/// How long after a read with much in memory the next one may come for little.
const TOP_UP: Duration = Duration::from_millis(25);

/// Whether there was no room for more in the answer, as far as one can tell.
fn may_have_more(rows: &[OutboxRow], request: &ReadRequest) -> bool {
    let bytes: usize = rows.iter().map(|row| row.size).sum();
    rows.len() >= request.limit || bytes * 2 >= request.max_bytes
}
