use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Datelike, NaiveDateTime, Offset as _, SubsecRound, TimeZone, Timelike, Utc};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::object::{self, Object, Writer};
use super::{Codec, Fit, excerpt, forget, refused, undecodable};
use crate::error::Result;
use crate::event::EventKind;
use crate::message::Message;

/// What the Python library `python-cqrs` writes and reads, byte for byte as it writes it.
///
/// | constructor | the payload |
/// |---|---|
/// | [`v0`](Self::v0) | `{"message_type":"ecst_event","message_name":"room_changed","message_id":"0192f6c2-…","payload":{"event_id":"0192f6c2-…","event_timestamp":"2024-07-30T12:34:56.789012","event_name":"room_changed","payload":{…}}}` |
/// | [`v5_dataclass`](Self::v5_dataclass) | `{"eventName":"room_changed","payload":{…},"eventId":"0192f6c2…","eventTimestamp":"2024-07-30T12:34:56.789012","topic":"rooms"}`, and an id of 32 hexadecimal digits |
/// | [`v5_pydantic`](Self::v5_pydantic) | `{"payload":{…},"event_id":"0192f6c2-…","event_timestamp":"2024-07-30T12:34:56.789012","event_name":"room_changed","topic":"rooms"}` |
///
/// The constructor chooses what is written; all three are read. The names *inside* of the innermost payload are those
/// that your event has: where Python has camelCase, give your type `#[serde(rename_all = "camelCase")]`.
///
/// - The innermost payload is carried as it is, but for white space around it: integers of any size stay exact.
/// - A payload of `null`, with which Python says a deletion, is a message without a payload here, as on a compacted
///   Kafka topic, and the other way round. An event type that is an `Option` reads both.
/// - A time is written without a zone, as Python does by default, and one without a zone is read the same way: in UTC,
///   or in the [zone that you set](Self::with_zone). With [`with_utc_marker`](Self::with_utc_marker) it ends with `Z`.
///   What has `Z` or an offset is read by it. Microseconds are the finest, and are left out if they are zero.
/// - The name is the event's. What version 0 has in `message_name` may be the name of a Python class, and is not read. Nor is
///   `topic`: a message has the topic that it came from. Unknown fields are ignored, and of fields with one name the last counts.
/// - The id is a UUID, and has its hyphenated form after decoding, however it was written: so an inbox knows it again.
/// - Only version 0 tells the [kind](Message::kind), and none the schema's version. An event without a kind is written as a
///   notification.
/// - Key and headers are left to the message, for the order of events and for tracing; Python looks at neither. The codec adds
///   no headers. Python sends neither; with [`bare`](Self::bare), this does not either.
///
/// # Errors
///
/// Encoding fails with [`ErrorKind::InvalidEvent`](crate::ErrorKind::InvalidEvent): an id that is not a UUID, no
/// time or one outside of the years 1 to 9999, a payload that is not JSON. Decoding fails with
/// [`ErrorKind::Decode`](crate::ErrorKind::Decode): the payload is none of the three, or name, id or time cannot be read;
/// it says which field.
///
/// ```
/// use cqrs_core::codec::{Codec, Encoder, PythonCqrs};
/// use cqrs_core::Message;
///
/// # fn main() -> cqrs_core::Result<()> {
/// let encoder = Encoder::default().with_codec_for_topic("rooms", PythonCqrs::v5_dataclass());
///
/// let received = Message::new(
///     "rooms",
///     r#"{"eventName":"room_closed","eventId":"0192f6c29b1e7c529a516d7f1c0f8e01","eventTimestamp":"2024-07-30T12:34:56","payload":{"room":5}}"#,
/// );
/// let received = encoder.decode(received)?;
/// assert_eq!(received.name, "room_closed");
/// assert_eq!(received.payload.as_deref(), Some(&br#"{"room":5}"#[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PythonCqrs {
    form: Form,
    zone: Arc<dyn Zone>,
    utc_marker: bool,
    bare: bool,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    V0,
    V5Dataclass,
    V5Pydantic,
}

impl PythonCqrs {
    /// Writes the envelope of version 0.
    #[must_use]
    pub fn v0() -> Self {
        Self::of(Form::V0)
    }

    /// Writes version 5 as its events do that are dataclasses.
    #[must_use]
    pub fn v5_dataclass() -> Self {
        Self::of(Form::V5Dataclass)
    }

    /// Writes version 5 as its events do that are pydantic models.
    #[must_use]
    pub fn v5_pydantic() -> Self {
        Self::of(Form::V5Pydantic)
    }

    fn of(form: Form) -> Self {
        Self { form, zone: Arc::new(Utc), utc_marker: false, bare: false }
    }

