//! What holds for every message, and for everything that a broker may bring.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use cqrs_core::codec::{AnyOf, Binding, CloudEvents, Json, PythonCqrs, Raw, header};
use cqrs_core::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::Config;
use uuid::Uuid;

use super::carried;

/// A seed is printed with what fails; a test of it goes to the others by hand.
fn config() -> Config {
    Config { cases: 256, failure_persistence: None, ..Config::default() }
}

fn cloud_events() -> CloudEvents {
    CloudEvents::new("/rooms").unwrap()
}

fn every() -> Vec<Arc<dyn Codec>> {
    #[cfg(any(feature = "gzip", feature = "zstd"))]
    use cqrs_core::codec::Compressed;
    vec![
        Arc::new(Json),
        Arc::new(Raw::new()),
        Arc::new(cloud_events()),
        Arc::new(cloud_events().binary(Binding::Kafka)),
        Arc::new(cloud_events().binary(Binding::Amqp).with_dataschema("urn:{name}:{version}")),
        Arc::new(PythonCqrs::v0()),
        Arc::new(PythonCqrs::v5_dataclass()),
        Arc::new(PythonCqrs::v5_pydantic().with_zone(chrono::FixedOffset::west_opt(12_345).unwrap())),
        Arc::new(AnyOf::new(Json).or(cloud_events()).or(PythonCqrs::v0()).or(Raw::new())),
        #[cfg(feature = "gzip")]
        Arc::new(Compressed::gzip(cloud_events())),
        #[cfg(feature = "gzip")]
        Arc::new(Compressed::zlib(PythonCqrs::v0())),
        #[cfg(feature = "zstd")]
        Arc::new(Compressed::zstd(AnyOf::new(PythonCqrs::v0()).or(Json))),
    ]
}

/// Text of any characters but control characters, of which CloudEvents has none.
fn text() -> impl Strategy<Value = String> {
    "\\PC{1,20}".prop_filter("what Unicode keeps out of texts", |text| {
        !text
            .chars()
            .any(|char| u32::from(char) & 0xfffe == 0xfffe || ('\u{fdd0}'..='\u{fdef}').contains(&char))
    })
}

/// JSON as text, with numbers that no machine type holds.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        "-?[1-9][0-9]{0,40}",
        "-?[0-9]\\.[0-9]{1,30}([eE][+-]?[0-9]{1,4})?",
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        let field = (any::<String>(), inner.clone())
            .prop_map(|(name, value)| format!("{}:{value}", serde_json::to_string(&name).unwrap()));
        prop_oneof![
            vec(inner, 0..5).prop_map(|values| format!("[{}]", values.join(","))),
            vec(field, 0..5).prop_map(|fields| format!("{{{}}}", fields.join(", "))),
        ]
    })
}

fn timestamp() -> impl Strategy<Value = DateTime<Utc>> {
    // The years 2 to 9998: zones go over the edges.
    (-62_100_000_000_000_000_i64..253_370_000_000_000_000)
        .prop_map(|micros| DateTime::from_timestamp_micros(micros).unwrap())
}

prop_compose! {
    /// What the toolkit can make, and every codec can write.
    fn event()(
        id in any::<u128>(),
        name in text(),
        topic in text(),
        kind in prop_oneof![Just(EventKind::Notification), Just(EventKind::Ecst)],
        version in option::of(any::<u32>()),
        key in option::of(prop_oneof![text(), Just(String::new())]),
        headers in vec((text().prop_map(|name| format!("x-{name}")), vec(any::<u8>(), 0..20)), 0..4),
        traceparent in option::of(text()),
        payload in option::of(json_text()),
        timestamp in timestamp(),
    ) -> Message {
        let mut message = Message::tombstone(topic);
        message.id = Some(Uuid::from_u128(id).into());
        message.name = name;
        message.kind = Some(kind);
        message.version = version;
        message.key = key.map(Bytes::from);
        message.headers = headers.into_iter().collect();
        if let Some(traceparent) = traceparent {
            message.headers.append(header::TRACEPARENT, traceparent);
        }
        message.payload = payload.map(Bytes::from);
        message.content_type = Some("application/json".to_owned());
        message.timestamp = Some(timestamp);
        message
    }
}

/// Headers as they were, whatever is there besides.
fn has_headers(message: &Message, expected: &Headers) -> bool {
    expected.iter().all(|header| message.headers.iter().any(|other| other == header))
}

fn all_but_headers(mut message: Message) -> Message {
    message.headers = Headers::new();
    message
}

