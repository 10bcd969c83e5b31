//! What a broker carries.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;

/// The id of a message, by which an inbox tells duplicates: bytes, compared as bytes.
///
/// This toolkit's own ids are UUIDs in their hyphenated text form; messages of others may carry anything.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(Bytes);

impl MessageId {
    /// The bytes as they travel.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The UUID, if it is one.
    pub fn to_uuid(&self) -> Option<Uuid> {
        Uuid::try_parse_ascii(&self.0).ok()
    }
}

impl From<Uuid> for MessageId {
    fn from(id: Uuid) -> Self {
        let mut buffer = Uuid::encode_buffer();
        Self(Bytes::copy_from_slice(id.hyphenated().encode_lower(&mut buffer).as_bytes()))
    }
}

impl From<Bytes> for MessageId {
    fn from(id: Bytes) -> Self {
        Self(id)
    }
}

impl From<&str> for MessageId {
    fn from(id: &str) -> Self {
        Self(Bytes::copy_from_slice(id.as_bytes()))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.escape_ascii(), f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({self})")
    }
}

/// The headers of a message: names and values in their order; a name may stand more than once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Headers(Vec<(Cow<'static, str>, Bytes)>);

impl Headers {
    /// No headers.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a header behind the others, beside those of the same name.
    pub fn append(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Bytes>) {
        self.0.push((name.into(), value.into()));
    }

    /// Sets a header in place of those of the same name.
    pub fn set(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Bytes>) {
        let name = name.into();
        self.remove(&name);
        self.append(name, value);
    }

    /// Takes away every header of that name.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }

    /// Keeps those whose name is to be kept.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|(name, _)| keep(name));
    }

    /// The value of the first header of that name.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// The value of the first header of that name, if it is UTF-8.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// All of them, in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Bytes)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<N: Into<Cow<'static, str>>, V: Into<Bytes>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(headers: I) -> Self {
        Self(headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// What a broker carries: topic, key, headers and bytes, with what is known of the event they stand for.
///
/// A broker carries `topic`, `key`, `headers` and `payload` unchanged; the other fields where its protocol has a
/// place for them. A [`Codec`](crate::codec::Codec) puts them into headers or payload, and takes them out again.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// The event's id; a message of someone else may have none, and one that was not decoded yet has it where the broker's protocol has a
    /// place for it ([`Delivery::message`](crate::broker::Delivery::message)).
    pub id: Option<MessageId>,
    /// The event's name.
    pub name: String,
    /// Whether it is a notification or carries state, if known.
    pub kind: Option<EventKind>,
    /// The version of the payload's schema, if known.
    pub version: Option<u32>,
    /// Where it goes, or came from.
    pub topic: String,
    /// The key that orders it; `None` is no key, and an empty key is a key.
    pub key: Option<Bytes>,
    /// The headers.
    pub headers: Headers,
    /// The bytes. `None` is no payload at all (a Kafka tombstone), which JSON `null` is not.
    pub payload: Option<Bytes>,
    /// The media type of the payload, if known.
    pub content_type: Option<String>,
    /// When it happened, if known.
    pub timestamp: Option<DateTime<Utc>>,
}

impl Message {
    /// A message without anything but its topic and payload.
    ///
    /// ```
    /// use cqrs_core::Message;
    ///
    /// let mut message = Message::new("rooms", "{}");
    /// message.name = "room_closed".into();
    /// message.key = Some("5".into());
    /// ```
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self { payload: Some(payload.into()), ..Self::tombstone(topic) }
    }

    /// A message without a payload: on a compacted Kafka topic it deletes the key.
    pub fn tombstone(topic: impl Into<String>) -> Self {
        Self {
            id: None,
            name: String::new(),
            kind: None,
            version: None,
            topic: topic.into(),
            key: None,
            headers: Headers::new(),
            payload: None,
            content_type: None,
            timestamp: None,
        }
    }

    /// Checks what every message needs: a name, a topic, and headers whose names are names, all of them text without a NUL, which neither
    /// every database nor every broker takes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEvent`], which says what is missing or wrong.
    pub fn check(&self) -> Result<()> {
        let refused = |what: String| Err(Error::new(ErrorKind::InvalidEvent, what));
        if self.name.is_empty() {
            return refused("a message has no event name: set `Message::name`".to_owned());
        }
        if self.topic.is_empty() {
            return refused(format!(
                "the event `{}` has no topic: give its type `#[event(topic = \"..\")]` or the occurrence `Envelope::with_topic`",
                self.name
            ));
        }
        let texts = [
            ("name", Some(&self.name)),
            ("topic", Some(&self.topic)),
            ("content type", self.content_type.as_ref()),
        ];
        let mut texts = texts.into_iter().filter_map(|(what, text)| Some((what, text?)));
        if let Some((what, text)) = texts.find(|(_, text)| text.contains('\0')) {
            return refused(format!(
                "the event `{}` has the {what} {text:?}, with a NUL in it, which not every database and broker takes",
                self.name.escape_debug()
            ));
        }
        if let Some((name, _)) = self.headers.iter().find(|(name, _)| name.is_empty() || name.contains('\0'))
        {
            return refused(format!(
                "the event `{}` has a header with the unusable name {name:?}: it is empty, or has a NUL in it",
                self.name
            ));
        }
        Ok(())
    }

    /// The bytes that count against a size limit: payload, key, and header names and values.
    pub fn size(&self) -> usize {
        self.payload.as_ref().map_or(0, Bytes::len)
            + self.key.as_ref().map_or(0, Bytes::len)
            + self.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }
}
