//! The step behind a codec.

use cqrs_core::codec::{
    AnyOf, Compressed, DEFAULT_MAX_DECOMPRESSED_BYTES, Json, PythonCqrs, Raw, decode_payload, header,
};
use cqrs_core::*;

const TEXT: &str = r#"{"rooms":["größte","größte","größte","größte"]}"#;

fn all<C: Codec + Clone>(codec: C) -> Vec<(&'static str, Compressed<C>)> {
    vec![
        #[cfg(feature = "gzip")]
        ("gzip", Compressed::gzip(codec.clone())),
        #[cfg(feature = "gzip")]
        ("deflate", Compressed::zlib(codec.clone())),
        #[cfg(feature = "zstd")]
        ("zstd", Compressed::zstd(codec)),
    ]
}

fn event(payload: impl Into<Bytes>) -> Message {
    let mut message = Message::new("rooms", payload);
    message.name = "room_changed".to_owned();
    message.content_type = Some("application/json".to_owned());
    message
}

fn refusal(codec: &impl Codec, message: Message) -> String {
    let error = codec.decode(message).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    error.to_string()
}

#[test]
fn the_header_says_how_and_decoding_undoes_it() {
    for (name, codec) in all(Json) {
        let encoded = codec.encode(event(TEXT)).unwrap();
        assert_eq!(encoded.headers.get_str(header::CONTENT_ENCODING), Some(name));
        assert_ne!(encoded.payload.as_deref(), Some(TEXT.as_bytes()));
        assert_eq!(encoded.content_type.as_deref(), Some("application/json"));
        let decoded = codec.decode(super::carried(&encoded)).unwrap();
        assert_eq!((decoded.payload.unwrap(), &*decoded.name), (TEXT.into(), "room_changed"));
        assert_eq!(decoded.headers.get(header::CONTENT_ENCODING), None);
        assert_eq!(codec.encode(event(TEXT)).unwrap(), encoded, "the same bytes again");
    }
}

#[test]
fn each_reads_what_the_others_write_and_what_is_not_compressed() {
    for (name, writer) in all(Json) {
        for (_, reader) in all(Json) {
            let decoded = reader.decode(writer.encode(event(TEXT)).unwrap()).unwrap();
            assert_eq!(decoded.payload.unwrap(), TEXT, "{name}");
            assert_eq!(reader.decode(event(TEXT)).unwrap().payload.unwrap(), TEXT);
            let mut identity = event(TEXT);
            identity.headers.append(header::CONTENT_ENCODING, "identity");
            assert_eq!(reader.decode(identity).unwrap().payload.unwrap(), TEXT);
        }
    }
}

#[cfg(feature = "gzip")]
#[test]
fn what_other_tools_write_is_read() {
    // `printf room | gzip -n`, twice, one behind the other; and Python's `zlib.compress(b"room")`.
    let member =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x2b\xca\xcf\xcf\x05\x00\x9b\x51\x9f\x72\x04\x00\x00\x00";
    let zlib = b"\x78\x9c\x2b\xca\xcf\xcf\x05\x00\x04\x64\x01\xbe";
    let codec = Compressed::gzip(Raw::new());
    for (encoding, bytes, expected) in [
        ("GZIP", member.repeat(2), "roomroom"),
        ("x-gzip", member.to_vec(), "room"),
        ("deflate", zlib.to_vec(), "room"),
        ("zlib", zlib.to_vec(), "room"),
    ] {
        let mut message = Message::new("t", bytes);
        message.headers.append(header::CONTENT_ENCODING, encoding);
        assert_eq!(codec.decode(message).unwrap().payload.unwrap(), expected, "{encoding}");
    }
}

#[test]
fn there_is_no_payload_afterwards_where_there_was_none_and_an_empty_one_stays() {
    for (name, codec) in all(Json) {
        let mut tombstone = Message::tombstone("rooms");
        tombstone.name = "room_removed".to_owned();
        let encoded = codec.encode(tombstone).unwrap();
        assert_eq!(encoded.headers.get(header::CONTENT_ENCODING), None);
        assert_eq!(codec.decode(encoded).unwrap().payload, None);
        let decoded = codec.decode(codec.encode(event("")).unwrap()).unwrap();
        assert_eq!(decoded.payload.unwrap(), "", "{name}");
    }
}

