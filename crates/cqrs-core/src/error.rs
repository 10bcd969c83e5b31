//! The error of the toolkit.

use std::error::Error as StdError;
use std::fmt;
use std::ops::Deref;

use crate::broker::{BrokerError, ErrorClass};
use crate::mediator::DirectPublishError;

/// The result of everything in this toolkit that can fail; `E` is [`Error`] unless you say otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What went wrong, in the terms of who has to act on it.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A handler failed with an error of its own; [`Error::downcast_ref`] gives it back.
    Handler,
    /// No handler is bound to the request.
    MissingHandler,
    /// Maps, mediators or an application were put together wrongly; found when they are built.
    Configuration,
    /// The request was refused before its handler saw it: what it says cannot be.
    InvalidRequest,
    /// An event or a message was refused before anything was written: too large, without a topic, not
    /// serialisable, with a header that no broker can carry.
    InvalidEvent,
    /// An integration event was said where nothing can take it: neither a transaction nor a direct target; or with a wish
    /// that only an outbox can honour, and straight to a broker.
    NoTarget,
    /// Someone else was first: the version that was to be written is not above the last one
    /// ([`VersionConflict`](crate::VersionConflict) says which).
    Conflict,
    /// A received message could not be decoded. Trying again does not help.
    Decode,
    /// Events led to events without end.
    EventFlood,
    /// A transaction could not be begun or committed, or was begun inside another. Nothing of it was committed.
    Transaction,
    /// The connection broke while a transaction was being committed: it may be committed, or not, and nobody here can tell. Never
    /// retryable: done again, it may be done twice. Either look for what it would have written, by a key of the business, or do
    /// it again in a way that has its effect once: with that key as a unique one, with a
    /// [deduplication key](crate::Envelope::with_dedup_key) on its events, or behind an inbox. Events that it said *after* its
    /// commit were not handled.
    CommitUnknown,
    /// The database failed, is not reachable, or its tables are not those of this version.
    Store,
    /// The broker failed; [`Error::class`] says how.
    Broker,
    /// The operation took longer than it may.
    Timeout,
    /// What was asked for was called off before it began.
    Cancelled,
    /// Too much is asked for at the same time. Nothing was done; later it may be.
    Overloaded,
    /// A handler panicked.
    Panic,
}

impl ErrorKind {
    fn describe(self) -> &'static str {
        match self {
            Self::Handler => "the handler failed",
            Self::MissingHandler => "no handler is bound",
            Self::Configuration => "the configuration is wrong",
            Self::InvalidRequest => "the request was refused",
            Self::InvalidEvent => "the event was refused",
            Self::NoTarget => "the event has nowhere to go",
            Self::Conflict => "someone else was first",
            Self::Decode => "the message cannot be decoded",
            Self::EventFlood => "events lead to events without end",
            Self::Transaction => "the transaction failed",
            Self::CommitUnknown => "the transaction may be committed, or not",
            Self::Store => "the store failed",
            Self::Broker => "the broker failed",
            Self::Timeout => "the time is up",
            Self::Cancelled => "it was called off",
            Self::Overloaded => "too much is asked for at the same time",
            Self::Panic => "the handler panicked",
        }
    }
}

/// The error of the toolkit: small (one pointer), with a kind, and with its cause kept.
///
/// Every error that implements [`std::error::Error`] becomes one of kind [`ErrorKind::Handler`] by `?`, so a
/// handler that returns [`Result<T>`](Result) uses `?` on the errors of its database and its clients. To keep a
/// type of your own, give the request an `error` type that is `From<Error>`.
///
/// Like `anyhow::Error` it does not implement [`std::error::Error`] itself (the blanket conversion would not be
/// possible), but it dereferences to one, works as the source of a `#[error(transparent)]` variant, and
/// turns into `anyhow::Error` and `Box<dyn Error>` by `?`.
///
/// ```
/// use cqrs_core::{Error, ErrorKind};
///
/// fn parse(input: &str) -> cqrs_core::Result<u32> {
///     Ok(input.parse::<u32>()?)
/// }
///
/// let error = parse("five").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Handler);
/// assert!(error.downcast_ref::<std::num::ParseIntError>().is_some());
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: Option<Box<str>>,
    source: Option<Source>,
    retryable: bool,
    out_of_time: bool,
}