/// What a broker may bring: headers that mean something, and bytes that begin like something.
fn anything() -> impl Strategy<Value = Message> {
    let name = prop_oneof![
        proptest::sample::select(vec![
            "cqrs-id",
            "cqrs-name",
            "cqrs-kind",
            "cqrs-version",
            "cqrs-timestamp",
            "content-type",
            "content-encoding",
            "ce_specversion",
            "ce_id",
            "ce_source",
            "ce_type",
            "ce_time",
            "ce_subject",
            "ce_data",
            "ce_",
            "cloudEvents:specversion",
            "cloudEvents:id",
            "cloudEvents_specversion",
            "cloudEvents_time",
            "traceparent",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    let value = prop_oneof![
        proptest::sample::select(vec![
            "1.0",
            "gzip",
            "deflate",
            "zstd",
            "gzip, zstd",
            "application/cloudevents+json",
            "application/json",
            "application/cloudevents",
            "2024-07-30T12:34:56Z",
            "2024-07-30T12:34:56",
            "99999999999999999999",
            "-1",
            "application/cloudevent\u{e9}",
        ])
        .prop_map(|value| value.as_bytes().to_vec()),
        vec(any::<u8>(), 0..30),
    ];
    let field = (
        proptest::sample::select(vec![
            "specversion",
            "id",
            "source",
            "type",
            "time",
            "data",
            "data_base64",
            "datacontenttype",
            "subject",
            "eventName",
            "eventId",
            "eventTimestamp",
            "event_name",
            "event_id",
            "event_timestamp",
            "payload",
            "message_type",
            "message_name",
            "message_id",
        ]),
        prop_oneof![
            json_text(),
            Just(r#""1.0""#.to_owned()),
            Just(r#""0192f6c29b1e7c529a516d7f1c0f8e01""#.to_owned()),
            Just(r#""2024-07-30T12:34:56""#.to_owned()),
            Just(r#""\ud800""#.to_owned()),
        ],
    )
        .prop_map(|(name, value)| format!("\"{name}\":{value}"));
    let object = vec(field, 0..8).prop_map(|fields| format!("{{{}}}", fields.join(",")));
    let payload = prop_oneof![
        vec(any::<u8>(), 0..60),
        object.clone().prop_map(String::into_bytes),
        object.prop_map(|inner| format!(r#"{{"message_type":"ecst_event","payload":{inner}}}"#).into_bytes()),
        vec(any::<u8>(), 0..60)
            .prop_map(|bytes| [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &bytes].concat()),
        vec(any::<u8>(), 0..60).prop_map(|bytes| [&[0x78, 0x9c][..], &bytes].concat()),
        vec(any::<u8>(), 0..60).prop_map(|bytes| [&[0x28, 0xb5, 0x2f, 0xfd][..], &bytes].concat()),
    ];
    (any::<String>(), option::of(payload), vec((name, value), 0..6), option::of(any::<String>())).prop_map(
        |(topic, payload, headers, content_type)| {
            let mut message = Message::tombstone(topic);
            message.payload = payload.map(Bytes::from);
            message.headers = headers.into_iter().collect();
            message.content_type = content_type;
            message
        },
    )
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_encoded_is_decoded_to_the_same(message in event()) {
        for codec in every() {
            let what = format!("{codec:?}");
            let encoded = codec.encode(message.clone()).unwrap();
            prop_assert_eq!(&encoded, &codec.encode(message.clone()).unwrap(), "the same bytes again: {}", what);
            let decoded = codec.decode(carried(&encoded)).unwrap();
            prop_assert!(has_headers(&decoded, &message.headers), "{}: {:?}", what, decoded);
            let mut expected = all_but_headers(message.clone());
            if what.contains("PythonCqrs {") && !what.starts_with("AnyOf") {
                // What it has no place for.
                expected.version = None;
                if !what.contains("V0") {
                    expected.kind = None;
                }
                if expected.payload.as_deref() == Some(b"null") {
                    expected.payload = None;
                }
            } else if what.starts_with("Raw") {
                (expected.id, expected.kind, expected.version) = (None, None, None);
                (expected.name, expected.timestamp) = (String::new(), None);
            } else if what.contains("CloudEvents {") && what.contains("binary: None") && message.payload.is_none() {
                // The type of nothing is kept all the same.
                expected.content_type = Some("application/json".to_owned());
            }
            prop_assert_eq!(all_but_headers(decoded), expected, "{}", what);
        }
    }

    #[test]
    fn a_decoded_message_is_encoded_to_the_same_bytes(message in event()) {
        for codec in every() {
            let encoded = codec.encode(message.clone()).unwrap();
            let mut decoded = codec.decode(encoded.clone()).unwrap();
            if decoded.name.is_empty() {
                continue;
            }
            decoded.kind = message.kind;
            prop_assert_eq!(codec.encode(decoded).unwrap().payload, encoded.payload, "{:?}", codec);
        }
    }

    #[test]
    fn raw_and_json_carry_any_bytes(payload in vec(any::<u8>(), 0..100), mut message in event()) {
        message.payload = Some(payload.into());
        for codec in [Arc::new(Json) as Arc<dyn Codec>, Arc::new(Raw::new()), Arc::new(cloud_events().binary(Binding::Kafka))] {
            let decoded = codec.decode(carried(&codec.encode(message.clone()).unwrap())).unwrap();
            prop_assert_eq!(&decoded.payload, &message.payload);
        }
        message.content_type = Some("application/protobuf".to_owned());
        let decoded = cloud_events().decode(carried(&cloud_events().encode(message.clone()).unwrap())).unwrap();
        prop_assert_eq!(&decoded.payload, &message.payload);
    }

    #[test]
    fn nothing_that_a_broker_brings_makes_a_codec_panic(message in anything()) {
        for codec in every() {
            let _ = codec.fits(&message);
            match codec.decode(message.clone()) {
                Ok(decoded) => {
                    // And what was read can be passed on, or is refused.
                    for other in every() {
                        if let Err(error) = other.encode(decoded.clone()) {
                            prop_assert_eq!(error.kind(), ErrorKind::InvalidEvent);
                        }
                    }
                }
                Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Decode),
            }
        }
    }
}
