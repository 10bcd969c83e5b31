//! Meeting rooms: what can be asked for, what can go wrong, and what happens.
//!
//! Nothing in here knows of a database, a broker or a file.

use std::error::Error;
use std::fmt;

use cqrs::{DomainEvent, EcstEvent, NotificationEvent, Request};
use serde::{Deserialize, Serialize};

/// Where other services hear of meeting rooms.
pub(crate) const TOPIC: &str = "meeting_rooms";

const MAX_SEATS: u32 = 100;
const MAX_NAME_BYTES: usize = 64;

// Commands ------------------------------------------------------------------------------------------------------------

/// A line of the input, for example `{"command":"join_meeting","room":"r-1","user":"ada"}`.
#[derive(Debug, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(crate) enum Command {
    OpenRoom(OpenRoom),
    JoinMeeting(JoinMeeting),
    LeaveMeeting(LeaveMeeting),
    CloseRoom(CloseRoom),
    ReadMeeting(ReadMeeting),
}

#[derive(Debug, Deserialize, Request)]
#[request(error = RoomError)]
#[serde(deny_unknown_fields)]
pub(crate) struct OpenRoom {
    pub(crate) room: String,
    pub(crate) title: String,
    pub(crate) seats: u32,
}

#[derive(Debug, Deserialize, Request)]
#[request(error = RoomError)]
#[serde(deny_unknown_fields)]
pub(crate) struct JoinMeeting {
    pub(crate) room: String,
    pub(crate) user: String,
}

#[derive(Debug, Deserialize, Request)]
#[request(error = RoomError)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeaveMeeting {
    pub(crate) room: String,
    pub(crate) user: String,
}

#[derive(Debug, Deserialize, Request)]
#[request(error = RoomError)]
#[serde(deny_unknown_fields)]
pub(crate) struct CloseRoom {
    pub(crate) room: String,
}

impl OpenRoom {
    pub(crate) fn validate(&self) -> Result<(), RoomError> {
        name("room", &self.room)?;
        name("title", &self.title)?;
        match self.seats {
            0 => Err(RoomError::Invalid("a room without seats is no room".to_owned())),
            1..=MAX_SEATS => Ok(()),
            seats => {
                Err(RoomError::Invalid(format!("{seats} seats are too many: there are at most {MAX_SEATS}")))
            }
        }
    }
}

impl JoinMeeting {
    pub(crate) fn validate(&self) -> Result<(), RoomError> {
        name("user", &self.user)
    }
}

fn name(field: &str, text: &str) -> Result<(), RoomError> {
    match text.len() {
        0 => Err(RoomError::Invalid(format!("`{field}` is empty"))),
        1..=MAX_NAME_BYTES => Ok(()),
        bytes => Err(RoomError::Invalid(format!(
            "`{field}` has {bytes} bytes, and at most {MAX_NAME_BYTES} are allowed"
        ))),
    }
}

// The query -----------------------------------------------------------------------------------------------------------

#[derive(Debug, Deserialize, Request)]
#[request(response = Meeting, error = RoomError)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadMeeting {
    pub(crate) room: String,
}

/// What [`ReadMeeting`] is answered with.
#[derive(Debug)]
pub(crate) struct Meeting {
    pub(crate) link: String,
    pub(crate) participants: Vec<String>,
}

// Events --------------------------------------------------------------------------------------------------------------

/// Carries the state, so that whoever hears of a new room need not ask.
#[derive(Debug, Serialize, Deserialize, EcstEvent)]
#[event(topic = TOPIC, key = room)]
pub(crate) struct MeetingRoomOpened {
    pub(crate) room: String,
    pub(crate) title: String,
    pub(crate) seats: u32,
}

/// Carries ids, as the next two. The key puts all events of a room in order.
#[derive(Debug, Serialize, Deserialize, NotificationEvent)]
#[event(topic = TOPIC, key = room)]
pub(crate) struct UserJoined {
    pub(crate) room: String,
    pub(crate) user: String,
}

#[derive(Debug, Serialize, Deserialize, NotificationEvent)]
#[event(topic = TOPIC, key = room)]
pub(crate) struct UserLeft {
    pub(crate) room: String,
    pub(crate) user: String,
}

#[derive(Debug, Serialize, Deserialize, NotificationEvent)]
#[event(topic = TOPIC, key = room)]
pub(crate) struct MeetingRoomClosed {
    pub(crate) room: String,
}

/// The same for this process only: see `SendEveryoneHome`.
#[derive(Debug, DomainEvent)]
pub(crate) struct RoomClosed {
    pub(crate) room: String,
}

/// An event of the first service has had its effect in the second one. Its handler runs after the commit.
#[derive(Debug, DomainEvent)]
pub(crate) struct Projected;

// Errors --------------------------------------------------------------------------------------------------------------

/// How a request about a room can fail. All are refusals, the answer to a question, but for `Failed`: there the toolkit
/// or the database broke down.
#[derive(Debug)]
pub(crate) enum RoomError {
    NoSuchRoom(String),
    AlreadyOpened(String),
    Closed(String),
    Full { room: String, seats: u32 },
    AlreadyJoined { room: String, user: String },
    NotJoined { room: String, user: String },
    Invalid(String),
    Failed(cqrs::Error),
}

impl RoomError {
    /// By what refusals are counted.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::NoSuchRoom(_) => "no such room",
            Self::AlreadyOpened(_) => "already opened",
            Self::Closed(_) => "closed",
            Self::Full { .. } => "full",
            Self::AlreadyJoined { .. } => "already joined",
            Self::NotJoined { .. } => "not joined",
            Self::Invalid(_) => "invalid",
            Self::Failed(_) => "failed",
        }
    }
}

impl fmt::Display for RoomError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchRoom(room) => write!(f, "there is no room {room:?}"),
            Self::AlreadyOpened(room) => write!(f, "the room {room:?} was opened before"),
            Self::Closed(room) => write!(f, "the room {room:?} is closed"),
            Self::Full { room, seats } => write!(f, "all {seats} seats of the room {room:?} are taken"),
            Self::AlreadyJoined { room, user } => write!(f, "{user:?} is in the room {room:?} already"),
            Self::NotJoined { room, user } => write!(f, "{user:?} is not in the room {room:?}"),
            Self::Invalid(what) => f.write_str(what),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl Error for RoomError {}

/// Every error of a request has a place for those of the toolkit itself: no handler, a commit that failed.
impl From<cqrs::Error> for RoomError {
    fn from(error: cqrs::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<diesel::result::Error> for RoomError {
    fn from(error: diesel::result::Error) -> Self {
        Self::Failed(error.into())
    }
}
