//! The in-memory outbox passes the suite for stores.

use std::sync::Arc;

use async_trait::async_trait;
use cqrs_core::Result;
use cqrs_outbox::{MemoryOutbox, OrderUnit};
use cqrs_testing::store::{Asked, DeadLetter, Request, Settings, StoreUnderTest, run};
use uuid::Uuid;

struct Memory(OrderUnit);

#[async_trait]
impl StoreUnderTest for Memory {
    type Database = cqrs_outbox::memory::Memory;
    type Store = MemoryOutbox;

    async fn open(&self) -> Result<Arc<MemoryOutbox>> {
        let outbox = MemoryOutbox::new();
        outbox.set_order_unit(self.0)?;
        Ok(Arc::new(outbox))
    }

    fn order_unit(&self) -> OrderUnit {
        self.0
    }

    async fn dead_letters(&self, store: &Arc<MemoryOutbox>) -> Result<Option<Vec<DeadLetter>>> {
        let letters = store.dead_letters().into_iter().map(|letter| DeadLetter {
            event_id: letter.row.event_id,
            attempts: letter.row.attempts,
            error: letter.error,
        });
        Ok(Some(letters.collect()))
    }

    async fn unpark(&self, store: &Arc<MemoryOutbox>) -> Result<bool> {
        store.unpark();
        Ok(true)
    }

    async fn request(&self, store: &Arc<MemoryOutbox>, request: Request, event_id: Uuid) -> Result<Asked> {
        let found = match request {
            Request::Replay => store.replay(event_id),
            Request::Discard => store.discard(event_id),
        };
        Ok(if found { Asked::Accepted } else { Asked::Unknown })
    }
}

/// What the in-memory outbox does not have.
const NOT_THERE: [&str; 9] = [
    "plain-sql",
    // Nobody is shown what it would record.
    "suspended",
    // Nobody is told.
    "oldest-waiting",
    "relay-unreadable",
    "inbox-twice",
    "inbox-at-once",
    "inbox-rollback",
    "inbox-ids",
    "inbox-consumers",
];

#[tokio::test(start_paused = true)]
async fn the_memory_outbox_passes() {
    for unit in [OrderUnit::Key, OrderUnit::TopicAndKey] {
        let report = run(&Memory(unit), &Settings::default()).await;
        println!("{unit}:\n{report}");
        report.assert_passed();
        assert_eq!(report.skipped(), NOT_THERE);
    }
}