impl Error {
    /// An error of a kind, with a message that says what was wrong and what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: Some(message.into().into_boxed_str()),
            source: None,
            retryable: false,
            out_of_time: false,
        }))
    }

    /// A handler's own error, or a message: what `?` does, for types that are not [`std::error::Error`]
    /// (`anyhow::Error`, `String`).
    ///
    /// ```
    /// use cqrs_core::Error;
    /// let error = Error::handler("the room is closed");
    /// assert_eq!(error.to_string(), "the room is closed");
    /// ```
    pub fn handler(source: impl Into<Box<dyn StdError + Send + Sync + 'static>>) -> Self {
        Self::caused_by(ErrorKind::Handler, source)
    }

    /// An error of a kind that is told by its cause alone.
    pub fn caused_by(kind: ErrorKind, source: impl Into<Box<dyn StdError + Send + Sync + 'static>>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: None,
            source: Some(source.into()),
            retryable: false,
            out_of_time: false,
        }))
    }

    /// One of these errors that was boxed (by `?`, say, or a layer of `tower`) as it was; any other box comes back.
    ///
    /// ```
    /// use cqrs_core::{Error, ErrorKind};
    ///
    /// let boxed: Box<dyn std::error::Error + Send + Sync> = Error::new(ErrorKind::Conflict, "taken").into();
    /// assert_eq!(Error::from_boxed(boxed).unwrap().kind(), ErrorKind::Conflict);
    /// assert!(Error::from_boxed("of someone else".into()).is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// The box, if there is no such error in it.
    pub fn from_boxed(
        boxed: Box<dyn StdError + Send + Sync + 'static>,
    ) -> Result<Self, Box<dyn StdError + Send + Sync + 'static>> {
        boxed.downcast::<Inner>().map(Self)
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync + 'static>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says whether doing the same again can succeed; errors are not retryable by default.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }

    /// The same in words, without its cause.
    pub(crate) fn copied(&self) -> Self {
        let mut copied = Self::new(self.kind(), self.to_string()).with_retryable(self.is_retryable());
        copied.0.out_of_time = self.0.out_of_time;
        copied
    }

    /// The same error, which says that, too.
    pub(crate) fn with_more(mut self, more: impl fmt::Display) -> Self {
        self.0.message = Some(format!("{self}; {more}").into_boxed_str());
        self
    }

    /// A deadline has passed.
    pub(crate) fn out_of_time(kind: ErrorKind, message: impl Into<String>) -> Self {
        let mut error = Self::new(kind, message);
        error.0.out_of_time = true;
        error
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether doing the same again can succeed.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// Whether a deadline of the mediator or of a [`Timeout`](crate::Timeout) has passed. Its kind is [`ErrorKind::Timeout`], or
    /// [`ErrorKind::CommitUnknown`] if that was while a transaction was being committed or behind that; of that kind is a commit whose
    /// answer was lost, too, which no deadline has cut off.
    pub fn is_out_of_time(&self) -> bool {
        self.0.out_of_time
    }

    /// What the broker's failure means, where a broker failed.
    pub fn class(&self) -> Option<ErrorClass> {
        let one = || self.downcast_ref::<BrokerError>();
        let first_of_many =
            || self.downcast_ref::<DirectPublishError>()?.failed.first().map(|(_, error)| error);
        one().or_else(first_of_many).map(BrokerError::class)
    }

    /// The cause, if it is a `T`.
    pub fn downcast_ref<T: StdError + 'static>(&self) -> Option<&T> {
        self.0.source.as_deref().and_then(|source| source.downcast_ref::<T>())
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.message, &self.source) {
            (Some(message), _) => f.write_str(message),
            (None, Some(source)) => source.fmt(f),
            (None, None) => f.write_str(self.kind.describe()),
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", &self.kind);
        if let Some(message) = &self.message {
            out.field("message", message);
        }
        if let Some(source) = &self.source {
            out.field("source", source);
        }
        out.field("retryable", &self.retryable).finish()
    }
}

impl StdError for Inner {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.source.as_deref().map(|source| source as &(dyn StdError + 'static));
        // Without a message of ours the source *is* what is displayed, so the chain goes on behind it.
        if self.message.is_some() { source } else { source.and_then(StdError::source) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() { WithCauses(&*self.0).fmt(f) } else { self.0.fmt(f) }
    }
}

/// An error with what caused it, on one line: how `{:#}` prints an [`Error`], for any other.
///
/// A cause that an error says in its own words, as most do, is not said twice.
///
/// ```
/// use cqrs_core::{BrokerError, ErrorClass, WithCauses};
///
/// let lost = |what: &str| {
///     BrokerError::new(ErrorClass::Outage, what).with_source(std::io::Error::other("no route"))
/// };
/// assert_eq!(WithCauses(&lost("it is away")).to_string(), "it is away (outage): no route");
/// assert_eq!(WithCauses(&lost("it is away: no route")).to_string(), "it is away: no route (outage)");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct WithCauses<'a>(pub &'a (dyn StdError + 'static));

impl fmt::Display for WithCauses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            let cause = error.to_string();
            if !said.contains(&cause) {
                write!(f, ": {cause}")?;
                said = cause;
            }
            source = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Deref for Error {
    type Target = dyn StdError + Send + Sync + 'static;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for Error {
    fn from(source: E) -> Self {
        let any: &dyn std::any::Any = &source;
        let (kind, retryable) = match any.downcast_ref::<BrokerError>() {
            Some(broker) => (ErrorKind::Broker, broker.class().is_retryable()),
            None => (ErrorKind::Handler, false),
        };
        Self(Box::new(Inner {
            kind,
            message: None,
            source: Some(Box::new(source)),
            retryable,
            out_of_time: false,
        }))
    }
}

impl From<Error> for Box<dyn StdError + Send + Sync + 'static> {
    fn from(error: Error) -> Self {
        error.0
    }
}

impl From<Error> for Box<dyn StdError + Send + 'static> {
    fn from(error: Error) -> Self {
        error.0
    }
}

impl From<Error> for Box<dyn StdError + 'static> {
    fn from(error: Error) -> Self {
        error.0
    }
}

impl From<Error> for anyhow::Error {
    fn from(error: Error) -> Self {
        anyhow::Error::from_boxed(error.0)
    }
}
