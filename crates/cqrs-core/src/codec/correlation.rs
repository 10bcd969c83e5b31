use std::sync::Arc;

use super::header;
use crate::message::Message;

/// What ties a message to those before it. It goes down through nested requests and events.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Correlation {
    /// What all messages of one conversation share.
    pub correlation_id: Option<Arc<str>>,
    /// The id of the message that led here.
    pub causation_id: Option<Arc<str>>,
    /// The W3C trace context.
    pub traceparent: Option<Arc<str>>,
}

impl Correlation {
    /// With this correlation id and nothing else.
    pub fn new(correlation_id: impl Into<Arc<str>>) -> Self {
        Self { correlation_id: Some(correlation_id.into()), ..Self::default() }
    }

    /// What is said because of `message` belongs to its conversation and has it as the cause.
    pub fn caused_by(message: &Message) -> Self {
        let id: Option<Arc<str>> = message.id.as_ref().map(|id| id.to_string().into());
        let inherited = |name| message.headers.get_str(name).map(Arc::from);
        Self {
            correlation_id: inherited(header::CORRELATION_ID).or_else(|| id.clone()),
            causation_id: id,
            traceparent: inherited(header::TRACEPARENT),
        }
    }
}