    /// Sets the time zone of times that name none, read and written: that of the Python services' clocks. Default: UTC.
    ///
    /// Of a time that a clock shows twice, the first is meant; one that it skips cannot be read.
    #[must_use]
    pub fn with_zone(mut self, zone: impl TimeZone + Send + Sync + 'static) -> Self {
        self.zone = Arc::new(zone);
        self
    }

    /// Writes times in UTC and with a `Z`, as Python does for those that know their zone. Python does not compare times
    /// with and without a zone, so be sure that the services there expect it. Default: without.
    #[must_use]
    pub fn with_utc_marker(mut self) -> Self {
        self.utc_marker = true;
        self
    }

    /// Writes neither key nor headers, as Python does. Then nothing orders the events, neither in an outbox nor at
    /// the broker, and traces end. Default: it does.
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.bare = true;
        self
    }
}

impl fmt::Debug for PythonCqrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PythonCqrs")
            .field("form", &self.form)
            .field("utc_marker", &self.utc_marker)
            .field("bare", &self.bare)
            .finish_non_exhaustive()
    }
}

impl PythonCqrs {
    fn written(&self, message: &Message) -> Result<String> {
        let name = &*message.name;
        if name.is_empty() {
            return Err(refused(message, "has no name"));
        }
        let id = message.id.as_ref().and_then(|id| id.to_uuid());
        let id = id.ok_or_else(|| {
            refused(message, "has no id, or one that is not a UUID, and python-cqrs takes nothing else")
        })?;
        let timestamp = &*self.written_time(message)?;
        let payload: &RawValue = serde_json::from_slice(message.payload.as_deref().unwrap_or(b"null"))
            .map_err(|error| {
                refused(
                    message,
                    format!("has a payload that is not JSON, and python-cqrs takes nothing else: {error}"),
                )
                .with_source(error)
            })?;
        let mut buffer = Uuid::encode_buffer();
        let id = match self.form {
            Form::V5Dataclass => &*id.simple().encode_lower(&mut buffer),
            Form::V0 | Form::V5Pydantic => &*id.hyphenated().encode_lower(&mut buffer),
        };
        let (payload, topic) = (payload.get(), &*message.topic);
        // The order of the fields is that of Python.
        let object = Writer::new();
        let object = match self.form {
            Form::V0 => {
                let message_type = match message.kind {
                    Some(EventKind::Ecst) => ECST,
                    Some(EventKind::Notification) | None => NOTIFICATION,
                };
                let event = Writer::new()
                    .text("event_id", id)
                    .text("event_timestamp", timestamp)
                    .text("event_name", name)
                    .json("payload", payload);
                object
                    .text("message_type", message_type)
                    .text("message_name", name)
                    .text("message_id", id)
                    .json("payload", &event.end())
            }
            Form::V5Dataclass => object
                .text("eventName", name)
                .json("payload", payload)
                .text("eventId", id)
                .text("eventTimestamp", timestamp)
                .text("topic", topic),
            Form::V5Pydantic => object
                .json("payload", payload)
                .text("event_id", id)
                .text("event_timestamp", timestamp)
                .text("event_name", name)
                .text("topic", topic),
        };
        Ok(object.end())
    }

    fn written_time(&self, message: &Message) -> Result<String> {
        let timestamp = message.timestamp.ok_or_else(|| {
            refused(message, "has no time, and python-cqrs wants one: `Encoder::finish` gives it one")
        })?;
        let outside = || {
            refused(message, format!("has the time {timestamp}, and Python knows only the years 1 to 9999"))
        };
        let time = match self.utc_marker {
            true => timestamp.naive_utc(),
            false => self.zone.local(timestamp).ok_or_else(outside)?,
        };
        if !(1..=9999).contains(&time.year()) {
            return Err(outside());
        }
        let time = time.trunc_subsecs(6);
        let format = if time.nanosecond() % 1_000_000_000 == 0 {
            "%Y-%m-%dT%H:%M:%S"
        } else {
            "%Y-%m-%dT%H:%M:%S%.6f"
        };
        Ok(format!("{}{}", time.format(format), if self.utc_marker { "Z" } else { "" }))
    }

    fn read_time(&self, text: &str) -> Option<DateTime<Utc>> {
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Some(time.with_timezone(&Utc));
        }
        self.zone.utc(NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").ok()?)
    }
}

const NOTIFICATION: &str = "notification_event";
const ECST: &str = "ecst_event";

/// An event in one of the three forms: its fields, what they are called, and where they stand.
struct Event<'a> {
    fields: Object<'a>,
    names: &'static Names,
    /// What is around it.
    envelope: Option<Object<'a>>,
}

struct Names {
    name: &'static str,
    id: &'static str,
    timestamp: &'static str,
}

const SNAKE_CASE: Names = Names { name: "event_name", id: "event_id", timestamp: "event_timestamp" };
const CAMEL_CASE: Names = Names { name: "eventName", id: "eventId", timestamp: "eventTimestamp" };

