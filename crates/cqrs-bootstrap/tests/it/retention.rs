//! What is kept for a time only goes while an application runs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cqrs_bootstrap::bootstrap;
use cqrs_consumer::Inbox;
use cqrs_core::broker::memory::MemoryBroker;
use cqrs_core::{
    BeginTransaction, Encoder, Envelope, Error, ErrorKind, IntoMessage, MessageId, Result, Transaction,
};
use cqrs_outbox::memory::{Memory, MemoryTx};
use cqrs_outbox::{MemoryOutbox, Retention};
use tokio::time::{Instant, sleep, timeout};

use crate::world::MeetingRoomClosed;

const HOUR: Duration = Duration::from_secs(3_600);

/// An outbox with a key whose window is an hour.
async fn with_a_key() -> MemoryOutbox {
    let outbox = MemoryOutbox::new();
    let mut tx = outbox.begin().await.unwrap();
    let event = Envelope::new(MeetingRoomClosed { room: 5 }).with_dedup_key("room 5", HOUR);
    let event = event.into_outgoing(&Encoder::default(), &Default::default()).unwrap();
    tx.write(vec![event]).await.unwrap();
    tx.commit().await.unwrap();
    outbox
}

#[tokio::test(start_paused = true)]
async fn keys_whose_window_is_over_go_by_themselves() {
    let outbox = with_a_key().await;
    let app = bootstrap().outbox(outbox.clone()).broker(Arc::new(MemoryBroker::new())).build().await.unwrap();
    app.run_until(sleep(2 * HOUR)).await.unwrap();
    assert_eq!(outbox.purge_dedup(), 0, "it was left");
}

/// With a relay elsewhere, too.
#[tokio::test(start_paused = true)]
async fn nothing_goes_where_everything_is_kept() {
    let outbox = with_a_key().await;
    let app = bootstrap().outbox(outbox.clone()).without_relay().retention(Retention::for_ever());
    app.build().await.unwrap().run_until(sleep(2 * HOUR)).await.unwrap();
    assert_eq!(outbox.purge_dedup(), 1);
}

/// An inbox whose database is away at first.
#[derive(Default)]
pub(crate) struct Desk {
    outbox: MemoryOutbox,
    failures: AtomicUsize,
    purged: Arc<Mutex<Vec<Duration>>>,
}

#[async_trait]
impl BeginTransaction<Memory> for Desk {
    async fn begin(&self) -> Result<MemoryTx> {
        self.outbox.begin().await
    }

    fn encoder(&self) -> &Encoder {
        self.outbox.encoder()
    }
}

#[async_trait]
impl Inbox<Memory> for Desk {
    async fn admit(&self, _: &mut MemoryTx, _: &str, _: &MessageId) -> Result<bool> {
        Ok(true)
    }

    async fn purge(&self, older_than: Duration) -> Result<u64> {
        if self.failures.fetch_add(1, Ordering::Relaxed) < 3 {
            return Err(Error::new(ErrorKind::Store, "away"));
        }
        self.purged.lock().unwrap().push(older_than);
        Ok(1)
    }
}

#[tokio::test(start_paused = true)]
async fn an_inbox_without_an_outbox_is_purged_too_and_stops_with_the_application() {
    let purged = Arc::new(Mutex::new(Vec::new()));
    let desk = |purged: &Arc<_>| Desk { purged: Arc::clone(purged), ..Desk::default() };
    let app =
        bootstrap().inbox(desk(&purged)).retention(Retention::default().inbox(HOUR)).build().await.unwrap();
    let begun = Instant::now();
    let some = async {
        while purged.lock().unwrap().len() < 2 {
            sleep(Duration::from_secs(1)).await;
        }
    };
    let some = async { timeout(HOUR, some).await.expect("nobody asks it") };
    app.run_until(some).await.unwrap();
    assert_eq!(*purged.lock().unwrap(), [HOUR; 2]);
    assert!(begun.elapsed() > Duration::from_secs(3 * 60), "it tries without a pause");
    sleep(HOUR).await;
    assert_eq!(purged.lock().unwrap().len(), 2, "it goes on after the stop");

    // Nobody but the user knows for how long.
    let app = bootstrap().inbox(desk(&purged)).build().await.unwrap();
    app.run_until(sleep(HOUR)).await.unwrap();
    assert_eq!(purged.lock().unwrap().len(), 2);
}
