//! Every row of the suite for stores is seen failing: each fault fails the rows that are there for it, and no others.

use cqrs_testing::store::{Report, Settings, row_names, run};

use crate::store_model::{Fault, ModelAdapter};

async fn suite(fault: Fault) -> Report {
    let mut settings = Settings::default();
    settings.events = 200;
    settings.keys = 8;
    run(&ModelAdapter(fault), &settings).await
}

#[tokio::test(start_paused = true)]
async fn every_row_can_pass() {
    let report = suite(Fault::None).await;
    report.assert_passed();
    assert!(report.skipped().is_empty(), "{report}");
}

/// What each fault fails.
const FAULTS: &[(Fault, &[&str])] = &[
    (Fault::ShowsUncommitted, &["commit", "late-commits"]),
    (Fault::CommitsRollback, &["rollback", "late-commits", "inbox-rollback"]),
    (Fault::CommitsDropped, &["rollback", "relay", "relay-killed", "inbox-rollback"]),
    (
        Fault::WritesBackwards,
        &[
            "commit",
            "read-order",
            "settle",
            "settle-moved",
            "message",
            "headers",
            "keys",
            "payloads",
            "parked-message",
            "lanes",
            "fence-park",
            "fence-bury",
            "park",
            "set-aside",
            "parked-order",
            "attempts",
            "bury",
            "bury-lane-waits",
            "discard",
        ],
    ),
    (
        Fault::ReadsFromCursor,
        &[
            "late-commits",
            "plain-sql",
            "read-order",
            "read-limits",
            "read-groups",
            "settle",
            "message",
            "headers",
            "keys",
            "payloads",
            "parked-message",
            "lanes",
            "fence-park",
            "fence-bury",
            "fence-set-aside",
            "fence-open-gate",
            "park",
            "set-aside",
            "parked-due",
            "open-gate",
            "attempts",
            "bury",
            "bury-lane-waits",
            "replay",
            "discard",
            "relay",
            "relay-killed",
            "relay-refused",
        ],
    ),
    (Fault::SqlRowChanges, &["plain-sql"]),
    (Fault::SqlRowHasNoHeaders, &["plain-sql"]),
    (Fault::LosesOneIn(100), &["read-groups", "relay", "relay-killed"]),
    (
        Fault::ReadsBackwards,
        &[
            "commit",
            "rollback",
            "late-commits",
            "plain-sql",
            "read-order",
            "read-limits",
            "read-groups",
            "settle",
            "settle-moved",
            "message",
            "headers",
            "keys",
            "payloads",
            "parked-message",
            "lanes",
            "fence-park",
            "fence-bury",
            "fence-set-aside",
            "fence-open-gate",
            "park",
            "set-aside",
            "parked-due",
            "parked-order",
            "open-gate",
            "attempts",
            "bury",
            "bury-lane-waits",
            "replay",
            "discard",
        ],
    ),
    (Fault::ReadsKnown, &["late-commits", "read-order", "read-limits"]),
    (Fault::IgnoresLimit, &["read-limits", "parked-order"]),
    (Fault::IgnoresBytes, &["read-limits"]),
    (Fault::BringsNothingTooLarge, &["read-limits", "parked-order"]),
    (Fault::IgnoresLeases, &["read-groups"]),
    (Fault::IgnoresLeasesOfParked, &["parked-order"]),
    (
        Fault::SettlesLanes,
        &["settle", "fence-open-gate", "park", "open-gate", "relay", "relay-killed", "relay-refused"],
    ),
    (
        Fault::SettlesOnlyHot,
        &["settle", "settle-moved", "parked-behind", "open-gate", "discard", "relay-refused"],
    ),
    (Fault::SettlesOnlyWhereItWas, &["settle-moved"]),
    (Fault::SettleNeedsRow, &["settle"]),
    (Fault::DropsMicros, &["message", "headers", "keys", "payloads", "parked-message"]),
    (Fault::DropsName, &["plain-sql", "message", "headers", "keys", "payloads", "parked-message"]),
    (Fault::DropsRepeatedHeaders, &["headers", "parked-message"]),
    (Fault::SortsHeaders, &["message", "headers", "keys", "payloads", "parked-message"]),
    (Fault::EmptyKeyIsNone, &["keys", "parked-message", "lanes"]),
    (Fault::KeysAreText, &["keys", "parked-message", "lanes"]),
    (Fault::TombstoneIsEmpty, &["payloads", "parked-message"]),
    (Fault::TrimsPayload, &["payloads"]),
    (Fault::ParkingLosesHeaders, &["parked-message"]),
    (
        Fault::SecondReadDiffers,
        &["plain-sql", "message", "headers", "keys", "payloads", "parked-message", "replay"],
    ),
    (Fault::LanesFoldCase, &["lanes"]),
    (Fault::LanesTrim, &["lanes"]),
    (Fault::LanesAreText, &["lanes"]),
    (Fault::OneLaneWithoutKey, &["lanes"]),
    (
        Fault::TakesTooMany,
        &[
            "lease-take",
            "lease-exclusive",
            "lease-expiry",
            "fence-park",
            "fence-bury",
            "fence-set-aside",
            "fence-open-gate",
        ],
    ),
    (
        Fault::TakesOwned,
        &["lease-exclusive", "lease-race", "lease-renewal", "lease-expiry", "lease-clock", "leave"],
    ),
    (Fault::ReleasesForOthers, &["lease-exclusive"]),
    (
        Fault::KeepsReleased,
        &["lease-take", "lease-exclusive", "fence-park", "fence-bury", "fence-set-aside", "fence-open-gate"],
    ),
    (Fault::ReleasesLaterLeases, &["lease-take"]),
    (
        Fault::EpochStays,
        &[
            "lease-take",
            "lease-exclusive",
            "lease-expiry",
            "lease-clock",
            "leave",
            "fence-park",
            "fence-bury",
            "fence-set-aside",
            "fence-open-gate",
        ],
    ),
    (Fault::EpochStaysAfterExpiry, &["lease-expiry", "lease-clock"]),
    (Fault::NeverRenews, &["lease-renewal"]),
    (Fault::NeverExpires, &["lease-expiry", "relay-killed"]),
    (Fault::RevivesExpired, &["lease-expiry"]),
    (Fault::TrustsFarExpiry, &["lease-clock"]),
    (Fault::ExpiresAnyOther, &["lease-clock"]),
    (Fault::NeverForgetsRelays, &["census", "relay-killed"]),
    (Fault::CountsOwnersOnly, &["census"]),
    (
        Fault::LeaveKeepsGroups,
        &["settle", "lease-race", "leave", "attempts", "relay", "relay-killed", "relay-refused"],
    ),
    (Fault::LeaveKeepsRelay, &["census"]),
    (Fault::LeaveFreesAll, &["leave"]),
    (Fault::OwnerByName, &["lease-exclusive"]),
    (Fault::UnfencedPark, &["fence-park"]),
    (Fault::UnfencedBury, &["fence-bury"]),
    (Fault::UnfencedSetAside, &["fence-set-aside"]),
    (Fault::UnfencedOpenGate, &["fence-open-gate"]),
    (
        Fault::ParksWithoutGate,
        &[
            "settle",
            "settle-moved",
            "parked-message",
            "lanes",
            "fence-set-aside",
            "fence-open-gate",
            "park",
            "set-aside",
            "parked-due",
            "parked-time",
            "parked-order",
            "parked-behind",
            "open-gate",
            "attempts",
            "relay-refused",
        ],
    ),
    (
        Fault::GatesEverything,
        &[
            "settle",
            "settle-moved",
            "lanes",
            "park",
            "set-aside",
            "parked-due",
            "parked-order",
            "open-gate",
            "bury-lane-waits",
            "replay",
            "discard",
            "relay-refused",
        ],
    ),
    (Fault::GateForRowThatIsGone, &["park"]),
    (Fault::SetsAsideAnyway, &["set-aside", "open-gate"]),
    (Fault::SetsAsideLane, &["set-aside"]),
    (Fault::SettingAsideCounts, &["set-aside"]),
    (Fault::DueAtOnce, &["parked-due", "parked-time"]),
    (
        Fault::DueNever,
        &[
            "settle",
            "settle-moved",
            "parked-message",
            "fence-set-aside",
            "set-aside",
            "parked-due",
            "parked-time",
            "parked-order",
            "parked-behind",
            "open-gate",
            "attempts",
            "replay",
            "discard",
            "relay-refused",
        ],
    ),
    (Fault::AgainKeepsGate, &["parked-due"]),
    (Fault::ParkedBackwards, &["settle", "parked-message", "set-aside", "parked-order", "parked-behind"]),
    (Fault::ParkedLastFirst, &["parked-order"]),
    (Fault::ParkedIgnoresBytes, &["parked-order"]),
    (Fault::ParkedReadsKnown, &["parked-order", "parked-behind"]),
    (Fault::ParkedFirstGates, &["parked-behind"]),
    (Fault::OpensAnyway, &["open-gate", "relay-refused"]),
    (Fault::NeverOpens, &["open-gate", "discard"]),
    (Fault::OpensAllGates, &["open-gate", "relay-refused"]),
    (Fault::CountsRefusalsTwice, &["attempts"]),
    (Fault::ForgetsAttempts, &["attempts"]),
    (Fault::KeepsFirstError, &["attempts"]),
    (Fault::BuryDrops, &["attempts", "bury", "bury-lane-waits", "replay", "discard"]),
    (Fault::BuryAlwaysGates, &["bury"]),
    (Fault::BuryNeverGates, &["bury-lane-waits", "discard"]),
    (Fault::BuryGateIsDue, &["bury-lane-waits"]),
    (Fault::ReplaysToTheEnd, &["replay"]),
    (Fault::ReplayKeepsAttempts, &["replay"]),
    (Fault::ReplayKeepsDead, &["replay"]),
    (Fault::RequestsAreNeverDone, &["replay"]),
    (Fault::RequestsAnything, &["replay", "discard"]),
    (Fault::DiscardKeepsGate, &["discard"]),
    (Fault::DiscardKeepsDead, &["discard"]),
    (Fault::AdmitsAll, &["inbox-twice", "inbox-at-once", "inbox-rollback", "inbox-ids", "inbox-consumers"]),
    (Fault::AdmitsWithoutWaiting, &["inbox-at-once", "inbox-rollback"]),
    (Fault::RefusesWithoutWaiting, &["inbox-at-once", "inbox-rollback"]),
    (Fault::KeepsRolledBackIds, &["inbox-rollback"]),
    (Fault::IdsFoldCase, &["inbox-ids"]),
    (Fault::IdsTrim, &["inbox-ids"]),
    (Fault::IdsAreText, &["inbox-ids"]),
    (Fault::OneConsumer, &["inbox-consumers"]),
    (Fault::ConsumersFoldCase, &["inbox-consumers"]),
    (Fault::RunsConsumerAndIdTogether, &["inbox-consumers"]),
];

#[tokio::test(start_paused = true)]
async fn every_fault_fails_its_rows() {
    let mut wrong = Vec::new();
    for (fault, rows) in FAULTS {
        let report = suite(*fault).await;
        if report.failed() != *rows {
            wrong.push(format!("(Fault::{fault:?}, &{:?}),", report.failed()));
        }
    }
    assert!(wrong.is_empty(), "other rows failed than those that stand here:\n{}", wrong.join("\n"));
}

#[test]
fn every_row_is_seen_failing() {
    let seen = |row: &&str| FAULTS.iter().any(|(_, rows)| rows.contains(row));
    let unseen: Vec<_> = row_names().filter(|row| !seen(row)).collect();
    assert!(unseen.is_empty(), "no fault fails {unseen:?}");
}
