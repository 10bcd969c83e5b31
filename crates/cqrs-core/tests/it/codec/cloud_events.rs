//! CloudEvents in both modes, for both brokers.

use cqrs_core::codec::{Binding, CloudEvents, Correlation, Fit, decode_payload, header};
use cqrs_core::*;
use serde_json::{Value, json};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn structured() -> CloudEvents {
    CloudEvents::new("https://example.com/rooms").unwrap()
}

fn event() -> Message {
    let mut message = Message::new("rooms", r#"{"room":12345678901234567890123,"f":1.10}"#);
    message.id = Some("0192f6c2-9b1e-7c52-9a51-6d7f1c0f8e01".into());
    message.name = "room_closed".to_owned();
    message.kind = Some(EventKind::Notification);
    message.version = Some(3);
    message.key = Some("größte/5".into());
    message.content_type = Some("application/json".to_owned());
    message.timestamp = Some("2024-07-30T12:34:56.789012Z".parse().unwrap());
    message.headers.append("tenant", "blue");
    message.headers.append(header::TRACEPARENT, TRACE);
    message.headers.append("ce_sequence", "0042");
    message
}

fn headers(message: &Message) -> Vec<(&str, &str)> {
    message.headers.iter().map(|(name, value)| (name, std::str::from_utf8(value).unwrap())).collect()
}

fn refused(codec: &CloudEvents, message: Message) -> String {
    let error = codec.encode(message).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);
    error.to_string()
}

fn read(payload: impl Into<Bytes>) -> Message {
    structured().decode(Message::new("t", payload)).unwrap()
}

fn refusal(message: Message) -> String {
    let error = structured().decode(message).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    error.to_string()
}

/// A structured one with some fields replaced, or taken away by `null`.
fn envelope(changes: Value) -> Message {
    let mut envelope = json!({"specversion": "1.0", "id": "7", "source": "/halls", "type": "room_closed"});
    for (name, value) in changes.as_object().unwrap() {
        envelope[name] = value.clone();
    }
    let mut message = Message::new("t", envelope.to_string());
    message.content_type = Some("application/cloudevents+json".to_owned());
    message
}

#[test]
fn the_structured_mode_is_an_envelope() {
    let encoded =
        structured().with_dataschema("https://example.com/{name}/{version}").encode(event()).unwrap();
    assert_eq!(
        encoded.payload.as_deref().map(|payload| std::str::from_utf8(payload).unwrap()),
        Some(
            r#"{"specversion":"1.0","id":"0192f6c2-9b1e-7c52-9a51-6d7f1c0f8e01","source":"https://example.com/rooms","type":"room_closed","datacontenttype":"application/json","dataschema":"https://example.com/room_closed/3","subject":"größte/5","time":"2024-07-30T12:34:56.789012Z","partitionkey":"größte/5","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","sequence":"0042","data":{"room":12345678901234567890123,"f":1.10}}"#
        )
    );
    assert_eq!(encoded.content_type.as_deref(), Some("application/cloudevents+json; charset=UTF-8"));
    assert_eq!(
        headers(&encoded),
        [
            ("tenant", "blue"),
            (header::TRACEPARENT, TRACE),
            (header::KIND, "notification"),
            (header::VERSION, "3"),
            (header::CONTENT_TYPE, "application/cloudevents+json; charset=UTF-8"),
        ]
    );
}

