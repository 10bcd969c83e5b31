//! Integration events that go straight to a broker, and the failures of what goes out.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::mem;

use tokio::time::{Instant, timeout_at};

use super::emitter::EventEmitter;
use crate::broker::{BrokerError, Confirm, ErrorClass};
use crate::error::{Error, ErrorKind, Result, WithCauses};
use crate::message::{Message, MessageId};

/// What was given to the broker for one request.
#[derive(Default)]
pub(super) struct DirectPublishes {
    begun: Vec<(DirectEvent, Result<Confirm, BrokerError>)>,
    /// Of all of them, from the first one on.
    deadline: Option<Instant>,
}

impl DirectPublishes {
    pub(super) async fn publish(&mut self, emitter: &EventEmitter, message: Message) {
        let enqueued = match emitter.direct_target() {
            Some(broker) => self.in_time(emitter, broker.enqueue(&message)).await,
            // Refused when it was said; see `Context::emit`.
            None => {
                Err(BrokerError::new(ErrorClass::Event, format!("`{}` has no direct target", message.name)))
            }
        };
        if enqueued.is_ok() {
            emitter.recording().published(&message);
        }
        let Message { name, topic, id, .. } = message;
        self.begun.push((DirectEvent { name, topic, id }, enqueued));
    }

    /// Waits for all confirms. The error says what went out and what did not.
    pub(super) async fn confirm(mut self, emitter: &EventEmitter) -> Option<Error> {
        let (mut published, mut failed) = (Vec::new(), Vec::new());
        for (event, enqueued) in mem::take(&mut self.begun) {
            let confirmed = match enqueued {
                Ok(confirm) => self.in_time(emitter, confirm).await.map(drop),
                Err(error) => Err(error),
            };
            match confirmed {
                Ok(()) => published.push(event),
                Err(error) => failed.push((event, error)),
            }
        }
        if failed.is_empty() {
            return None;
        }
        let retryable = failed.iter().all(|(_, error)| error.class().is_retryable());
        let error = DirectPublishError { published, failed };
        Some(Error::caused_by(ErrorKind::Broker, error).with_retryable(retryable))
    }

    async fn in_time<T>(
        &mut self,
        emitter: &EventEmitter,
        wait: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        let limit = emitter.confirm_timeout();
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + limit);
        timeout_at(deadline, wait).await.unwrap_or_else(|_| {
            let message = format!("the broker did not confirm within {limit:?}");
            Err(BrokerError::new(ErrorClass::Unknown, message))
        })
    }
}

/// An event that was given straight to a broker.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectEvent {
    /// Its name.
    pub name: String,
    /// The topic it went to.
    pub topic: String,
    /// Its id.
    pub id: Option<MessageId>,
}

impl fmt::Display for DirectEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.name)?;
        self.id.as_ref().map_or(Ok(()), |id| write!(f, " {id}"))
    }
}

/// Not all of the events that a request said went out straight to the broker ([`EventEmitter::direct`]): the cause of the error of
/// the request, which itself *has* been carried out. [`Error::downcast_ref`] gives it.
#[non_exhaustive]
#[derive(Debug)]
pub struct DirectPublishError {
    /// What the broker has.
    pub published: Vec<DirectEvent>,
    /// What it has not, or where nobody knows ([`ErrorClass::Unknown`]). At least one.
    pub failed: Vec<(DirectEvent, BrokerError)>,
}

impl fmt::Display for DirectPublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.published.len() + self.failed.len();
        if all > 1 {
            write!(f, "{} of {all} events did not go out to the broker: ", self.failed.len())?;
        }
        for (number, (event, error)) in self.failed.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(f, "{separator}{event}: {}", WithCauses(error))?;
        }
        Ok(())
    }
}

impl StdError for DirectPublishError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.failed.first().map(|(_, error)| error as &(dyn StdError + 'static))
    }
}

/// Several failures on the way of a request's events: the cause of its error, where there is more than one.
/// [`Error::downcast_ref`] gives it.
#[derive(Debug)]
pub struct EventErrors(Vec<Error>);

impl EventErrors {
    /// The failures, in the order in which they came. At least two.
    pub fn iter(&self) -> impl Iterator<Item = &Error> {
        self.0.iter()
    }
}

impl fmt::Display for EventErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failures on the way of the events: ", self.0.len())?;
        for (number, error) in self.0.iter().enumerate() {
            write!(f, "{}{error:#}", if number == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl StdError for EventErrors {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.first().map(|error| &**error as &(dyn StdError + 'static))
    }
}

/// One failure as it is, more as one that has them all. It has the kind of the first.
pub(super) fn flatten(mut failures: Vec<Error>) -> Result<()> {
    match failures.len() {
        0 => Ok(()),
        1 => failures.pop().map_or(Ok(()), Err),
        _ => {
            let kind = failures[0].kind();
            let retryable = failures.iter().all(Error::is_retryable);
            Err(Error::caused_by(kind, EventErrors(failures)).with_retryable(retryable))
        }
    }
}
