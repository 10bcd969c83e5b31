use std::fmt;
use std::sync::Arc;

use cqrs_core::broker::memory::MemoryBroker;
use cqrs_core::{Error, ErrorKind, MessageBroker, Result, without_password};

/// A broker, or the URL of one.
pub struct BrokerSource(pub(crate) Source);

pub(crate) enum Source {
    Url(String),
    Broker(Arc<dyn MessageBroker>),
}

impl From<&str> for BrokerSource {
    fn from(url: &str) -> Self {
        Self(Source::Url(url.to_owned()))
    }
}

impl From<String> for BrokerSource {
    fn from(url: String) -> Self {
        Self(Source::Url(url))
    }
}

impl From<Arc<dyn MessageBroker>> for BrokerSource {
    fn from(broker: Arc<dyn MessageBroker>) -> Self {
        Self(Source::Broker(broker))
    }
}

impl<B: MessageBroker> From<Arc<B>> for BrokerSource {
    fn from(broker: Arc<B>) -> Self {
        Self(Source::Broker(broker))
    }
}

impl fmt::Debug for BrokerSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            // Not the URL: there may be a password in it.
            Source::Url(_) => f.write_str("BrokerSource(url)"),
            Source::Broker(broker) => f.debug_tuple("BrokerSource").field(broker).finish(),
        }
    }
}

impl Source {
    pub(crate) fn open(self) -> Result<Arc<dyn MessageBroker>> {
        match self {
            Self::Broker(broker) => Ok(broker),
            Self::Url(url) => connect_broker(&url),
        }
    }
}

/// The broker of a URL: `kafka://host:port,..` (feature `kafka`), `amqp://user:password@host:port/vhost` (feature
/// `amqp`), `memory://` (in this process).
///
/// It connects when it is first used, and again whenever that is needed: an application starts while its broker is away.
/// [`MessageBroker::check`] tells whether it can be reached.
///
/// # Errors
///
/// [`ErrorKind::Configuration`] if the scheme is unknown or its feature is not compiled in, and says which;
/// [`ErrorKind::Broker`] if the rest of the URL is wrong.
pub fn connect_broker(url: &str) -> Result<Arc<dyn MessageBroker>> {
    let Some((scheme, _)) = url.split_once("://") else {
        // Not a word of it: what is no URL may still have a password in it.
        return Err(unknown("what is given"));
    };
    match scheme {
        "memory" => Ok(Arc::new(MemoryBroker::new())),
        #[cfg(feature = "kafka")]
        "kafka" => Ok(Arc::new(cqrs_broker_kafka::KafkaBroker::connect(url)?)),
        #[cfg(feature = "amqp")]
        "amqp" | "amqps" => Ok(Arc::new(cqrs_broker_amqp::AmqpBroker::connect(url)?)),
        #[cfg(not(feature = "kafka"))]
        "kafka" => Err(not_compiled_in(scheme, "kafka")),
        #[cfg(not(feature = "amqp"))]
        "amqp" | "amqps" => Err(not_compiled_in(scheme, "amqp")),
        _ => Err(unknown(&format!("`{}`", without_password(url)))),
    }
}

#[cfg(not(all(feature = "kafka", feature = "amqp")))]
fn not_compiled_in(scheme: &str, feature: &str) -> Error {
    Error::new(
        ErrorKind::Configuration,
        format!(
            "`{scheme}://` needs the feature `{feature}`, which is not compiled in: add it to the dependency, as in \
             `cqrs = {{ version = \"{}\", features = [\"{feature}\"] }}`",
            env!("CARGO_PKG_VERSION")
        ),
    )
}

fn unknown(what: &str) -> Error {
    Error::new(
        ErrorKind::Configuration,
        format!("{what} is no broker's URL: it begins with `kafka://`, `amqp://` or `memory://`"),
    )
}
