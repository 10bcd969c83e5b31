use std::{fmt, slice};

use bytes::{BufMut, Bytes, BytesMut};
use cqrs_core::Message;
use cqrs_core::broker::Receipt;
use uuid::Uuid;

/// Number of a group of slots: what a lease covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupNo(pub i32);

impl fmt::Display for GroupNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the events have in common that are sent in the order in which they were written, one after the other. It is a property of an
/// outbox, and not of a relay: two that saw it differently would pass each other's waiting events.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OrderUnit {
    /// The key, whatever the topic: what a consumer of several topics wants. An event that the broker refuses holds back those
    /// of its key on all topics.
    #[default]
    Key,
    /// The key and the topic: one that is refused, or a topic that is away, holds back what has the same key *and* goes to the same topic. Between topics
    /// there is no order, not even for one key.
    TopicAndKey,
}

impl OrderUnit {
    /// The lane of an event.
    pub fn lane(self, topic: impl AsRef<[u8]>, key: Option<&[u8]>, event_id: Uuid) -> Lane {
        match (self, key) {
            (Self::TopicAndKey, Some(key)) => {
                Lane::new(b't', &[topic.as_ref(), slice::from_ref(&END_OF_TOPIC), key])
            }
            _ => Lane::of(key, event_id),
        }
    }

    /// As it stands in the database, and as people write it: `key` or `topic_and_key`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::TopicAndKey => "topic_and_key",
        }
    }

    /// The unit of that name; `None` if there is none.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Key, Self::TopicAndKey].into_iter().find(|unit| unit.as_str() == name)
    }
}

impl fmt::Display for OrderUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// No broker has it in the name of a topic. Two that differ only behind one would share lanes, which costs speed and not order.
const END_OF_TOPIC: u8 = 0;

/// What is in order: the rows of one lane are sent one after the other. Which rows share one says the [`OrderUnit`] of the outbox; a row
/// without a key has a lane of its own. As bytes it identifies the lane in the database.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(Bytes);

impl Lane {
    /// The lane of a row with this key, where that is the [unit of order](OrderUnit), or, without one, with this event id.
    ///
    /// The first byte tells the two apart (`k` or `e`; `t` where the topic belongs to it), so that no key can look like an event's id.
    pub fn of(key: Option<&[u8]>, event_id: Uuid) -> Self {
        match key {
            Some(key) => Self::new(b'k', &[key]),
            None => Self::new(b'e', &[event_id.as_bytes()]),
        }
    }

    fn new(tag: u8, parts: &[&[u8]]) -> Self {
        let mut lane = BytesMut::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
        lane.put_u8(tag);
        parts.iter().for_each(|part| lane.put_slice(part));
        Self(lane.freeze())
    }

    /// Whether it is the lane of a key, or of one on a topic; else that of an event by itself.
    pub fn is_of_key(&self) -> bool {
        matches!(self.0.first(), Some(b'k' | b't'))
    }

    /// The key, if it is the lane of one.
    pub fn key(&self) -> Option<&[u8]> {
        match self.topic_and_key() {
            Some((_, key)) => Some(key),
            None => self.0.strip_prefix(b"k"),
        }
    }

    /// The topic, if it is the lane of a key on one.
    pub fn topic(&self) -> Option<&str> {
        self.topic_and_key().and_then(|(topic, _)| str::from_utf8(topic).ok())
    }

    fn topic_and_key(&self) -> Option<(&[u8], &[u8])> {
        let both = self.0.strip_prefix(b"t")?;
        let end = both.iter().position(|byte| *byte == END_OF_TOPIC)?;
        Some((&both[..end], &both[end + 1..]))
    }

    /// As it stands in the database.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Lane {
    /// The lane that [`as_bytes`](Self::as_bytes) gave.
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lane({})", self.0.escape_ascii())
    }
}

/// An event that waits in the outbox.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OutboxRow {
    /// The row's id: the order within its lane.
    pub id: i64,
    /// The event's id.
    pub event_id: Uuid,
    /// The group it belongs to.
    pub group: GroupNo,
    /// Its unit of order.
    pub lane: Lane,
    /// How often it was refused for a reason of its own.
    pub attempts: u32,
    /// Bytes of payload, key and headers, as the database counts them.
    pub size: usize,
    /// Where it stands.
    pub place: Place,
    /// Why it cannot be sent as it stands in the table, if that is so, for those who read the dead letters: which column it is,
    /// and what was expected there. A relay refuses it in the broker's stead, as an event that no retry mends
    /// ([`ErrorClass::Event`](cqrs_core::ErrorClass::Event)); `message` has what could be read.
    pub defect: Option<String>,
    /// What is to be sent.
    pub message: Message,
}

/// Where a waiting row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// In the hot table, free to be sent.
    Hot,
    /// In the hot table, behind the closed gate of its lane: to be moved aside.
    Gated,
    /// Aside with the other rows of its lane, waiting for the gate.
    Parked,
}

/// A row that the broker has: the only thing that can be settled. Only the relay makes one, from a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Confirmed {
    id: i64,
    event_id: Uuid,
    place: Place,
    receipt: Receipt,
}

impl Confirmed {
    pub(crate) fn new(row: &OutboxRow, receipt: Receipt) -> Self {
        Self { id: row.id, event_id: row.event_id, place: row.place, receipt }
    }

    /// The row's id.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// The event's id: where ids of rows may come again, it says which of them.
    pub fn event_id(&self) -> Uuid {
        self.event_id
    }

    /// Where the row stands.
    pub fn place(&self) -> Place {
        self.place
    }

    /// What the broker said.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }
}
