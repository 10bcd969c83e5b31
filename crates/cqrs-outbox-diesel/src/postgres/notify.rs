//! LISTEN and NOTIFY: a commit here wakes the relays of other processes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::connect::Connect;
use crate::outbox::Elsewhere;

/// Commits within this time are told together: a notification takes a lock that all committing transactions want.
const TOGETHER: Duration = Duration::from_millis(5);

/// How long to wait before a connection that broke is replaced: at first, and at most while that fails.
const RECONNECT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Both ends; each is a task that ends with this.
pub(super) struct Notifications {
    told: Arc<Notify>,
    heard: Arc<Notify>,
    hears: Arc<AtomicBool>,
    connect: Arc<Connect>,
    url: String,
    connect_timeout: Duration,
    /// As a statement has it.
    channel: String,
    _telling: AbortOnDropHandle<()>,
    /// Begins with the first relay that waits here.
    hearing: OnceLock<AbortOnDropHandle<()>>,
}

impl Notifications {
    pub(super) fn new(
        pool: Pool<AsyncPgConnection>,
        connect: Arc<Connect>,
        url: String,
        connect_timeout: Duration,
        channel: String,
    ) -> Self {
        let told = Arc::<Notify>::default();
        let telling = AbortOnDropHandle::new(tokio::spawn(tell(pool, channel.clone(), Arc::clone(&told))));
        Self {
            told,
            heard: Arc::default(),
            hears: Arc::default(),
            connect,
            url,
            connect_timeout,
            channel,
            _telling: telling,
            hearing: OnceLock::new(),
        }
    }
}

impl Elsewhere for Notifications {
    fn tell(&self) {
        self.told.notify_one();
    }

    fn heard(&self) -> BoxFuture<'_, ()> {
        async {
            self.hearing.get_or_init(|| {
                let (connect, url) = (Arc::clone(&self.connect), self.url.clone());
                let (channel, patience) = (self.channel.clone(), self.connect_timeout);
                let (heard, hears) = (Arc::clone(&self.heard), Arc::clone(&self.hears));
                AbortOnDropHandle::new(tokio::spawn(hear(connect, url, channel, patience, heard, hears)))
            });
            self.heard.notified().await;
        }
        .boxed()
    }

    fn hears(&self) -> bool {
        self.hears.load(Ordering::Relaxed)
    }
}

/// Behind the commit and on another connection, so that no transaction of the application waits for it.
async fn tell(pool: Pool<AsyncPgConnection>, channel: String, told: Arc<Notify>) {
    let notify = format!("NOTIFY {channel}");
    loop {
        told.notified().await;
        let said = match pool.get().await {
            Ok(mut conn) => conn.batch_execute(&notify).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = said {
            tracing::warn!(error, "relays elsewhere were not told; they poll");
        }
        tokio::time::sleep(TOGETHER).await;
    }
}

async fn hear(
    connect: Arc<Connect>,
    url: String,
    channel: String,
    patience: Duration,
    heard: Arc<Notify>,
    hears: Arc<AtomicBool>,
) {
    let mut wait = RECONNECT.0;
    loop {
        let error = match listen(&*connect, &url, &channel, patience).await {
            Ok(conn) => {
                wait = RECONNECT.0;
                hears.store(true, Ordering::Relaxed);
                let error = hear_on(conn, &heard).await;
                hears.store(false, Ordering::Relaxed);
                // The relay is to know.
                heard.notify_one();
                error
            }
            Err(error) => error,
        };
        tracing::warn!(error, "notifications are not heard; the relay polls, and tries again in {wait:?}");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RECONNECT.1);
    }
}

async fn listen(
    connect: &Connect,
    url: &str,
    channel: &str,
    patience: Duration,
) -> Result<AsyncPgConnection, String> {
    let listening = async {
        let mut conn = connect(url).await.map_err(|error| error.to_string())?;
        conn.batch_execute(&format!("LISTEN {channel}")).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(conn)
    };
    let late = |_| format!("no connection within {patience:?}");
    tokio::time::timeout(patience, listening).await.map_err(late)?
}

/// Until the connection breaks; then why.
async fn hear_on(mut conn: AsyncPgConnection, heard: &Notify) -> String {
    // For what was told before.
    heard.notify_one();
    let mut notifications = std::pin::pin!(conn.notifications_stream());
    while let Some(notification) = notifications.next().await {
        if let Err(error) = notification {
            return error.to_string();
        }
        heard.notify_one();
    }
    "the connection was closed".to_owned()
}
