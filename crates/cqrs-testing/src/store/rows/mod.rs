//! The rows of the suite.

mod asking;
mod content;
mod dead;
mod fences;
mod gates;
mod inbox;
mod insight;
mod leases;
mod order;
mod reading;
mod relay;
mod retention;
mod schedule;
mod writing;

use std::future::Future;
use std::pin::Pin;

use super::StoreUnderTest;
use super::bench::{Bench, Checked};

/// A row: its name, what a store promises by it, and how that is put to the test.
pub(super) struct Entry<S> {
    pub(super) name: &'static str,
    pub(super) promise: &'static str,
    pub(super) run: for<'a> fn(&'a Bench<'a, S>) -> Running<'a>,
}

type Running<'a> = Pin<Box<dyn Future<Output = Checked> + Send + 'a>>;

macro_rules! rows {
    ($($name:literal, $promise:literal => $run:path;)*) => {
        pub(super) const NAMES: &[&str] = &[$($name),*];

        pub(super) fn all<S: StoreUnderTest>() -> Vec<Entry<S>> {
            vec![$(Entry { name: $name, promise: $promise, run: |bench| Box::pin($run(bench)) }),*]
        }
    };
}

rows! {
    "commit", "a commit leaves the rows, in the order in which they were written, and shows none before" => writing::commit;
    "rollback", "neither a rollback nor a dropped transaction leaves a row" => writing::rollback;
    "late-commits", "what is committed late, under a smaller id, is read" => writing::late_commits;
    "plain-sql", "a row that plain SQL wrote is read like any other, the same each time" => writing::plain_sql;

    "read-order", "rows are read in ascending order of their ids, without those that are known" => reading::order;
    "read-limits", "a read keeps to the number of rows and of bytes, but brings at least one row" => reading::limits;
    "read-groups", "rows of groups that are not leased are not read" => reading::groups;
    "settle", "what was confirmed is removed and nothing else, and a second time does no harm" => reading::settle;
    "settle-moved", "what was confirmed is removed although it has been moved aside since it was read" => reading::settle_moved;

    "message", "id, name, kind, version, topic, content type and time come back, to the microsecond" => content::message;
    "headers", "headers come back identical: unicode, empty, binary, repeated" => content::headers;
    "keys", "keys come back identical: none, empty, unicode, binary, long" => content::keys;
    "payloads", "payloads come back identical: none, empty, unicode, binary, large" => content::payloads;
    "parked-message", "an event is the same after it was parked" => content::parked_message;
    "lanes", "keys that differ in a byte are different lanes, and so is every row without a key" => content::lanes;

    "dedup", "of events with one deduplication key the first is written, and the others are told which one that was" => asking::dedup;
    "dedup-at-once", "of two transactions with one deduplication key the second waits for the first, and writes if that one is rolled back" => asking::dedup_at_once;
    "dedup-window", "when its window is over a deduplication key is free" => asking::dedup_window;
    "dedup-keys", "deduplication keys that differ in a byte are different keys" => asking::dedup_keys;
    "dedup-cancel", "a scheduled event that is cancelled frees its deduplication key, with the commit, and one that is moved keeps it" => asking::dedup_cancel;
    "dedup-discard", "a dead letter that is discarded frees its deduplication key, and one that is replayed keeps it" => asking::dedup_discard;
    "versions", "a version is written only above the last one of its key, and else nothing of the call is" => asking::versions;
    "versions-at-once", "of two transactions with a version of one key the second waits, and then meets the first one's" => asking::versions_at_once;
    "lock-key", "whoever locks a key waits for those that have, and for nobody else" => asking::lock_key;

    "schedule", "an event that is to go later is promoted when it is due, behind what was written before" => schedule::due;
    "schedule-order", "what is due is promoted in the order of its time, up to the limit" => schedule::order;
    "fence-promote", "only the owner of a group promotes its events" => schedule::fence;
    "schedule-change", "a scheduled event can be cancelled and moved within a transaction, until it is too late" => schedule::change;

    "lease-take", "a heartbeat takes as many free groups as are asked for, and gives back what it is told to" => leases::take;
    "lease-exclusive", "a leased group goes to no other relay until it is given back, and then under a higher epoch" => leases::exclusive;
    "lease-race", "of relays that take at once, each group goes to one" => leases::race;
    "lease-renewal", "a heartbeat renews the leases" => leases::renewal;
    "lease-expiry", "a lease that was not renewed goes to another relay, under a higher epoch" => leases::expiry;
    "lease-clock", "a lease that ends more than two lease times ahead counts as expired" => leases::clock;
    "census", "relays are counted while they live" => leases::census;
    "side-tables", "a heartbeat does not say that nothing stands aside, or is scheduled, where something does" => leases::side_tables;
    "leave", "a relay that leaves frees its groups at once" => leases::leave;
    "suspects", "what a relay that died had recorded is told to whoever takes its groups, and nothing of one that left or was late" => leases::suspects;
    "suspended", "topics that cannot be reached are recorded of a relay that lives, and of no other, and the store says which" => leases::suspended;

    "fence-park", "a relay that has lost its lease parks nothing" => fences::park;
    "fence-bury", "a relay that has lost its lease buries nothing" => fences::bury;
    "fence-set-aside", "a relay that has lost its lease sets nothing aside" => fences::set_aside;
    "fence-open-gate", "a relay that has lost its lease opens no gate" => fences::open_gate;

    "park", "a parked row is gone from the hot table, and the later ones of its lane are gated, and no others" => gates::park;
    "set-aside", "gated rows move aside behind a closed gate, and only there" => gates::set_aside;
    "parked-due", "parked rows are read when they are due, and not before" => gates::due;
    "parked-time", "the time until they are due passes by the database's clock" => gates::time;
    "parked-order", "parked rows are read in order of their ids, within the limits and the leased groups" => gates::order;
    "parked-behind", "a lane with nothing left to read keeps no other lane from being read" => gates::behind;
    "open-gate", "a gate opens only when nothing waits behind it" => gates::open;
    "order-unit", "what is refused holds back what has its key, on all topics or on its own, as the store says" => order::unit;
    "attempts", "attempts are counted over parking, and the last error is kept" => gates::attempts;

    "bury", "a buried row is a dead letter, and its lane goes on" => dead::bury;
    "bury-lane-waits", "where the lane is to wait for its dead letter, it does" => dead::lane_waits;
    "bury-follow", "where the later events of a lane are to follow it, they do, and come back in their order" => dead::follow;
    "own-lane", "a row that is refused in a lane of its own holds back nothing of its key" => dead::own_lane;
    "replay", "a dead letter that is asked for goes again, before the later ones of its lane" => dead::replay;
    "replay-several", "dead letters of one lane go again in their order, whichever was asked for first" => dead::replay_several;
    "replay-waits", "a lane that waits for several dead letters goes on when the last one is replayed or discarded" => dead::replay_waits;
    "discard", "a dead letter that is given up is gone, and its lane goes on" => dead::discard;

    "oldest-waiting", "the age of the oldest event that waits rises, also where it stands aside, and is none when nothing waits" => insight::oldest;

    "purge", "what waits, dead letters, and deduplication keys within their window outlive every purge" => retention::purge;

    "relay", "through relays that start and stop gracefully each event goes once, in order per key" => relay::graceful;
    "relay-killed", "what a relay that was killed leaves is sent by the next one, in order per key" => relay::killed;
    "relay-killed-at", "a relay that is killed after it took groups or read, or around a publish, a confirm or a settle, loses nothing, and what goes again is the same" => relay::killed_at;
    "relay-killed-by-event", "an event that ends the process of whoever sends it goes to the dead letters, and the others go on" => relay::killed_by_event;
    "relay-outage", "while the broker is away nothing is lost, sent or given up, and afterwards each event goes once" => relay::outage;
    "relay-rebalance", "relays that come, leave and die share the groups, with work in flight and writers beside them, whom nothing fails" => relay::rebalance;
    "relay-unreadable", "a row that cannot be read as it was promised is given up with a word on its column, and the others go" => relay::unreadable;
    "relay-refused", "a refused event holds back its own key, and its order stays" => relay::refused;
    "relay-unparked", "a refused event that an operator has tried again goes before what its key waits with, also what is written just then" => relay::unparked;
    "relay-topics", "where the topic belongs to what is in order, a refused event holds back its key on no other topic; else on all" => order::relayed;

    "inbox-twice", "a message that was admitted is a duplicate the second time" => inbox::twice;
    "inbox-at-once", "of the same message three times at once one is admitted, and the others wait for it" => inbox::at_once;
    "inbox-rollback", "if the first is rolled back, the second is admitted" => inbox::rollback;
    "inbox-ids", "ids that differ in case, in a trailing blank or in any byte are different ids" => inbox::ids;
    "inbox-consumers", "every consumer is admitted once" => inbox::consumers;
}
