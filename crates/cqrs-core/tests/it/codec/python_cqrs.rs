//! What Python wrote, both ways.

use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, Offset, TimeZone, Utc};
use cqrs_core::codec::{PythonCqrs, decode_payload, header};
use cqrs_core::*;
use serde_json::{Value, json};
use uuid::Uuid;

const ID: &str = "0192f6c2-9b1e-7c52-9a51-6d7f1c0f8e01";
const VERSION_0: &str = include_str!("vectors/python-cqrs-0.jsonl");
const VERSION_5: &str = include_str!("vectors/python-cqrs-5.jsonl");

/// What it is, and the message's value.
fn vectors(lines: &str) -> Vec<(String, String)> {
    let vectors = lines.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| line[name].as_str().unwrap().to_owned();
        (text("what"), text("value"))
    });
    vectors.collect()
}

fn read(value: &str) -> Message {
    PythonCqrs::v0().decode(Message::new("t", value.to_owned())).unwrap()
}

fn refusal(value: impl Into<Bytes>) -> String {
    let error = PythonCqrs::v0().decode(Message::new("t", value)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    error.to_string()
}

fn written(codec: &PythonCqrs, message: Message) -> String {
    String::from_utf8(codec.encode(message).unwrap().payload.unwrap().to_vec()).unwrap()
}

fn event() -> Message {
    let mut message = Message::new("rooms", r#"{"room":5}"#);
    message.id = Some(Uuid::parse_str(ID).unwrap().into());
    message.name = "room_closed".to_owned();
    message.timestamp = Some("2024-07-30T12:34:56.789012Z".parse().unwrap());
    message
}

fn refused(codec: &PythonCqrs, message: Message) -> String {
    let error = codec.encode(message).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);
    error.to_string()
}

#[test]
fn version_0_is_read_and_written_again_byte_for_byte() {
    let vectors = vectors(VERSION_0);
    assert_eq!(vectors.len(), 5);
    for (what, value) in vectors {
        let message = read(&value);
        assert_eq!(message.id, Some(ID.into()), "{what}");
        let envelope: Value = serde_json::from_str(&value).unwrap();
        assert_eq!(message.name, envelope["payload"]["event_name"].as_str().unwrap(), "{what}");
        assert!(message.name.starts_with("meeting_room_"), "{what}");
        let kind = if what.starts_with("ecst") { EventKind::Ecst } else { EventKind::Notification };
        assert_eq!(message.kind, Some(kind), "{what}");

        let codec = match what.contains("zoned timestamp") {
            true => PythonCqrs::v0().with_utc_marker(),
            false => PythonCqrs::v0(),
        };
        // The one thing that is not as it was: the name of a Python class has become the event's, as the outbox there does it.
        let class = format!("\"message_name\":{}", envelope["message_name"]);
        let expected = value.replacen(&class, &format!("\"message_name\":\"{}\"", message.name), 1);
        assert_eq!(written(&codec, message), expected, "{what}");
        assert_eq!(what.contains("outbox"), expected == value, "{what}");
    }
}

#[test]
fn version_5_is_read_and_written_again_byte_for_byte() {
    let vectors = vectors(VERSION_5);
    assert_eq!(vectors.len(), 4);
    for (what, value) in vectors {
        let message = read(&value);
        assert_eq!((message.id.clone(), &*message.name), (Some(ID.into()), "user_joined"), "{what}");
        assert_eq!(message.timestamp, event().timestamp, "{what}");
        assert_eq!(message.kind, None, "{what}");
        let codec = match what.starts_with("dataclass") {
            true => PythonCqrs::v5_dataclass(),
            false => PythonCqrs::v5_pydantic(),
        };
        assert_eq!(written(&codec, message), value, "{what}");
    }
}

#[test]
fn each_form_is_written_as_its_constructor_says() {
    let mut message = event();
    message.kind = Some(EventKind::Ecst);
    assert_eq!(
        written(&PythonCqrs::v0(), message),
        format!(
            r#"{{"message_type":"ecst_event","message_name":"room_closed","message_id":"{ID}","payload":{{"event_id":"{ID}","event_timestamp":"2024-07-30T12:34:56.789012","event_name":"room_closed","payload":{{"room":5}}}}}}"#
        )
    );
    assert_eq!(
        written(&PythonCqrs::v5_dataclass(), event()),
        r#"{"eventName":"room_closed","payload":{"room":5},"eventId":"0192f6c29b1e7c529a516d7f1c0f8e01","eventTimestamp":"2024-07-30T12:34:56.789012","topic":"rooms"}"#
    );
    assert_eq!(
        written(&PythonCqrs::v5_pydantic(), event()),
        format!(
            r#"{{"payload":{{"room":5}},"event_id":"{ID}","event_timestamp":"2024-07-30T12:34:56.789012","event_name":"room_closed","topic":"rooms"}}"#
        )
    );
}

#[test]
fn every_codec_reads_every_form() {
    let all = [PythonCqrs::v0(), PythonCqrs::v5_dataclass(), PythonCqrs::v5_pydantic()];
    for writer in &all {
        let value = written(writer, event());
        for reader in &all {
            let message = reader.decode(Message::new("rooms", value.clone())).unwrap();
            assert_eq!((message.id, message.name, message.payload), {
                let event = event();
                (event.id, event.name, event.payload)
            });
        }
    }
}

#[test]
fn the_name_and_the_id_are_the_events_own() {
    let message = read(&format!(
        r#"{{"message_type":"notification_event","message_name":"SomeClass","message_id":"00000000-0000-0000-0000-000000000001","payload":{{"event_id":"{ID}","event_name":"room_closed","payload":1}}}}"#
    ));
    assert_eq!((message.id, &*message.name), (Some(ID.into()), "room_closed"));
}

#[test]
fn integers_and_floats_stay_as_they_were_written() {
    let payload = r#"{"big":123456789012345678901234567890,"edge":9007199254740993,"f":1.10,"e":1E400}"#;
    let mut message = event();
    message.payload = Some(payload.into());
    for codec in [PythonCqrs::v0(), PythonCqrs::v5_dataclass(), PythonCqrs::v5_pydantic()] {
        let decoded = codec.decode(codec.encode(message.clone()).unwrap()).unwrap();
        assert_eq!(decoded.payload.unwrap(), payload);
    }
}

#[test]
fn a_deletion_is_a_message_without_a_payload() {
    let (_, deletion) = vectors(VERSION_0).into_iter().find(|(what, _)| what.contains("deletion")).unwrap();
    let message = read(&deletion);
    assert_eq!((message.payload.as_ref(), &*message.name), (None, "meeting_room_deleted"));
    assert_eq!(decode_payload::<Option<Value>>(&message).unwrap(), None);
    let missing = read(&format!(r#"{{"eventName":"e","eventId":"{ID}"}}"#));
    assert_eq!(missing.payload, None);

    for codec in [PythonCqrs::v0(), PythonCqrs::v5_dataclass(), PythonCqrs::v5_pydantic()] {
        let mut message = event();
        message.payload = None;
        assert!(written(&codec, message.clone()).contains(r#""payload":null"#));
        message.payload = Some("null".into());
        assert_eq!(codec.decode(codec.encode(message).unwrap()).unwrap().payload, None);
    }
}

#[test]
fn times_have_a_zone_or_the_one_that_was_set() {
    let at = |codec: PythonCqrs, text: &str| {
        let value = json!({"eventName": "e", "eventId": ID, "eventTimestamp": text}).to_string();
        codec.decode(Message::new("t", value)).unwrap().timestamp.unwrap().to_rfc3339()
    };
    let utc = PythonCqrs::v0;
    let east = || PythonCqrs::v0().with_zone(FixedOffset::east_opt(3 * 3600).unwrap());
    for (codec, text, expected) in [
        (utc(), "2024-07-30T12:34:56.789012", "2024-07-30T12:34:56.789012+00:00"),
        (utc(), "2024-07-30T12:34:56", "2024-07-30T12:34:56+00:00"),
        (utc(), "2024-07-30T12:34:56Z", "2024-07-30T12:34:56+00:00"),
        (utc(), "2024-07-30T12:34:56.5+02:00", "2024-07-30T10:34:56.500+00:00"),
        (east(), "2024-07-30T12:34:56", "2024-07-30T09:34:56+00:00"),
        (east(), "2024-07-30T12:34:56Z", "2024-07-30T12:34:56+00:00"),
        (east(), "2024-07-30T12:34:56-01:00", "2024-07-30T13:34:56+00:00"),
    ] {
        assert_eq!(at(codec, text), expected);
    }
    let there = written(&east(), event());
    assert!(there.contains("2024-07-30T15:34:56.789012\""), "{there}");
    assert_eq!(east().decode(Message::new("t", there)).unwrap().timestamp, event().timestamp);
    let marked = written(&east().with_utc_marker(), event());
    assert!(marked.contains("2024-07-30T12:34:56.789012Z\""), "{marked}");

    let untimed = read(&format!(r#"{{"eventName":"e","eventId":"{ID}","eventTimestamp":null}}"#));
    assert_eq!(untimed.timestamp, None);
}

/// A zone that puts its clocks back from 3 to 2 on the first of November, and on from 2 to 3 on the first of April.
#[derive(Clone, Copy, Debug)]
struct Saving;

impl Offset for Saving {
    fn fix(&self) -> FixedOffset {
        FixedOffset::east_opt(0).unwrap()
    }
}

fn hour(month: u32, hour: u32) -> NaiveDateTime {
    NaiveDate::from_ymd_opt(2024, month, 1).unwrap().and_hms_opt(hour, 0, 0).unwrap()
}

impl TimeZone for Saving {
    type Offset = FixedOffset;

    fn from_offset(_: &FixedOffset) -> Self {
        Self
    }

    fn offset_from_local_date(&self, _: &NaiveDate) -> chrono::MappedLocalTime<FixedOffset> {
        chrono::MappedLocalTime::None
    }

    fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> chrono::MappedLocalTime<FixedOffset> {
        let [winter, summer] = [0, 3600].map(|seconds| FixedOffset::east_opt(seconds).unwrap());
        match *local {
            twice if (hour(11, 2)..hour(11, 3)).contains(&twice) => {
                chrono::MappedLocalTime::Ambiguous(summer, winter)
            }
            never if (hour(4, 2)..hour(4, 3)).contains(&never) => chrono::MappedLocalTime::None,
            _ => chrono::MappedLocalTime::Single(winter),
        }
    }

    fn offset_from_utc_date(&self, _: &NaiveDate) -> FixedOffset {
        Saving.fix()
    }

    fn offset_from_utc_datetime(&self, _: &NaiveDateTime) -> FixedOffset {
        Saving.fix()
    }
}

#[test]
fn of_a_time_that_comes_twice_the_first_is_meant_and_one_that_never_comes_is_refused() {
    let codec = PythonCqrs::v0().with_zone(Saving);
    let read = |text: &str| {
        let value = json!({"eventName": "e", "eventId": ID, "eventTimestamp": text}).to_string();
        codec.decode(Message::new("t", value)).map(|message| message.timestamp.unwrap())
    };
    let first: DateTime<Utc> = "2024-11-01T01:30:00Z".parse().unwrap();
    assert_eq!(read("2024-11-01T02:30:00").unwrap(), first);
    let error = read("2024-04-01T02:30:00").unwrap_err().to_string();
    assert!(error.contains("`eventTimestamp` is `2024-04-01T02:30:00`"), "{error}");
}

#[test]
fn microseconds_are_the_finest_and_are_left_out_if_they_are_zero() {
    for (time, expected) in [
        ("2024-07-30T12:34:56Z", "2024-07-30T12:34:56"),
        ("2024-07-30T12:34:56.000000999Z", "2024-07-30T12:34:56"),
        ("2024-07-30T12:34:56.5Z", "2024-07-30T12:34:56.500000"),
        ("2024-07-30T12:34:56.000001Z", "2024-07-30T12:34:56.000001"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999"),
    ] {
        let mut message = event();
        message.timestamp = Some(time.parse().unwrap());
        let value = written(&PythonCqrs::v5_pydantic(), message);
        assert!(value.contains(&format!("\"{expected}\"")), "{value}");
    }
}

#[test]
fn unknown_fields_are_ignored_and_the_last_of_a_name_counts() {
    let message = read(&format!(
        r#"{{"eventName":"one","extra":{{"a":[1]}},"eventId":"{ID}","payload":1,"eventName":"two","topic":"elsewhere"}}"#
    ));
    assert_eq!((&*message.name, &*message.topic, message.payload.unwrap()), ("two", "t", "1".into()));
}

#[test]
fn what_cannot_be_read_is_named() {
    for (value, expected) in [
        ("", "expected an object, and there is nothing"),
        ("[]", "expected an object"),
        ("{}", "it has neither `eventName` nor `event_name`, nor `message_type` and `payload`"),
        (r#"{"message_type":"ecst_event","payload":[]}"#, "in `payload`: expected an object"),
        (r#"{"message_type":"ecst_event","payload":{}}"#, "`payload.event_name` is missing or empty"),
        (r#"{"eventName":""}"#, "`eventName` is missing or empty"),
        (r#"{"eventName":7}"#, "`eventName` is not a string"),
        (r#"{"event_name":"e"}"#, "`event_id` is missing or empty"),
        (r#"{"event_name":"e","event_id":"x"}"#, "`event_id` is `x`, which is not a UUID"),
    ] {
        let refusal = refusal(value);
        assert!(refusal.starts_with("the message from topic `t` is not of python-cqrs: "), "{refusal}");
        assert!(refusal.contains(expected), "{refusal}");
    }
    let time = json!({"message_type": "ecst_event", "payload": {"event_name": "e", "event_id": ID, "event_timestamp": "soon"}});
    let refusal = refusal(time.to_string());
    assert!(refusal.contains("`payload.event_timestamp` is `soon`, which is not a time"), "{refusal}");
    let error = PythonCqrs::v0().decode(Message::tombstone("t")).unwrap_err().to_string();
    assert!(error.ends_with("it has no payload"), "{error}");
}

#[test]
fn an_error_quotes_no_more_than_the_beginning() {
    let long = "é".repeat(1_000_000);
    for value in [
        format!(r#"{{"eventName":"e","eventId":"{long}"}}"#),
        format!(r#"{{"eventName":"e","eventId":"{ID}","eventTimestamp":"{long}"}}"#),
        format!(r#"{{"eventName":["{long}"]}}"#),
        format!(r#"{{"message_type":"","payload":"{long}"}}"#),
        format!("\"{long}\""),
    ] {
        assert!(refusal(value).len() < 400);
    }
}

#[test]
fn what_python_cannot_say_is_refused() {
    let all = [PythonCqrs::v0(), PythonCqrs::v5_dataclass(), PythonCqrs::v5_pydantic()];
    for codec in &all {
        let with = |change: fn(&mut Message)| {
            let mut message = event();
            change(&mut message);
            refused(codec, message)
        };
        assert!(with(|message| message.id = None).contains("has no id"));
        assert!(with(|message| message.id = Some("7".into())).contains("not a UUID"));
        assert!(with(|message| message.timestamp = None).contains("has no time"));
        let far = with(|message| message.timestamp = Some("+12024-01-01T00:00:00Z".parse().unwrap()));
        assert!(far.contains("years 1 to 9999"), "{far}");
        with(|message| message.timestamp = Some(DateTime::<Utc>::MAX_UTC));
        with(|message| message.timestamp = Some(DateTime::<Utc>::MIN_UTC));
        assert!(with(|message| message.payload = Some("\u{8}".into())).contains("not JSON"));
        assert!(with(|message| message.payload = Some(Bytes::from_static(b"\"\xff\""))).contains("not JSON"));
        assert!(with(|message| message.payload = Some("1 2".into())).contains("not JSON"));
        assert!(with(|message| message.name.clear()).contains("has no name"));
    }
}

#[test]
fn no_header_is_added_and_key_and_headers_are_left_unless_it_is_bare() {
    let mut message = event();
    message.kind = Some(EventKind::Ecst);
    message.version = Some(2);
    message.key = Some("5".into());
    // One that was received in another format, and is passed on.
    message = codec::Json.encode(message).unwrap();
    message.headers.append(header::TRACEPARENT, "00-1-2-00");
    let encoded = PythonCqrs::v0().encode(message.clone()).unwrap();
    assert_eq!(encoded.key, Some("5".into()));
    assert_eq!(encoded.headers.iter().map(|(name, _)| name).collect::<Vec<_>>(), [header::TRACEPARENT]);
    assert_eq!(encoded.content_type.as_deref(), Some("application/json"));

    let bare = PythonCqrs::v0().bare().encode(message).unwrap();
    assert!(bare.key.is_none() && bare.headers.is_empty());
    assert_eq!(bare.payload, encoded.payload);
}

#[test]
fn an_event_without_a_kind_is_written_as_a_notification() {
    assert!(written(&PythonCqrs::v0(), event()).starts_with(r#"{"message_type":"notification_event""#));
    let unknown =
        format!(r#"{{"message_type":"other","payload":{{"event_id":"{ID}","event_name":"e","payload":1}}}}"#);
    assert_eq!(read(&unknown).kind, None);
}