#[test]
fn small_payloads_are_left_alone_if_that_is_wished() {
    for (_, codec) in all(Json) {
        let codec = codec.with_min_bytes(TEXT.len());
        let encoded = |payload: &'static str| codec.encode(event(payload)).unwrap();
        assert!(encoded(TEXT).headers.get(header::CONTENT_ENCODING).is_some());
        let small = encoded(&TEXT[1..]);
        assert_eq!(
            (small.headers.get(header::CONTENT_ENCODING), small.payload.unwrap()),
            (None, TEXT[1..].into())
        );
    }
}

#[test]
fn a_level_is_a_wish() {
    for (name, codec) in all(Json) {
        for level in [0, 1, 9, 22, u32::MAX] {
            let codec = codec.clone().with_level(level);
            let decoded = codec.decode(codec.encode(event(TEXT)).unwrap()).unwrap();
            assert_eq!(decoded.payload.unwrap(), TEXT, "{name} {level}");
        }
    }
}

#[test]
fn the_limit_is_the_largest_payload_that_passes() {
    for (name, codec) in all(Json) {
        for size in [0, 1, 1000, 200_000] {
            let encoded = codec.encode(event(vec![b'0'; size])).unwrap();
            let limited = codec.clone().with_max_decompressed_bytes(size);
            assert_eq!(limited.decode(encoded.clone()).unwrap().payload.unwrap().len(), size, "{name}");
            if size > 0 {
                let refusal = refusal(&codec.clone().with_max_decompressed_bytes(size - 1), encoded);
                assert!(refusal.contains(&format!("more than {} bytes", size - 1)), "{refusal}");
            }
        }
    }
}

#[test]
fn bombs_are_refused() {
    assert_eq!(DEFAULT_MAX_DECOMPRESSED_BYTES, 16 * 1024 * 1024);
    for (name, codec) in all(Raw::new()) {
        let bomb = codec.encode(Message::new("t", vec![0; (16 << 20) + 1])).unwrap();
        let size = bomb.payload.as_ref().unwrap().len();
        assert!(size < 20_000, "{name}: {size}");
        let refusal = refusal(&codec, bomb.clone());
        assert!(refusal.contains("more than 16777216 bytes"), "{refusal}");

        // And one within another.
        let nested = codec.clone().with_max_decompressed_bytes(usize::MAX).encode(bomb).unwrap();
        assert_eq!(nested.headers.get_str(header::CONTENT_ENCODING), Some(&*format!("{name}, {name}")));
        self::refusal(&codec, nested);
    }
}

/// 4 MiB of output are asked for with a window of 2 GiB, which a reader would have to keep.
#[cfg(feature = "zstd")]
#[test]
fn a_frame_of_zstd_that_wants_too_much_memory_is_refused() {
    // Magic number; a descriptor without size, checksum and dictionary; a window of 2^31 bytes; an empty last block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00];
    let mut message = Message::new("t", frame.to_vec());
    message.headers.append(header::CONTENT_ENCODING, "zstd");
    let refusal = refusal(&Compressed::zstd(Raw::new()), message.clone());
    assert!(refusal.contains("cannot be decompressed"), "{refusal}");

    let mut small = frame;
    small[5] = 13 << 3;
    message.payload = Some(small.to_vec().into());
    assert_eq!(Compressed::zstd(Raw::new()).decode(message).unwrap().payload.unwrap(), "");
}

#[test]
fn what_is_cut_off_or_damaged_is_refused() {
    for (name, codec) in all(Raw::new()) {
        let encoded = codec.encode(Message::new("t", TEXT.repeat(20))).unwrap();
        let payload = encoded.payload.clone().unwrap();
        for end in 0..payload.len() {
            let mut cut = encoded.clone();
            cut.payload = Some(payload.slice(..end));
            let refusal = refusal(&codec, cut);
            assert!(refusal.contains(&format!("says that it is compressed with `{name}`")), "{refusal}");
        }
        let mut longer = encoded.clone();
        longer.payload = Some([&payload[..], b"!"].concat().into());
        refusal(&codec, longer);
        let mut plain = encoded.clone();
        plain.payload = Some(TEXT.into());
        refusal(&codec, plain);
    }
}