#[test]
fn the_binary_mode_has_the_names_of_its_binding() {
    for (binding, prefix) in [(Binding::Kafka, "ce_"), (Binding::Amqp, "cloudEvents_")] {
        let encoded = structured().binary(binding).encode(event()).unwrap();
        assert_eq!(encoded.payload, event().payload);
        assert_eq!(encoded.content_type, event().content_type);
        let attributes: Vec<_> = headers(&encoded)
            .into_iter()
            .filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value)))
            .collect();
        assert_eq!(
            attributes,
            [
                ("specversion", "1.0"),
                ("id", "0192f6c2-9b1e-7c52-9a51-6d7f1c0f8e01"),
                ("source", "https://example.com/rooms"),
                ("type", "room_closed"),
                ("subject", "größte/5"),
                ("time", "2024-07-30T12:34:56.789012Z"),
                ("partitionkey", "größte/5"),
                ("traceparent", TRACE),
                ("sequence", "0042"),
            ]
        );
        let others: Vec<_> =
            headers(&encoded).into_iter().filter(|(name, _)| !name.starts_with(prefix)).collect();
        assert_eq!(
            others,
            [
                ("tenant", "blue"),
                (header::TRACEPARENT, TRACE),
                (header::KIND, "notification"),
                (header::VERSION, "3"),
                (header::CONTENT_TYPE, "application/json"),
            ]
        );
    }
}

#[test]
fn every_mode_is_read_whichever_is_written() {
    let all = [structured(), structured().binary(Binding::Kafka), structured().binary(Binding::Amqp)];
    for writer in &all {
        let encoded = writer.encode(event()).unwrap();
        for reader in &all {
            let decoded = reader.decode(super::carried(&encoded)).unwrap();
            for (name, value) in [
                ("tenant", "blue"),
                (header::TRACEPARENT, TRACE),
                (header::CONTENT_TYPE, "application/json"),
                ("ce_source", "https://example.com/rooms"),
                ("ce_subject", "größte/5"),
                ("ce_sequence", "0042"),
            ] {
                assert_eq!(decoded.headers.get_str(name), Some(value), "{name}");
                assert_eq!(decoded.headers.iter().filter(|(known, _)| *known == name).count(), 1);
            }
            assert!(headers(&decoded).iter().all(|(name, _)| !name.starts_with("cloudEvents")));
            let mut expected = event();
            expected.headers = decoded.headers.clone();
            assert_eq!(decoded, expected);
            // And on to others, without anything lost or doubled.
            assert_eq!(headers(&writer.encode(decoded).unwrap()).len(), headers(&encoded).len());
        }
    }
}

#[test]
fn the_colon_of_amqp_is_read_and_its_time_in_seconds() {
    let mut message = Message::new("rooms", "{}");
    for (name, value) in [
        ("cloudEvents:specversion", "1.0"),
        ("cloudEvents:id", "7"),
        ("cloudEvents:source", "/halls"),
        ("cloudEvents:type", "room_closed"),
        ("cloudEvents:time", "1722342896"),
        ("cloudEvents:partitionkey", "5"),
        ("cloudEvents:Unknown-Name", "x"),
        ("other", "y"),
    ] {
        message.headers.append(name, value);
    }
    message.content_type = Some("text/plain".to_owned());
    let decoded = structured().decode(message).unwrap();
    assert_eq!(
        (decoded.id, &*decoded.name, decoded.key),
        (Some("7".into()), "room_closed", Some("5".into()))
    );
    assert_eq!(decoded.timestamp, Some("2024-07-30T12:34:56Z".parse().unwrap()));
    assert_eq!(decoded.content_type.as_deref(), Some("text/plain"));
    assert_eq!(decoded.headers.get_str("ce_source"), Some("/halls"));
    assert_eq!(decoded.headers.get_str("other"), Some("y"));
}

#[test]
fn attributes_in_the_names_of_another_binding_are_none() {
    let mut message = structured().binary(Binding::Kafka).encode(event()).unwrap();
    message.key = None;
    message.headers.remove("ce_subject");
    message.headers.remove("ce_partitionkey");
    message.headers.append("cloudEvents:subject", "8");
    let decoded = structured().decode(message).unwrap();
    assert_eq!(decoded.key, None);
    let encoded = structured().binary(Binding::Kafka).encode(decoded).unwrap();
    assert!(headers(&encoded).iter().all(|(name, _)| !name.ends_with("subject")));
}

