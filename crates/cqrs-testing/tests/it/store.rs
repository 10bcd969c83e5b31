//! The in-memory outbox passes the suite for stores.

use std::sync::Arc;

use async_trait::async_trait;
use cqrs_core::Result;
use cqrs_outbox::MemoryOutbox;
use cqrs_testing::store::{Settings, StoreUnderTest, run};

struct Memory;

#[async_trait]
impl StoreUnderTest for Memory {
    type Database = cqrs_outbox::memory::Memory;
    type Store = MemoryOutbox;

    async fn open(&self) -> Result<Arc<MemoryOutbox>> {
        Ok(Arc::new(MemoryOutbox::new()))
    }
}

/// What the in-memory outbox does not have.
const NOT_THERE: [&str; 9] = [
    "plain-sql",
    "replay",
    "replay-several",
    "discard",
    "inbox-twice",
    "inbox-at-once",
    "inbox-rollback",
    "inbox-ids",
    "inbox-consumers",
];

#[tokio::test(start_paused = true)]
async fn the_memory_outbox_passes() {
    let report = run(&Memory, &Settings::default()).await;
    println!("{report}");
    report.assert_passed();
    assert_eq!(report.skipped(), NOT_THERE);
}
