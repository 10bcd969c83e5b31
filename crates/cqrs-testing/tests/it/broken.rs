//! Every row is seen failing: each fault fails the rows that are there for it, and no others.

use cqrs_testing::broker::{Outcome, Report, Settings, run};

use crate::faulty::{Adapter, Fault};

async fn suite(fault: Fault) -> Report {
    run(&Adapter::faulty(fault), &Settings::default()).await
}

macro_rules! fails {
    ($($test:ident: $fault:expr => [$($row:literal),+];)*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $test() {
                let report = suite($fault).await;
                assert_eq!(report.failed(), [$($row),+], "{report}");
            }
        )*
    };
}

fails! {
    drops_a_header_of_the_codec: Fault::DropsHeader("cqrs-version") => ["envelope", "formats"];
    drops_a_header_of_cloud_events: Fault::DropsHeader("ce_specversion") => ["formats", "dead-letters"];
    drops_the_compression: Fault::DropsHeader("content-encoding") => ["formats", "dead-letters"];
    drops_why_it_is_dead: Fault::DropsHeader("cqrs-dead-letter-event") => ["dead-letters"];
    drops_the_conversation: Fault::DropsHeader("correlation-id") => ["formats"];
    drops_an_empty_header: Fault::DropsHeader("empty") => ["headers"];
    loses_the_key: Fault::LosesKey => ["formats", "keys", "session-order"];
    cuts_large_payloads: Fault::CutsPayload(65_535) => ["payloads"];
    fills_tombstones: Fault::FillsTombstones => ["tombstones"];

    loses_one_in_a_thousand: Fault::LosesOneIn(1_000) => ["many-to-many", "reopen-mid-stream", "consumers-closing", "restart"];
    lets_topics_cross: Fault::CrossTalk => ["cross-talk"];
    swaps_messages_of_a_key: Fault::SendsLate => ["order-per-key"];

    takes_a_release_for_an_ack: Fault::ReleaseIsAck => ["release", "attempts"];
    takes_the_first_ack_for_a_release: Fault::FirstAckIsRelease =>
        ["formats", "headers", "keys", "payloads", "acknowledged", "stale-tag", "cancelled-next", "within-a-group", "session-order",
         "session-gap", "session-abort", "reopen"];
    puts_what_was_released_at_the_end: Fault::ReleasesToTheEnd => ["release", "attempts"];
    does_not_count_attempts: Fault::AttemptIsOne => ["attempts"];
    ignores_the_prefetch: Fault::IgnoresPrefetch => ["prefetch"];
    says_done_to_a_stale_tag: Fault::StaleIsDone => ["stale-tag"];
    takes_a_stale_tag_for_a_good_one: Fault::StaleAcks => ["stale-tag"];
    never_says_that_it_is_lost: Fault::NeverLost => ["lost"];
    takes_before_it_waits: Fault::TakesBeforeItWaits => ["cancelled-next"];

    gives_the_second_group_nothing: Fault::OneGroupOnly => ["groups", "late-group"];
    sends_twice: Fault::SendsTwice => ["within-a-group"];
    keeps_nothing_for_later: Fault::KeepsNothing => ["late-group"];

    acknowledges_in_a_close: Fault::AcksOnClose => ["stale-tag", "reopen", "reopen-mid-stream", "consumers-closing"];
    acknowledges_in_advance: Fault::AcksInAdvance => [
        "order-per-key", "release", "attempts", "prefetch", "stale-tag", "reopen", "reopen-mid-stream", "consumers-closing"
    ];
    says_ok_after_the_close: Fault::OkAfterClose => ["publisher-closed", "closed"];
    sends_after_the_close: Fault::SendsAfterClose => ["publisher-closed"];
    is_always_well: Fault::AlwaysWell => ["closed"];
    forgets_in_a_restart: Fault::ForgetsInRestart => ["restart"];

    swallows_what_is_too_large: Fault::SwallowsOversize => ["oversize"];
    keeps_the_limit_to_itself: Fault::HidesLimit => ["oversize"];
    swallows_what_has_no_destination: Fault::SwallowsUnroutable => ["missing-destination"];
    swallows_what_names_no_topic: Fault::SwallowsNameless => ["no-destination"];
    subscribes_no_group: Fault::NamelessGroup => ["no-destination"];
    subscribes_to_no_topic: Fault::NamelessTopic => ["no-destination"];
    delivers_without_a_prefetch: Fault::NoPrefetch => ["no-destination"];

    swaps_in_a_session: Fault::SessionSwaps => ["session-order", "session-gap", "session-abort"];
    goes_on_in_a_session: Fault::SessionGoesOn => ["session-gap"];
    cannot_abort_a_session: Fault::SessionCannotBeAborted => ["session-abort"];
}

#[tokio::test(start_paused = true)]
async fn takes_every_ack_for_a_release() {
    // Only this row: elsewhere something would be delivered all the time, and the paused clock never go on.
    let report = run(&Adapter::faulty(Fault::AckIsRelease), &settings("acknowledged")).await;
    assert!(reason(&report).starts_with("a message that had been acknowledged was delivered"), "{report}");
}

fn settings(row: &str) -> Settings {
    let mut settings = Settings::default();
    settings.only = vec![row.to_owned()];
    settings
}

fn reason(report: &Report) -> &str {
    match report.rows() {
        [row] => match &row.outcome {
            Outcome::Failed(reason) => reason,
            outcome => panic!("{outcome:?}"),
        },
        rows => panic!("{rows:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_confirm_that_never_comes_fails_the_row() {
    let report = run(&Adapter::faulty(Fault::NeverConfirms), &settings("payloads")).await;
    assert_eq!(reason(&report), "confirming took longer than 15s");
}

#[tokio::test(start_paused = true)]
async fn a_hang_fails_the_row() {
    let report = run(&Adapter::faulty(Fault::HangsInOpen), &settings("payloads")).await;
    assert_eq!(reason(&report), "it did not end within 120s (`Settings::row`)");
}

#[tokio::test(start_paused = true)]
async fn a_panic_fails_the_row() {
    let report = run(&Adapter::faulty(Fault::PanicsInOpen), &settings("payloads")).await;
    assert!(reason(&report).starts_with("it panicked"));
}

#[tokio::test(start_paused = true)]
async fn a_reason_not_to_run_a_row_is_printed() {
    let report = run(&Adapter::faulty(Fault::AsksToSkip("keys")), &settings("keys")).await;
    assert_eq!(
        report.to_string(),
        "0 passed, 0 failed, 1 skipped\n  \
         skipped keys: keys arrive identical: none, empty, unicode, binary, long\n            \
         asked to"
    );
    report.assert_passed();
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "FAILED  keys")]
async fn a_report_with_a_failure_has_not_passed() {
    run(&Adapter::faulty(Fault::LosesKey), &settings("keys")).await.assert_passed();
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "no row was run")]
async fn a_report_without_rows_has_not_passed() {
    run(&Adapter::memory(), &settings("kyes")).await.assert_passed();
}
