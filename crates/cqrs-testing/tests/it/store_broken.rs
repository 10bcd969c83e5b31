//! Every row of the suite for stores is seen failing: each fault fails the rows that are there for it, and no others.

use cqrs_testing::store::{Report, Settings, row_names, run};

use crate::store_model::{Fault, ModelAdapter};

async fn suite(fault: Fault) -> Report {
    run(&ModelAdapter(fault), &Settings::default()).await
}

#[tokio::test(start_paused = true)]
async fn every_row_can_pass() {
    let report = suite(Fault::None).await;
    report.assert_passed();
    assert!(report.skipped().is_empty(), "{report}");
}

/// What each fault fails.
const FAULTS: &[(Fault, &[&str])] = &[
    (Fault::ShowsUncommitted, &[]),
    (Fault::CommitsRollback, &[]),
    (Fault::CommitsDropped, &[]),
    (Fault::WritesBackwards, &[]),
    (Fault::ReadsFromCursor, &[]),
    (Fault::SqlRowChanges, &[]),
    (Fault::SqlRowHasNoHeaders, &[]),
    (Fault::LosesOneIn(100), &[]),
    (Fault::ReadsBackwards, &[]),
    (Fault::ReadsKnown, &[]),
    (Fault::IgnoresLimit, &[]),
    (Fault::IgnoresBytes, &[]),
    (Fault::BringsNothingTooLarge, &[]),
    (Fault::IgnoresLeases, &[]),
    (Fault::IgnoresLeasesOfParked, &[]),
    (Fault::SettlesLanes, &[]),
    (Fault::SettlesOnlyHot, &[]),
    (Fault::SettleNeedsRow, &[]),
    (Fault::DropsMicros, &[]),
    (Fault::DropsName, &[]),
    (Fault::DropsRepeatedHeaders, &[]),
    (Fault::SortsHeaders, &[]),
    (Fault::EmptyKeyIsNone, &[]),
    (Fault::KeysAreText, &[]),
    (Fault::TombstoneIsEmpty, &[]),
    (Fault::TrimsPayload, &[]),
    (Fault::ParkingLosesHeaders, &[]),
    (Fault::SecondReadDiffers, &[]),
    (Fault::LanesFoldCase, &[]),
    (Fault::LanesTrim, &[]),
    (Fault::LanesAreText, &[]),
    (Fault::OneLaneWithoutKey, &[]),
    (Fault::TakesTooMany, &[]),
    (Fault::TakesOwned, &[]),
    (Fault::ReleasesForOthers, &[]),
    (Fault::KeepsReleased, &[]),
    (Fault::EpochStays, &[]),
    (Fault::EpochStaysAfterExpiry, &[]),
    (Fault::NeverRenews, &[]),
    (Fault::NeverExpires, &[]),
    (Fault::RevivesExpired, &[]),
    (Fault::TrustsFarExpiry, &[]),
    (Fault::ExpiresAnyOther, &[]),
    (Fault::NeverForgetsRelays, &[]),
    (Fault::CountsOwnersOnly, &[]),
    (Fault::LeaveKeepsGroups, &[]),
    (Fault::LeaveKeepsRelay, &[]),
    (Fault::LeaveFreesAll, &[]),
    (Fault::OwnerByName, &[]),
    (Fault::UnfencedPark, &[]),
    (Fault::UnfencedBury, &[]),
    (Fault::UnfencedSetAside, &[]),
    (Fault::UnfencedOpenGate, &[]),
    (Fault::ParksWithoutGate, &[]),
    (Fault::GatesEverything, &[]),
    (Fault::GateForRowThatIsGone, &[]),
    (Fault::SetsAsideAnyway, &[]),
    (Fault::SetsAsideLane, &[]),
    (Fault::SettingAsideCounts, &[]),
    (Fault::DueAtOnce, &[]),
    (Fault::DueNever, &[]),
    (Fault::AgainKeepsGate, &[]),
    (Fault::ParkedBackwards, &[]),
    (Fault::ParkedLastFirst, &[]),
    (Fault::ParkedIgnoresBytes, &[]),
    (Fault::ParkedReadsKnown, &[]),
    (Fault::OpensAnyway, &[]),
    (Fault::NeverOpens, &[]),
    (Fault::OpensAllGates, &[]),
    (Fault::ForgetsAttempts, &[]),
    (Fault::KeepsFirstError, &[]),
    (Fault::BuryDrops, &[]),
    (Fault::BuryAlwaysGates, &[]),
    (Fault::BuryNeverGates, &[]),
    (Fault::BuryGateIsDue, &[]),
    (Fault::ReplaysToTheEnd, &[]),
    (Fault::ReplayKeepsAttempts, &[]),
    (Fault::ReplayKeepsDead, &[]),
    (Fault::RequestsAreNeverDone, &[]),
    (Fault::RequestsAnything, &[]),
    (Fault::DiscardKeepsGate, &[]),
    (Fault::DiscardKeepsDead, &[]),
    (Fault::AdmitsAll, &[]),
    (Fault::AdmitsWithoutWaiting, &[]),
    (Fault::RefusesWithoutWaiting, &[]),
    (Fault::KeepsRolledBackIds, &[]),
    (Fault::IdsFoldCase, &[]),
    (Fault::IdsTrim, &[]),
    (Fault::IdsAreText, &[]),
    (Fault::OneConsumer, &[]),
    (Fault::ConsumersFoldCase, &[]),
    (Fault::RunsConsumerAndIdTogether, &[]),
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
