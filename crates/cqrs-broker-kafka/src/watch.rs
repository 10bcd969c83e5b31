//! Looks after a client that has lost the cluster: it may have lost it for good, while others reach it.
//!
//! librdkafka drops each broker that an answer about the cluster does not name. That of a cluster which is just starting may name none,
//! and what should bring the bootstrap servers back then does not always do so ([librdkafka 5301]): such a client has no broker to ask, for
//! ever, and says nothing of it. With `metadata.recovery.strategy=none` the same becomes of one whose cluster has moved.
//!
//! [librdkafka 5301]: https://github.com/confluentinc/librdkafka/issues/5301

use std::time::Duration;

use rdkafka::producer::Producer as _;
use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::blocking;
use crate::config::{Config, Log};
use crate::producer::Client;

/// How long a client may be without the cluster before somebody looks; and how long from one look to the next.
const INTERVAL: Duration = Duration::from_secs(10);

/// How long to wait for the cluster's answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Over when the client reaches the cluster again, is gone, or is found to be cut off. Ends when it is dropped.
pub(crate) struct Watch(AbortOnDropHandle<()>);

impl Watch {
    /// `reaches` asks by the client for an answer about a topic, within a time, and blocks; it says `None` when the client is gone.
    /// `cut_off` is called if the client gets none, and another one of the same settings does. Without a runtime nobody looks.
    pub(crate) fn begin(
        config: &Config,
        topic: &str,
        reaches: impl Fn(&str, Duration) -> Option<bool> + Clone + Send + 'static,
        cut_off: impl FnOnce() + Send + 'static,
    ) -> Option<Self> {
        let (config, topic) = (config.clone(), topic.to_owned());
        let task = Handle::try_current().ok()?.spawn(async move {
            loop {
                sleep(INTERVAL).await;
                let (config, topic, reaches) = (config.clone(), topic.clone(), reaches.clone());
                match blocking::run(move || Ok(look(&config, &topic, reaches))).await {
                    Ok(Finding::Away) => {}
                    Ok(Finding::CutOff) => return cut_off(),
                    Ok(Finding::Reached) | Err(_) => return,
                }
            }
        });
        Some(Self(AbortOnDropHandle::new(task)))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_finished()
    }
}

enum Finding {
    /// The client reaches the cluster, or is gone.
    Reached,
    /// Nobody reaches it.
    Away,
    /// Another one reaches it.
    CutOff,
}

/// Blocks.
fn look(config: &Config, topic: &str, reaches: impl Fn(&str, Duration) -> Option<bool>) -> Finding {
    let is_lost = || reaches(topic, PATIENCE) == Some(false);
    if !is_lost() {
        return Finding::Reached;
    }
    let other = config.producer::<Client>(Log::default());
    let other_reaches = other.is_ok_and(|other| other.client().fetch_metadata(Some(topic), PATIENCE).is_ok());
    match other_reaches {
        false => Finding::Away,
        // It may have come back meanwhile.
        true if is_lost() => Finding::CutOff,
        true => Finding::Reached,
    }
}
