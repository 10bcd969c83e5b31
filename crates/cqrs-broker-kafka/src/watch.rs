//! Looks after a client that has lost the cluster: it may have lost it for good, while others reach it.
//!
//! librdkafka drops each broker that an answer about the cluster does not name. That of a cluster which is just starting may name none,
//! and what should bring the bootstrap servers back then does not always do so ([librdkafka 5301]): such a client has no broker to ask, for
//! ever, and says nothing of it. With `metadata.recovery.strategy=none` the same becomes of one whose cluster has moved.
//!
//! [librdkafka 5301]: https://github.com/confluentinc/librdkafka/issues/5301

use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::producer::Producer as _;
use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::blocking;
use crate::config::Config;
use crate::log::Log;
use crate::producer;

/// How long a client may be without the cluster before somebody looks; and how long from one look to the next.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long to wait for the cluster's answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a look takes at most: three answers, and a client that is made and dropped.
const LOOK: Duration = Duration::from_secs(30);

/// Over when the client reaches the cluster again, is gone, or is found to be cut off. Ends when it is dropped.
///
/// It begins with an error: a producer whose messages have no time-out (`message.timeout.ms=0`) has none.
pub(crate) struct Watch(AbortOnDropHandle<()>);

impl Watch {
    /// `reaches_it` says whether the client [`reaches`] the cluster, or `None` when it is gone. `replace` is called if it does not, and
    /// another one of the same settings does, twice in a row. Without a runtime nobody looks.
    pub(crate) fn begin(
        config: &Config,
        topic: &str,
        reaches_it: impl Fn(&str) -> Option<bool> + Clone + Send + 'static,
        replace: impl FnOnce() + Send + 'static,
    ) -> Option<Self> {
        let (config, topic) = (config.clone(), topic.to_owned());
        let task = Handle::try_current().ok()?.spawn(async move {
            // Once is not enough: an answer may have come just before what cuts it off, or be missing where there is too much to do.
            let (mut reached, mut cut_off) = (0, 0);
            while reached < 2 {
                sleep(INTERVAL).await;
                let (config, topic, reaches_it) = (config.clone(), topic.clone(), reaches_it.clone());
                let looking = move || Ok(look(&config, &topic, reaches_it));
                match blocking::run_within(LOOK, "nobody knows whether a client is cut off", looking).await {
                    Ok(Finding::Gone) => return,
                    Ok(Finding::Reached) => (reached, cut_off) = (reached + 1, 0),
                    Ok(Finding::Away) => (reached, cut_off) = (0, 0),
                    Ok(Finding::CutOff) if cut_off == 0 => (reached, cut_off) = (0, 1),
                    Ok(Finding::CutOff) => return replace(),
                    Err(error) => tracing::warn!(%error),
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
    /// The client is gone.
    Gone,
    /// It reaches the cluster.
    Reached,
    /// Nobody reaches it.
    Away,
    /// Another one reaches it.
    CutOff,
}

/// Whether a client gets an answer about the cluster that names brokers. Blocks.
pub(crate) fn reaches(client: &Client<impl ClientContext>, topic: &str) -> bool {
    client.fetch_metadata(Some(topic), PATIENCE).is_ok_and(|cluster| !cluster.brokers().is_empty())
}

/// Blocks.
fn look(config: &Config, topic: &str, reaches_it: impl Fn(&str) -> Option<bool>) -> Finding {
    match reaches_it(topic) {
        None => return Finding::Gone,
        Some(true) => return Finding::Reached,
        Some(false) => {}
    }
    let mut config = config.clone();
    // To look is not to make one.
    config.set("allow.auto.create.topics".to_owned(), "false".to_owned());
    let other = config.producer::<producer::Client>(Log::default());
    if !other.is_ok_and(|other| reaches(other.client(), topic)) {
        return Finding::Away;
    }
    // It may have come back meanwhile.
    match reaches_it(topic) {
        None => Finding::Gone,
        Some(true) => Finding::Reached,
        Some(false) => Finding::CutOff,
    }
}