impl<'a> Event<'a> {
    /// Finds the form, or says what is missing.
    fn find(payload: &'a [u8]) -> Result<Self, String> {
        let outer = Object::parse(payload).map_err(|error| error.to_string())?;
        for names in [&CAMEL_CASE, &SNAKE_CASE] {
            if outer.get(names.name).is_some() {
                return Ok(Self { fields: outer, names, envelope: None });
            }
        }
        let (Some(_), Some(inner)) = (outer.get("message_type"), outer.get("payload")) else {
            return Err(
                "it has neither `eventName` nor `event_name`, nor `message_type` and `payload`".to_owned()
            );
        };
        let fields =
            Object::parse(inner.get().as_bytes()).map_err(|error| format!("in `payload`: {error}"))?;
        Ok(Self { fields, names: &SNAKE_CASE, envelope: Some(outer) })
    }

    fn looks_right(&self) -> bool {
        self.fields.get(self.names.name).is_some() && self.fields.get(self.names.id).is_some()
    }

    /// The field as text, if it is there.
    fn text(&self, field: &str) -> Result<Option<String>, String> {
        let value = self.fields.get(field).filter(|value| !object::is_null(value));
        value
            .map(|value| object::text(value).ok_or_else(|| format!("{} is not a string", self.path(field))))
            .transpose()
    }

    fn required(&self, field: &str) -> Result<String, String> {
        self.text(field)?
            .filter(|text| !text.is_empty())
            .ok_or_else(|| format!("{} is missing or empty", self.path(field)))
    }

    fn path(&self, field: &str) -> String {
        match self.envelope {
            Some(_) => format!("`payload.{field}`"),
            None => format!("`{field}`"),
        }
    }
}

impl PythonCqrs {
    fn read(&self, message: &mut Message, payload: &bytes::Bytes) -> Result<(), String> {
        let event = Event::find(payload)?;
        message.name = event.required(event.names.name)?;
        let id = event.required(event.names.id)?;
        let uuid = Uuid::try_parse(&id).map_err(|_| {
            format!("{} is `{}`, which is not a UUID", event.path(event.names.id), excerpt(&id))
        })?;
        message.id = Some(uuid.into());
        if let Some(timestamp) = event.text(event.names.timestamp)? {
            message.timestamp = Some(self.read_time(&timestamp).ok_or_else(|| {
                let field = event.path(event.names.timestamp);
                format!("{field} is `{}`, which is not a time, or none of its zone", excerpt(&timestamp))
            })?);
        }
        if let Some(envelope) = &event.envelope {
            let kind = envelope.get("message_type").and_then(object::text);
            message.kind = match kind.as_deref() {
                Some(NOTIFICATION) => Some(EventKind::Notification),
                Some(ECST) => Some(EventKind::Ecst),
                _ => None,
            };
        }
        message.payload = match event.fields.get("payload") {
            Some(value) if !object::is_null(value) => Some(payload.slice_ref(value.get().as_bytes())),
            _ => None,
        };
        Ok(())
    }
}

impl Codec for PythonCqrs {
    fn encode(&self, mut message: Message) -> Result<Message> {
        message.payload = Some(self.written(&message)?.into());
        message.content_type = Some("application/json".to_owned());
        forget(&mut message.headers);
        if self.bare {
            message.key = None;
            message.headers = Default::default();
        }
        Ok(message)
    }

    fn decode(&self, mut message: Message) -> Result<Message> {
        let Some(payload) = message.payload.clone() else {
            return Err(undecodable(&message, "is not of python-cqrs: it has no payload"));
        };
        match self.read(&mut message, &payload) {
            Ok(()) => {
                message.content_type = Some("application/json".to_owned());
                Ok(message)
            }
            Err(what) => Err(undecodable(&message, format!("is not of python-cqrs: {what}"))),
        }
    }

    fn fits(&self, message: &Message) -> Fit {
        match message.payload.as_deref().map(Event::find) {
            Some(Ok(event)) if event.looks_right() => Fit::Shape,
            _ => Fit::No,
        }
    }
}

/// A time zone, whichever it is.
trait Zone: Send + Sync {
    /// What its clocks show, if chrono has a date for it.
    fn local(&self, time: DateTime<Utc>) -> Option<NaiveDateTime>;

    /// When its clocks show that.
    fn utc(&self, local: NaiveDateTime) -> Option<DateTime<Utc>>;
}

impl<Z: TimeZone + Send + Sync> Zone for Z {
    fn local(&self, time: DateTime<Utc>) -> Option<NaiveDateTime> {
        let offset = self.offset_from_utc_datetime(&time.naive_utc()).fix();
        time.naive_utc().checked_add_offset(offset)
    }

    fn utc(&self, local: NaiveDateTime) -> Option<DateTime<Utc>> {
        Some(self.from_local_datetime(&local).earliest()?.with_timezone(&Utc))
    }
}
