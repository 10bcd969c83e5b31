use std::error::Error as StdError;
use std::fmt;

/// What a broker's failure means for the one who published.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorClass {
    /// This message is at fault (too large, invalid): no retry mends it.
    Event,
    /// Where it goes is at fault (unroutable, unknown topic, not authorised): it waits until that is mended.
    Destination,
    /// The broker cannot be reached or refuses everything: waiting helps. The message was not sent.
    Outage,
    /// The broker refuses this client's login, virtual host or protocol: someone has to act. The message was not sent.
    Login,
    /// This client is beyond repair; the adapter replaces it. What was in it is [`Unknown`](Self::Unknown).
    Fatal,
    /// The message may have arrived or not (cut between send and confirm): send it again, with the same id.
    Unknown,
}

impl ErrorClass {
    /// Whether publishing the same message again can succeed with nothing but time having passed.
    pub fn is_retryable(self) -> bool {
        !matches!(self, Self::Event)
    }

    /// The class in one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Destination => "destination",
            Self::Outage => "outage",
            Self::Login => "login",
            Self::Fatal => "fatal",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failure of a broker: its class, and a message that says what was wrong and what to do.
#[derive(Debug)]
pub struct BrokerError {
    class: ErrorClass,
    message: String,
    broker: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync + 'static>>,
}

impl BrokerError {
    /// A failure of that class.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), broker: None, source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync + 'static>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds which broker it was, by its URL without a password; one that was added before stays.
    #[must_use]
    pub fn at(mut self, broker: impl fmt::Display) -> Self {
        self.broker.get_or_insert_with(|| broker.to_string());
        self
    }

    /// What was wrong and what to do, without the class and the broker.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What it means for the one who published.
    pub fn class(&self) -> ErrorClass {
        self.class
    }
}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.broker {
            Some(broker) => write!(f, "{} ({}, {broker})", self.message, self.class),
            None => write!(f, "{} ({})", self.message, self.class),
        }
    }
}

impl StdError for BrokerError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
