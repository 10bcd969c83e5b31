//! What goes into an outbox: a message, and what its writer asks for beside it.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Datelike, Utc};

use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;

/// A message on its way into an outbox, with what its writer asks the outbox for. A broker carries the message alone.
///
/// [`Envelope`](crate::Envelope) is the way to make one of an event; this is for messages of your own making.
///
/// ```
/// use std::time::Duration;
/// use cqrs_core::{Deliver, Message, Outgoing};
///
/// let mut message = Message::new("rooms", "{}");
/// message.name = "room_closed".to_owned();
/// let mut outgoing = Outgoing::from(message);
/// outgoing.options.deliver = Some(Deliver::After(Duration::from_secs(3_600)));
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// What is sent.
    pub message: Message,
    /// What is asked for.
    pub options: WriteOptions,
}

/// What a writer may ask an outbox for, beside the event itself. By default nothing, which costs nothing.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Write it only if nothing was written under this key lately.
    pub dedup: Option<Dedup>,
    /// Write it only if this is above the last version that was written for the message's key.
    pub key_version: Option<u64>,
    /// Send it later.
    pub deliver: Option<Deliver>,
}

/// A deduplication key, and for how long it keeps others out.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dedup {
    /// The key: bytes, compared as bytes.
    pub key: Bytes,
    /// From the moment at which it is written, by the database's clock.
    pub window: Duration,
}

impl Dedup {
    /// This key for so long.
    pub fn new(key: impl Into<Bytes>, window: Duration) -> Self {
        Self { key: key.into(), window }
    }
}

/// When to send an event, by the database's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deliver {
    /// Not before this time. One that is past is now.
    At(DateTime<Utc>),
    /// Not before so long after it was written.
    After(Duration),
}

/// A hundred years: more is a slip, and out of what databases can hold.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The last year that every database can hold.
const LAST_YEAR: i32 = 9_999;

impl Deliver {
    /// Checks that a database can hold it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEvent`]: it is more than 100 years from now, or behind the year 9999.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::At(at) if at.year() > LAST_YEAR => Err(Error::new(
                ErrorKind::InvalidEvent,
                format!("an event cannot be scheduled for {at}: the last year is {LAST_YEAR}"),
            )),
            Self::After(wait) if *wait > LONGEST => Err(Error::new(
                ErrorKind::InvalidEvent,
                format!("an event cannot be scheduled for {wait:?} from now: 100 years is the longest"),
            )),
            _ => Ok(()),
        }
    }
}

impl WriteOptions {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn wishes(&self) -> String {
        let wishes = [
            (self.dedup.is_some(), "a deduplication key"),
            (self.key_version.is_some(), "a version of its key"),
            (self.deliver.is_some(), "a time of delivery"),
        ];
        let wishes: Vec<&str> =
            wishes.into_iter().filter(|(is_set, _)| *is_set).map(|(_, wish)| wish).collect();
        wishes.join(" and ")
    }
}

impl Outgoing {
    /// Checks what is asked for; the message itself is checked where it is made.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEvent`]: a version for a message without a key, a window that is empty or longer than 100 years,
    /// a time that no database can hold.
    pub fn check(&self) -> Result<()> {
        let Self { message: Message { name, key, .. }, options } = self;
        let refused = |what: String| Err(Error::new(ErrorKind::InvalidEvent, what));
        if options.key_version.is_some() && key.is_none() {
            return refused(format!(
                "the event `{name}` has a version of its key, and no key: give it one (`key` of its type, or \
                 `Envelope::with_key`)"
            ));
        }
        match options.dedup.as_ref().map(|dedup| dedup.window) {
            Some(Duration::ZERO) => {
                return refused(format!(
                    "the deduplication key of the event `{name}` has an empty window, in which nothing is a duplicate"
                ));
            }
            Some(window) if window > LONGEST => {
                return refused(format!(
                    "the deduplication key of the event `{name}` has a window of {window:?}: 100 years is the longest"
                ));
            }
            _ => {}
        }
        options.deliver.map_or(Ok(()), |deliver| deliver.check())
    }

    /// The message alone, for a broker.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoTarget`] if something is asked for that only an outbox can do.
    pub fn into_message(self) -> Result<Message> {
        if self.options.is_empty() {
            return Ok(self.message);
        }
        Err(Error::new(
            ErrorKind::NoTarget,
            format!(
                "the event `{}` has {}, which only an outbox can honour, and it would go straight to a broker: say it in a \
                 transaction, or leave that away",
                self.message.name,
                self.options.wishes()
            ),
        ))
    }
}

impl From<Message> for Outgoing {
    fn from(message: Message) -> Self {
        Self { message, options: WriteOptions::default() }
    }
}

/// Why an event with a version was not written: an error of kind [`ErrorKind::Conflict`] has it as its
/// [cause](Error::downcast_ref).
///
/// Somebody else wrote this version, or a later one, first. Nothing of the call was written; roll the transaction back,
/// read the state anew and decide again.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionConflict {
    /// The message's key.
    pub key: Bytes,
    /// The version that was to be written.
    pub wanted: u64,
    /// The last one that was.
    pub stored: u64,
}

impl VersionConflict {
    /// This version is not above the one that is stored.
    pub fn new(key: impl Into<Bytes>, wanted: u64, stored: u64) -> Self {
        Self { key: key.into(), wanted, stored }
    }

    /// As the error of the toolkit. It is retryable: who reads the state anew may succeed.
    pub fn into_error(self) -> Error {
        Error::caused_by(ErrorKind::Conflict, self).with_retryable(true)
    }
}

impl fmt::Display for VersionConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "version {} of the key `{}` cannot be written, since version {} was: someone else was first; roll back, read \
             the state anew and try again",
            self.wanted,
            self.key.escape_ascii(),
            self.stored
        )
    }
}

impl std::error::Error for VersionConflict {}
