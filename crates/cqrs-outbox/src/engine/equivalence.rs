//! When two engines go on alike.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::mem;
use std::time::Duration;

use super::{Engine, Owned};

impl Hash for Engine {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // So that a field that is new has to be considered.
        let Self {
            settings: _,
            left,
            phase,
            hold,
            groups,
            active,
            rows,
            bytes: _,
            lanes,
            ready,
            delayed,
            gates,
            doubtful,
            pace,
            destinations,
            sessions,
            suspects,
            broker_answers,
            in_flight,
            confirmed,
            settle_at,
            settling,
            fenced,
            fenced_busy,
            first_answer: _,
            counted: _,
            heartbeat_sent,
            heartbeat_failures,
            next_heartbeat,
            reading,
            parked_last,
            read_now,
            read_parked_now,
            next_read,
            next_read_parked,
            quiet,
            hears,
            top_up_at,
            promoting,
            promote_now,
            next_promotion,
            store_failures,
            store_resumes,
            stats,
        } = self;
        for (group, Owned { epoch, valid_until, releasing, watched, evidence, looked_at }) in groups {
            // How many they are is of consequence only when the last one goes.
            let are_watched = *watched > 0 && *broker_answers;
            (group, epoch, valid_until, releasing, are_watched, evidence).hash(state);
            (are_watched && looked_at.0, are_watched && looked_at.1).hash(state);
        }
        (left, phase, hold, active, lanes, ready, delayed, gates, doubtful).hash(state);
        (in_flight, pace, destinations, confirmed, settle_at, settling, fenced, fenced_busy).hash(state);
        (heartbeat_sent, heartbeat_failures, next_heartbeat).hash(state);
        (sessions, suspects, broker_answers).hash(state);
        (reading, parked_last, read_now, read_parked_now, next_read, next_read_parked, top_up_at).hash(state);
        (quiet, hears).hash(state);
        (promoting, promote_now, next_promotion, store_failures, store_resumes).hash(state);
        (stats.groups, stats.relays).hash(state);
        // A row is what it was when it was read; its id stands for the rest of it.
        state.write_usize(rows.len());
        for (id, row) in rows {
            (id, row.place, row.attempts).hash(state);
        }
    }
}

impl Engine {
    /// Counts all times from `now` on, which is zero from then on; what has passed by then has just passed. A model
    /// checker calls it, so that engines that differ in nothing but the time are equal.
    ///
    /// [`is_idle`](Self::is_idle) compares moments that have passed, and cannot be relied on afterwards.
    pub fn rebase(&mut self, now: Duration) {
        let shift = |at: &mut Duration| *at = at.saturating_sub(now);
        for owned in self.groups.values_mut() {
            shift(&mut owned.valid_until);
        }
        let delayed = mem::take(&mut self.delayed).into_iter();
        self.delayed = delayed.map(|(at, lane)| (at.saturating_sub(now), lane)).collect::<BTreeSet<_>>();
        self.pace.rebase(now);
        self.destinations.rebase(now);
        self.sessions.rebase(now);
        self.suspects.rebase(now);
        let known =
            [&mut self.first_answer, &mut self.counted, &mut self.heartbeat_sent, &mut self.next_promotion];
        for at in known.into_iter().flatten() {
            shift(at);
        }
        shift(&mut self.next_heartbeat);
        shift(&mut self.next_read);
        shift(&mut self.next_read_parked);
        shift(&mut self.top_up_at);
        shift(&mut self.settle_at);
        shift(&mut self.store_resumes);
    }
}