#[test]
fn compressions_are_undone_in_the_reverse_of_their_order() {
    let mut expected = Vec::new();
    let mut message = Message::new("t", TEXT);
    for (name, codec) in all(Raw::new()) {
        message = codec.encode(message).unwrap();
        expected.push(name);
    }
    assert_eq!(message.headers.get_str(header::CONTENT_ENCODING), Some(&*expected.join(", ")));
    for (_, reader) in all(Raw::new()) {
        assert_eq!(reader.decode(message.clone()).unwrap().payload.unwrap(), TEXT);
    }
    // As headers one by one, too.
    message.headers.remove(header::CONTENT_ENCODING);
    for name in expected {
        message.headers.append(header::CONTENT_ENCODING, name);
    }
    assert_eq!(all(Raw::new())[0].1.decode(message).unwrap().payload.unwrap(), TEXT);
}

#[test]
fn what_is_not_known_is_named() {
    for (_, codec) in all(Json) {
        let with = |encoding: &'static [u8]| {
            let mut message = event(TEXT);
            message.headers.append(header::CONTENT_ENCODING, Bytes::from_static(encoding));
            refusal(&codec, message)
        };
        assert!(with(b"br").contains("compressed with `br`, which is not known"));
        assert!(with(b"\xff").contains("`content-encoding` that is not UTF-8"));
        assert!(with(b"gzip,gzip,gzip,gzip,gzip").contains("more than 4 times"));
        #[cfg(not(feature = "zstd"))]
        assert!(with(b"zstd").contains("build with the feature `zstd`"));
        #[cfg(not(feature = "gzip"))]
        assert!(with(b"gzip").contains("build with the feature `gzip`"));
    }
}

#[test]
fn a_reader_without_the_step_learns_what_it_misses() {
    let (name, codec) = all(Json).remove(0);
    let decoded = Json.decode(codec.encode(event(TEXT)).unwrap()).unwrap();
    let error = decode_payload::<serde_json::Value>(&decoded).unwrap_err().to_string();
    assert!(error.contains(&format!("compressed with `{name}`: put `codec::Compressed`")), "{error}");
}

#[test]
fn it_stands_around_or_within_several_formats() {
    let python = r#"{"eventName":"room_changed","eventId":"0192f6c29b1e7c529a516d7f1c0f8e01","payload":1}"#;
    for (_, raw) in all(Raw::new()) {
        let message = raw.encode(Message::new("rooms", python)).unwrap();
        for (_, around) in all(AnyOf::new(Json).or(PythonCqrs::v0())) {
            assert_eq!(around.decode(message.clone()).unwrap().payload.unwrap(), "1");
        }
        for (_, within) in all(PythonCqrs::v0()) {
            let codec = AnyOf::new(Json).or(within);
            assert_eq!(codec.decode(message.clone()).unwrap().payload.unwrap(), "1");
        }
    }
}

#[test]
fn one_event_alone_can_be_compressed() {
    for (name, codec) in all(Json) {
        for encoder in [
            Encoder::default().with_codec_for_event("room_changed", codec.clone()),
            Encoder::default().with_codec(AnyOf::new(codec.clone()).or(Json)),
            Encoder::default().with_codec(AnyOf::new(Json).or(codec.clone())),
        ] {
            let compressed = codec.encode(event(TEXT)).unwrap();
            let decoded = encoder.decode(super::carried(&compressed)).unwrap();
            assert_eq!((decoded.payload.unwrap(), &*decoded.name), (TEXT.into(), "room_changed"));
            let mut damaged = compressed;
            damaged.payload = Some(TEXT.into());
            let error = encoder.decode(super::carried(&damaged)).unwrap_err().to_string();
            assert!(error.contains(&format!("says that it is compressed with `{name}`")), "{error}");
            let plain = Json.encode(event(TEXT)).unwrap();
            assert_eq!(encoder.decode(super::carried(&plain)).unwrap().payload.unwrap(), TEXT);
        }
    }
}

#[test]
fn the_limit_of_messages_counts_what_is_sent() {
    for (_, codec) in all(Json) {
        let encoder = Encoder::default().with_codec(codec);
        let large = event(format!("[{}]", "0,".repeat(1_000_000) + "0"));
        large.into_message(&encoder, &Correlation::default()).unwrap();
    }
}
