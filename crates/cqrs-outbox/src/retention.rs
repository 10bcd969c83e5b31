//! What is kept for a time, and who removes it.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use cqrs_core::{Error, ErrorKind, WithCauses};

use crate::store::OutboxStore;

/// What is kept for a time only.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kept {
    /// Events that were sent, where they are kept.
    Sent,
    /// What operators asked for, and that is done.
    Requests,
    /// Deduplication keys; their time is their window.
    DedupKeys,
    /// What an inbox in the same database knows of messages that were handled.
    Inbox,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sent => "what was sent",
            Self::Requests => "requests that are done",
            Self::DedupKeys => "deduplication keys whose window is over",
            Self::Inbox => "what the inbox knows",
        })
    }
}

/// For how long what is kept for a time only is kept. `None` is for ever, or until somebody removes it.
///
/// By default only that is removed which nobody can miss: deduplication keys whose window is over, and requests that were done a month
/// ago.
///
/// ```
/// use std::time::Duration;
/// use cqrs_outbox::Retention;
///
/// let week = Duration::from_secs(7 * 24 * 3_600);
/// let retention = Retention::default().sent(week).inbox(4 * week);
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "nothing is removed until it is given to something that runs"]
pub struct Retention {
    /// Events that were sent, where they are kept (`keep_sent` of the store's builder). Default `None`.
    pub sent: Option<Duration>,
    /// What operators asked for dead letters, and what became of it, from when it was done. Default 30 days.
    pub requests: Option<Duration>,
    /// Whether deduplication keys are removed whose window is over: they have no effect any more. Default `true`.
    pub expired_dedup: bool,
    /// What the inbox knows of messages, from when they were handled. Default `None`, for only you know for how long the broker may
    /// deliver a message again: one that comes after that has its effect again. For Kafka that is the retention of the topic, since a
    /// consumer group may be set back.
    pub inbox: Option<Duration>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            sent: None,
            requests: Some(Duration::from_secs(30 * 24 * 3_600)),
            expired_dedup: true,
            inbox: None,
        }
    }
}

impl Retention {
    /// Everything is kept for ever.
    pub fn for_ever() -> Self {
        Self { sent: None, requests: None, expired_dedup: false, inbox: None }
    }

    /// Sets for how long events that were sent are kept.
    pub fn sent(mut self, time: Duration) -> Self {
        self.sent = Some(time);
        self
    }

    /// Sets for how long requests are kept that are done.
    pub fn requests(mut self, time: Duration) -> Self {
        self.requests = Some(time);
        self
    }

    /// Sets for how long the inbox remembers a message.
    pub fn inbox(mut self, time: Duration) -> Self {
        self.inbox = Some(time);
        self
    }

    /// Each kind that is removed, and its time.
    pub fn times(&self) -> impl Iterator<Item = (Kept, Duration)> + use<> {
        [
            (Kept::Sent, self.sent),
            (Kept::Requests, self.requests),
            (Kept::DedupKeys, self.expired_dedup.then_some(Duration::ZERO)),
            (Kept::Inbox, self.inbox),
        ]
        .into_iter()
        .filter_map(|(kept, time)| Some((kept, time?)))
    }

    /// How long to pause between two looks at what has passed its time: a minute, or a tenth of the shortest time, and a
    /// second at least.
    pub fn pause(&self) -> Duration {
        let shortest = self.times().map(|(_, time)| time).filter(|time| !time.is_zero()).min();
        shortest.map_or(MINUTE, |time| (time / 10).clamp(Duration::from_secs(1), MINUTE))
    }

    /// Checks that the times can be kept to.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`], naming each that cannot: an inbox that remembers nothing, a time that no database counts.
    pub fn validate(&self) -> Result<(), Error> {
        let mut problems = Vec::new();
        if self.inbox.is_some_and(|time| time.is_zero()) {
            problems.push(
                "`inbox` is zero, and each message that comes again would have its effect again: give it the time for which the broker \
                 may deliver one again, or leave it out"
                    .to_owned(),
            );
        }
        for (name, time) in [("sent", self.sent), ("requests", self.requests), ("inbox", self.inbox)] {
            if let Some(time) = time
                && time > LONGEST
            {
                problems.push(format!("`{name}` ({time:?}) is above 100 years: lower it"));
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        let what = format!("what is kept, and for how long, does not fit: {}", problems.join("; "));
        Err(Error::new(ErrorKind::Configuration, what))
    }

    /// Removes from this store what has passed its time, now and then, for ever: beside a relay or an application. What fails is
    /// said in the log, and tried again after the [pause](Self::pause). Any number of processes may do so: they share the work.
    ///
    /// # Cancel safety
    ///
    /// Safe: it goes on where it was.
    pub async fn purge_for_ever(&self, store: &dyn OutboxStore) -> Infallible {
        loop {
            for (kept, time) in self.times() {
                match store.purge(kept, time).await {
                    Ok(0) => {}
                    Ok(removed) => {
                        tracing::debug!(
                            store = store.place(),
                            removed,
                            "{kept} has passed its time and was removed"
                        )
                    }
                    Err(error) => {
                        tracing::warn!(store = store.place(), error = %WithCauses(&error), "{kept} cannot be removed; trying again");
                    }
                }
            }
            tokio::time::sleep(self.pause()).await;
        }
    }
}

/// The longest time of a setting: more than anybody waits for, and far from where sums of times end.
pub(crate) const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

const MINUTE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_cannot_be_kept_to_are_refused_by_their_names() {
        Retention::default().validate().unwrap();
        // What was sent may go at once.
        Retention::for_ever().sent(Duration::ZERO).inbox(LONGEST).validate().unwrap();
        let error = Retention::default().inbox(Duration::ZERO).sent(Duration::MAX).validate().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let text = error.to_string();
        assert!(text.contains("is above 100 years: lower it"), "{text}");
        assert!(text.contains("`inbox` is zero") && text.contains("`sent` ("), "{text}");
    }
}
