//! The in-memory broker passes the suite.

use cqrs_testing::broker::{Settings, run};

use crate::faulty::{Adapter, Fault};

/// What the in-memory broker does not promise.
const NOT_PROMISED: [&str; 2] = ["late-group", "restart"];

#[tokio::test(start_paused = true)]
async fn the_memory_broker_passes() {
    let report = run(&Adapter::memory(), &Settings::default()).await;
    println!("{report}");
    report.assert_passed();
    assert_eq!(report.skipped(), NOT_PROMISED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_memory_broker_passes_on_threads() {
    let report = run(&Adapter::memory(), &Settings::default()).await;
    report.assert_passed();
    assert_eq!(report.skipped(), NOT_PROMISED);
}

#[tokio::test(start_paused = true)]
async fn every_row_can_pass() {
    let report = run(&Adapter::faulty(Fault::None), &Settings::default()).await;
    report.assert_passed();
    assert!(report.skipped().is_empty(), "{report}");
}
