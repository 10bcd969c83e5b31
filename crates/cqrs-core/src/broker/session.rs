use std::fmt::Debug;

use super::error::BrokerError;
use super::publish::{Confirm, Receipt};
use crate::message::Message;

/// A way to a broker on which nothing overtakes what went before it, and on which nothing follows what was lost: several
/// messages of a key may be on it at the same time. Opened by
/// [`MessageBroker::publish_session`](super::MessageBroker::publish_session).
///
/// Of the messages of one topic and key that were enqueued one after the other, the broker has the first ones, or none, or
/// all: never a later one without those before it. With the first message that is not taken or not confirmed a session is
/// **over**: it takes no other, and what it has not sent yet it does not send. It may be by a [`Confirm`] that is awaited that it
/// learns of that, so await them all.
///
/// Dropping it is as [`abort`](Self::abort), but that what is with the broker may still be confirmed.
pub trait PublishSession: Debug + Send + Sync + 'static {
    /// Hands the message over, behind all that were handed over before. It does not wait for room.
    ///
    /// `after` is the receipt of an earlier message of the same topic and key in this session; this one may follow others of
    /// them that are not confirmed yet. With `None` nothing of its topic and key may be under way in this session: a broker
    /// may not be able to tell the first messages of a session apart from those whose predecessors were lost.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`] as of [`MessageBroker::enqueue`](super::MessageBroker::enqueue); of class
    /// [`ErrorClass::Outage`](super::ErrorClass::Outage) if the session is over, or has no room. After any of them it is over.
    fn enqueue(&self, message: &Message, after: Option<&Receipt>) -> Result<Confirm, BrokerError>;

    /// Ends the session. What was not confirmed resolves to [`ErrorClass::Unknown`](super::ErrorClass::Unknown), soon; it may
    /// arrive all the same.
    fn abort(&self);
}