#[test]
fn a_structured_one_is_told_by_its_content_type_or_its_shape() {
    let codec = structured();
    for content_type in [
        "application/cloudevents+json",
        "Application/CloudEvents+JSON; charset=utf-8",
        " application/cloudevents+json",
    ] {
        let mut by_property = envelope(json!({}));
        by_property.content_type = Some(content_type.to_owned());
        assert_eq!(codec.fits(&by_property), Fit::Headers);
        assert_eq!(codec.decode(by_property.clone()).unwrap().name, "room_closed");
        by_property.content_type = None;
        by_property.headers.append(header::CONTENT_TYPE, content_type.to_owned());
        assert_eq!(codec.fits(&by_property), Fit::Headers);
        assert_eq!(codec.decode(by_property).unwrap().name, "room_closed");
    }
    let mut by_shape = envelope(json!({}));
    by_shape.content_type = None;
    assert_eq!(codec.fits(&by_shape), Fit::Shape);
    assert_eq!(codec.decode(by_shape).unwrap().name, "room_closed");
    assert_eq!(codec.fits(&Message::new("t", r#"{"specversion":"1.0"}"#)), Fit::No);
}

#[test]
fn the_envelope_stands_above_headers_with_the_same() {
    let mut message = envelope(json!({"sequence": "1"}));
    message.headers.append("ce_sequence", "2");
    message.headers.append("ce_id", "8");
    let decoded = structured().decode(message).unwrap();
    assert_eq!((decoded.id, decoded.headers.get_str("ce_sequence")), (Some("7".into()), Some("1")));
}

#[test]
fn data_is_read_as_its_content_type_says() {
    let data = |changes| {
        let message = structured().decode(envelope(changes)).unwrap();
        (message.payload.map(|payload| payload.to_vec()), message.content_type)
    };
    let some = |payload: &[u8], content_type: Option<&str>| {
        (Some(payload.to_vec()), content_type.map(str::to_owned))
    };
    assert_eq!(data(json!({"data": {"a": 1}})), some(br#"{"a":1}"#, Some("application/json")));
    assert_eq!(data(json!({"data": "text"})), some(br#""text""#, Some("application/json")));
    assert_eq!(
        data(json!({"data": "text", "datacontenttype": "application/vnd.room+json; a=b"})),
        some(br#""text""#, Some("application/vnd.room+json; a=b"))
    );
    assert_eq!(
        data(json!({"data": "<room/>", "datacontenttype": "application/xml"})),
        some(b"<room/>", Some("application/xml"))
    );
    assert_eq!(data(json!({"data_base64": "/wA="})), some(b"\xff\x00", None));
    assert_eq!(
        data(json!({"data_base64": "/wA=", "datacontenttype": "application/avro"})),
        some(b"\xff\x00", Some("application/avro"))
    );
    assert_eq!(data(json!({})), (None, None));
    assert_eq!(data(json!({"data": null})), some(b"null", Some("application/json")));
    assert_eq!(data(json!({"data": 1, "data_base64": null})), some(b"1", Some("application/json")));
}

#[test]
fn data_is_written_so_that_it_comes_back() {
    for (payload, content_type, member) in [
        (Some(&br#"{ "a" : 1e5 }"#[..]), Some("application/json"), r#""data":{ "a" : 1e5 }"#),
        (Some(b"null"), Some("application/json"), r#""data":null"#),
        (Some(b"5"), Some("text/json"), r#""data":5"#),
        (Some(b"\xff\x00"), Some("application/protobuf"), r#""data_base64":"/wA=""#),
        (Some(b"<room/>"), Some("application/xml"), r#""data_base64":"PHJvb20vPg==""#),
        (Some(b"{}"), None, r#""data_base64":"e30=""#),
        (Some(b""), None, r#""data_base64":"""#),
        (None, None, r#""time":"2024-07-30T12:34:56.789012Z""#),
    ] {
        let mut message = event();
        message.payload = payload.map(Bytes::from_static);
        message.content_type = content_type.map(str::to_owned);
        let encoded = structured().encode(message.clone()).unwrap();
        let text = String::from_utf8(encoded.payload.clone().unwrap().to_vec()).unwrap();
        assert!(text.contains(member), "{text}");
        let decoded = structured().decode(super::carried(&encoded)).unwrap();
        assert_eq!((decoded.payload, decoded.content_type), (message.payload, message.content_type));
    }
}

#[test]
fn the_binary_mode_carries_any_bytes_and_none() {
    for payload in [None, Some(Bytes::new()), Some(Bytes::from_static(b"\xff"))] {
        let mut message = event();
        message.payload.clone_from(&payload);
        for binding in [Binding::Kafka, Binding::Amqp] {
            let encoded = structured().binary(binding).encode(message.clone()).unwrap();
            assert_eq!(encoded.payload, payload);
            assert_eq!(structured().decode(super::carried(&encoded)).unwrap().payload, payload);
        }
    }
}

#[test]
fn the_key_is_that_of_the_broker_or_an_attribute() {
    let key = |broker: Option<&'static str>, changes| {
        let mut message = envelope(changes);
        message.key = broker.map(Bytes::from);
        structured().decode(message).unwrap().key
    };
    let both = json!({"partitionkey": "p", "subject": "s"});
    assert_eq!(key(Some("k"), both.clone()), Some("k".into()));
    assert_eq!(key(Some(""), both.clone()), Some("".into()));
    assert_eq!(key(None, both), Some("p".into()));
    assert_eq!(key(None, json!({"subject": "s"})), Some("s".into()));
    assert_eq!(key(None, json!({})), None);

    let mut empty = event();
    empty.key = Some(Bytes::new());
    let encoded = structured().binary(Binding::Kafka).encode(empty.clone()).unwrap();
    assert_eq!((encoded.headers.get("ce_subject"), &encoded.key), (None, &empty.key));

    let mut blank = event();
    blank.headers.append("ce_subject", "");
    blank.headers.append("ce_note", "");
    let encoded = structured().binary(Binding::Kafka).encode(blank).unwrap();
    assert_eq!(encoded.headers.get_str("ce_subject"), Some("größte/5"));
    assert_eq!(encoded.headers.get_str("ce_note"), Some(""));

    let mut own = event();
    own.headers.append("ce_subject", "hall 5");
    let encoded = structured().binary(Binding::Kafka).encode(own).unwrap();
    assert_eq!(encoded.headers.get_str("ce_subject"), Some("hall 5"));
    assert_eq!(encoded.headers.get_str("ce_partitionkey"), Some("größte/5"));
}

#[test]
fn a_trace_goes_on_behind_an_event_of_someone_else() {
    let decoded = structured().decode(envelope(json!({"traceparent": TRACE}))).unwrap();
    assert_eq!(Correlation::caused_by(&decoded).traceparent.as_deref(), Some(TRACE));
    let mut message = envelope(json!({"traceparent": TRACE}));
    message.headers.append(header::TRACEPARENT, "00-of-the-hop");
    let decoded = structured().decode(message).unwrap();
    assert_eq!(Correlation::caused_by(&decoded).traceparent.as_deref(), Some("00-of-the-hop"));
}

#[test]
fn extensions_are_headers() {
    let decoded = structured()
        .decode(envelope(
            json!({"sequence": "7", "count": 12345, "on": true, "off": null, "Name": "x", "list": [1]}),
        ))
        .unwrap();
    let get = |name| decoded.headers.get_str(name);
    assert_eq!((get("ce_sequence"), get("ce_count"), get("ce_on")), (Some("7"), Some("12345"), Some("true")));
    assert_eq!((get("ce_off"), get("ce_Name"), get("ce_list")), (None, None, None));
}

#[test]
fn of_attributes_with_one_name_the_last_counts() {
    let decoded = read(
        r#"{"specversion":"1.0","id":"1","source":"/","type":"t","id":"2","x":"1","x":"2","data":1,"data":2}"#,
    );
    assert_eq!(decoded.id, Some("2".into()));
    assert_eq!(decoded.payload.unwrap(), "2");
    assert_eq!(headers_named(&decoded.headers, "ce_x"), ["2"]);
}

fn headers_named<'a>(headers: &'a Headers, name: &str) -> Vec<&'a str> {
    headers
        .iter()
        .filter(|(known, _)| *known == name)
        .map(|(_, value)| std::str::from_utf8(value).unwrap())
        .collect()
}

#[test]
fn what_cannot_be_read_is_named() {
    for (changes, expected) in [
        (json!({"specversion": "0.3"}), "is a CloudEvent of version `0.3`, and only 1.0 is read"),
        (json!({"specversion": null}), "lacks the CloudEvents attribute `specversion`"),
        (json!({"id": null}), "lacks the CloudEvents attribute `id`"),
        (json!({"source": ""}), "lacks the CloudEvents attribute `source`"),
        (json!({"type": null}), "lacks the CloudEvents attribute `type`"),
        (json!({"id": 7}), "the CloudEvents attribute `id`, which is not a string"),
        (json!({"time": "soon"}), "the CloudEvents attribute `time` with the unreadable value `soon`"),
        (json!({"data_base64": "?"}), "`data_base64` that is not Base64"),
        (json!({"data_base64": "e30=", "data": 1}), "both `data` and `data_base64`"),
        (json!({"data": 1, "datacontenttype": "text/plain"}), "`data` that is not a string"),
    ] {
        let refusal = refusal(envelope(changes));
        assert!(
            refusal.starts_with("the message from topic `t` ") && refusal.contains(expected),
            "{refusal}"
        );
    }
    assert!(refusal(Message::new("t", "{}")).contains("is not a CloudEvent: neither its content type"));
    assert!(refusal(Message::tombstone("t")).contains("is not a CloudEvent"));
    let mut promised = envelope(json!({}));
    promised.payload = Some("[]".into());
    assert!(refusal(promised.clone()).contains("not a CloudEvent in JSON"));
    promised.payload = None;
    assert!(refusal(promised.clone()).contains("it has no payload"));
    for other in
        ["application/cloudevents+avro", "application/cloudevents-batch+json", "application/cloudevents"]
    {
        promised.content_type = Some(other.to_owned());
        let refusal = refusal(promised.clone());
        assert!(
            refusal.contains(&format!("`{other}`, and only `application/cloudevents+json` is read")),
            "{refusal}"
        );
    }
}

#[test]
fn an_error_quotes_no_more_than_the_beginning() {
    let long = "é".repeat(1_000_000);
    for name in ["specversion", "time", "data_base64"] {
        assert!(refusal(envelope(json!({ name: long }))).len() < 400, "{name}");
    }
    let mut text = envelope(json!({}));
    text.payload = Some(format!("\"{long}\"").into());
    assert!(refusal(text).len() < 400);
    let mut headers = Message::new("t", "");
    headers.headers.append("ce_specversion", "1.0");
    headers.headers.append(format!("ce_{}", "a".repeat(1_000_000)), Bytes::from_static(b"\xff"));
    assert!(refusal(headers).len() < 400);
}

#[test]
fn headers_of_the_binary_mode_that_cannot_be_read_are_named() {
    let encoded = super::carried(&structured().binary(Binding::Kafka).encode(event()).unwrap());
    for (name, value, expected) in [
        ("ce_id", &b"\xff"[..], "the header `ce_id` with a value that is not UTF-8"),
        ("ce_time", b"soon", "`time` with the unreadable value `soon`"),
        ("ce_specversion", b"2.0", "of version `2.0`"),
        ("ce_type", b"", "lacks the CloudEvents attribute `type`"),
        (header::CONTENT_TYPE, b"\xff", "the header `content-type` is not UTF-8"),
    ] {
        let mut message = encoded.clone();
        message.headers.set(name, value);
        let refusal = refusal(message);
        assert!(refusal.contains(expected), "{refusal}");
    }
}

#[test]
fn what_cloud_events_cannot_say_is_refused() {
    let all = [structured(), structured().binary(Binding::Kafka), structured().binary(Binding::Amqp)];
    for codec in &all {
        let with = |change: fn(&mut Message)| {
            let mut message = event();
            change(&mut message);
            refused(codec, message)
        };
        assert!(with(|message| message.id = None).contains("nothing for the CloudEvents attribute `id`"));
        assert!(
            with(|message| message.id = Some(Bytes::from_static(b"\xff").into()))
                .contains("`id` that is not UTF-8")
        );
        assert!(
            with(|message| message.key = Some(Bytes::from_static(b"\xff")))
                .contains("`partitionkey` that is not UTF-8")
        );
        assert!(
            with(|message| message.key = Some("a\nb".into())).contains("`partitionkey` with a character")
        );
        assert!(with(|message| message.name = "a\u{ffff}".into()).contains("`type` with a character"));
        assert!(
            with(|message| message.headers.append("ce_Some-Name", "x")).contains("the header `ce_Some-Name`")
        );
        assert!(with(|message| message.headers.append("ce_data", "x")).contains("the header `ce_data`"));
        assert!(
            with(|message| message.headers.append("ce_x", Bytes::from_static(b"\xff"))).contains("`ce_x`")
        );
        let far = with(|message| message.timestamp = Some("+12024-01-01T00:00:00Z".parse().unwrap()));
        assert!(far.contains("years of four digits"), "{far}");
    }
    let mut no_json = event();
    no_json.payload = Some("room 5".into());
    assert!(refused(&structured(), no_json).contains("not the JSON it is said to be"));
    let schema = structured().with_dataschema("{name}");
    assert!(refused(&schema, event()).contains("`dataschema` `room_closed`, which is not a URI"));
}

#[test]
fn a_name_in_the_schemas_uri_is_percent_encoded() {
    let codec = structured().binary(Binding::Kafka).with_dataschema("urn:rooms:{name}:{version}");
    let mut message = event();
    message.name = "größte {version}".to_owned();
    message.version = None;
    let encoded = codec.encode(message).unwrap();
    assert_eq!(
        encoded.headers.get_str("ce_dataschema"),
        Some("urn:rooms:gr%C3%B6%C3%9Fte%20%7Bversion%7D:1")
    );
}

#[test]
fn a_source_must_be_a_uri_reference() {
    for source in ["/rooms", "rooms", "https://example.com/rooms?a=b#c", "urn:uuid:1", "%20"] {
        CloudEvents::new(source).unwrap();
    }
    for source in ["", "two words", "größte", "a\nb", "<a>"] {
        let error = CloudEvents::new(source).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{source}");
        assert!(error.to_string().contains("is not a URI reference"), "{error}");
    }
}

#[test]
fn integers_above_2_to_the_53_stay_exact() {
    for codec in [structured(), structured().binary(Binding::Amqp)] {
        let decoded = codec.decode(codec.encode(event()).unwrap()).unwrap();
        assert_eq!(decoded.payload, event().payload);
    }
    let decoded = read(r#"{"specversion":"1.0","id":"1","source":"/","type":"t","data":9007199254740993}"#);
    assert_eq!(decode_payload::<u64>(&decoded).unwrap(), 9_007_199_254_740_993);
}

#[test]
fn two_hundred_thousand_attributes_come_through() {
    let attributes: String = (0..200_000).map(|n| format!(r#","a{n}":"""#)).collect();
    let payload = format!(r#"{{"specversion":"1.0","id":"1","source":"/","type":"t"{attributes}}}"#);
    // Quadratic, it would be a minute and more.
    let decoded = read(payload);
    assert_eq!(decoded.headers.len(), 200_004);
    let encoded = structured().binary(Binding::Amqp).encode(decoded).unwrap();
    assert_eq!(structured().decode(super::carried(&encoded)).unwrap().headers.len(), 200_004);
}
