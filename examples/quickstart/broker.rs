//! Which broker, and what a run has to itself on one that outlives it.

use std::sync::Arc;

use anyhow::bail;
use cqrs::MessageBroker;
use cqrs::broker::SubscribeOptions;
use cqrs::broker::memory::MemoryBroker;

use crate::domain::TOPIC;

const MEMORY: &str = "memory://";

/// How often the broker in memory delivers a message twice, unless it is told otherwise.
const REDELIVER_EVERY: usize = 20;

pub(crate) struct Broker {
    pub(crate) broker: Arc<dyn MessageBroker>,
    /// Stands before the name of the topic.
    pub(crate) topic_prefix: String,
    url: String,
}

impl Broker {
    /// The broker of that URL, for the run of that name.
    pub(crate) fn open(url: &str, run: &str, redeliver_every: Option<usize>) -> anyhow::Result<Self> {
        let url = url.to_owned();
        if url == MEMORY {
            // A message is confirmed to the relay when the second service has committed what it made of it, and until then it
            // stays in the outbox. With the default, which confirms what is in memory, a kill would lose what was there.
            let broker = MemoryBroker::builder().confirm_after_handling().build();
            broker.faults().duplicate_every(redeliver_every.unwrap_or(REDELIVER_EVERY));
            return Ok(Self { broker: Arc::new(broker), topic_prefix: String::new(), url });
        }
        if redeliver_every.is_some() {
            bail!("--redeliver-every is a fault of the broker in memory: a real one redelivers when it must");
        }
        // An earlier run may have left events there that nobody has taken, and this one must not count them.
        let topic_prefix = format!("quickstart-{run}.");
        Ok(Self { broker: connect(&url)?, topic_prefix, url })
    }

    /// Where the first service says its events, and the second one hears them.
    pub(crate) fn topic(&self) -> String {
        format!("{}{TOPIC}", self.topic_prefix)
    }

    /// RabbitMQ gives a group what is published after its queue was declared: so that comes first. Kafka keeps everything.
    pub(crate) async fn declare(&self, group: &str) -> anyhow::Result<()> {
        if self.url.starts_with("amqp") {
            let options = SubscribeOptions::new(group, [self.topic()]);
            self.broker.subscribe(options).await?.close().await?;
        }
        Ok(())
    }
}

fn connect(url: &str) -> anyhow::Result<Arc<dyn MessageBroker>> {
    cqrs::app::connect_broker(&with_defaults(url)).map_err(|error| crate::hint(&error, url))
}

/// The topic is new: its first use makes it. And a process that was killed is missed soon by its group, whose messages go
/// to the next one then; the default is 45 s.
fn with_defaults(url: &str) -> String {
    if !url.starts_with("kafka://") {
        return url.to_owned();
    }
    let mut url = url.to_owned();
    for (setting, value) in [("allow.auto.create.topics", "true"), ("session.timeout.ms", "6000")] {
        if !url.contains(setting) {
            let separator = if url.contains('?') { '&' } else { '?' };
            url.push_str(&format!("{separator}{setting}={value}"));
        }
    }
    url
}
