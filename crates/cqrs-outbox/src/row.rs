use std::fmt;

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

/// The unit of order: the rows of one lane are sent one after the other. All rows of one key share a lane; a row
/// without a key has a lane of its own. As bytes it identifies the lane in the database.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(Bytes);

impl Lane {
    /// The lane of a row with this key or, without one, with this event id.
    ///
    /// The first byte tells the two apart (`k` or `e`), so that no key can look like an event's id.
    pub fn of(key: Option<&[u8]>, event_id: Uuid) -> Self {
        let (tag, bytes) = key.map_or((b'e', event_id.as_bytes().as_slice()), |key| (b'k', key));
        let mut lane = BytesMut::with_capacity(1 + bytes.len());
        lane.put_u8(tag);
        lane.put_slice(bytes);
        Self(lane.freeze())
    }

    /// Whether it is the lane of a key; else that of an event by itself.
    pub fn is_of_key(&self) -> bool {
        self.0.first() == Some(&b'k')
    }

    /// The key, if it is the lane of one.
    pub fn key(&self) -> Option<&[u8]> {
        self.0.strip_prefix(b"k")
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
