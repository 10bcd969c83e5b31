//! A cell whose broker is in this process: so are its relays, which are dropped in the midst of their work, as a crash
//! would do it.

use std::sync::Arc;
use std::time::Duration;

use cqrs::broker::memory::MemoryBroker;
use cqrs::outbox::{OutboxRelay, RelaySettings};
use cqrs::sql::Outbox;
use cqrs::{Error, Result};
use tokio::sync::oneshot;

use crate::databases::{Db, Site};
use crate::road::{COMMANDS, KEYS, Progress, Services};

pub(crate) async fn drive<D: Db>(site: &Site) -> Result<()> {
    let outbox = site.prepare::<D>(KEYS).await?;
    let broker = Arc::new(MemoryBroker::builder().build());
    broker.faults().duplicate_every(10);
    let services = Services::start(&outbox, broker.clone(), "counts").await?;
    let (committed, ()) =
        tokio::try_join!(services.command(), kill_relays(&outbox, &broker, services.progress()))?;
    // Not until empty: an event that three relays had with the broker when they died may be suspected of it, and stand aside for
    // a moment with the others of its key. For these nobody would wait.
    let (ends, finished) = oneshot::channel();
    let finish = async { drop(ends.send(services.finish(&outbox, committed).await)) };
    relay(&outbox, &broker)?.run_until(finish).await?;
    let Ok(verdict) = finished.await else {
        return Err(Error::handler("the relay ended before everything was handled"));
    };
    let verdict = verdict?;
    println!(
        "{} x in-memory: {committed} committed; {verdict}",
        D::version(&mut *outbox.connection().await?).await?
    );
    Ok(())
}

fn relay<D: Db>(outbox: &Outbox<D>, broker: &Arc<MemoryBroker>) -> Result<Arc<OutboxRelay>> {
    let mut settings = RelaySettings::default();
    settings.lease = Duration::from_millis(1_000);
    settings.heartbeat_interval = Duration::from_millis(200);
    settings.lease_margin = Duration::from_millis(200);
    settings.publish_timeout = Duration::from_millis(500);
    let relay = OutboxRelay::builder(Arc::new(outbox.clone()), broker.clone()).settings(settings);
    Ok(Arc::new(relay.build()?))
}

/// The next takes over when the lease of the one before has expired.
async fn kill_relays<D: Db>(
    outbox: &Outbox<D>,
    broker: &Arc<MemoryBroker>,
    progress: Progress,
) -> Result<()> {
    let relay = relay(outbox, broker)?;
    for nth in 1..=3 {
        let running = tokio::spawn({
            let relay = Arc::clone(&relay);
            async move { relay.run_until(std::future::pending()).await }
        });
        progress.reaches(nth * COMMANDS / 4).await;
        // Consumers lose what they have in hand; what the relay has in flight is confirmed to nobody.
        broker.faults().disconnect();
        broker.faults().lose_confirms(20);
        while !running.is_finished() && relay.stats().published == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        running.abort();
        assert!(running.await.is_err_and(|ended| ended.is_cancelled()), "the relay had ended by itself");
    }
    Ok(())
}
