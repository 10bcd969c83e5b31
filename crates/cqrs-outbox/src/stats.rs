use cqrs_core::broker::ErrorClass;

/// What a relay has done since it started, and what it has in memory now.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayStats {
    /// Groups in the database, as of the last heartbeat.
    pub groups: usize,
    /// Relays alive, as of the last heartbeat.
    pub relays: usize,
    /// Groups that this relay owns.
    pub owned_groups: usize,
    /// Whether the outbox is on hold, as of the last heartbeat: nothing is read or published then.
    pub hold: bool,
    /// Rows in memory.
    pub in_memory: usize,
    /// Rows with the broker.
    pub in_flight: usize,
    /// Lanes that this relay knows to wait behind a closed gate.
    pub closed_gates: usize,
    /// Topics that are suspended.
    pub suspended_destinations: usize,
    /// Reads of the outbox.
    pub reads: u64,
    /// Publishes begun; an event that is sent again counts again.
    pub published: u64,
    /// Receipts.
    pub confirmed: u64,
    /// Scheduled events whose time had come.
    pub promoted: u64,
    /// Rows removed after their receipt.
    pub settled: u64,
    /// How often an event was put aside, to wait there with the later ones of its key: because it was refused, or because
    /// its destination is suspended and the memory is full of such.
    pub parked: u64,
    /// Events that went to the dead letters.
    pub dead_lettered: u64,
    /// Publishes that failed because of the event.
    pub failed_event: u64,
    /// Publishes that failed because of the destination.
    pub failed_destination: u64,
    /// Publishes that failed because the broker was away, or the client beyond repair.
    pub failed_outage: u64,
    /// Publishes whose outcome is unknown.
    pub failed_unknown: u64,
}

impl RelayStats {
    pub(crate) fn count_failure(&mut self, class: ErrorClass) {
        match class {
            ErrorClass::Event => self.failed_event += 1,
            ErrorClass::Destination => self.failed_destination += 1,
            ErrorClass::Unknown => self.failed_unknown += 1,
            _ => self.failed_outage += 1,
        }
    }
}
