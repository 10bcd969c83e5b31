//! What the fuzz targets have in common.

use cqrs_core::{Bytes, Codec, ErrorKind, Message};

/// A message as text, so that seeds and findings can be read: lines of `name: value` for headers, an empty line, and the
/// payload. `property` stands for the content type that a broker tells besides, `key` for the key. Without an empty line all
/// of it is the payload; a `tombstone` has none.
pub fn message(input: &[u8]) -> Message {
    let Some(end) = input.windows(2).position(|bytes| bytes == b"\n\n") else {
        return Message::new("rooms", input.to_vec());
    };
    let mut message = Message::new("rooms", input[end + 2..].to_vec());
    for line in input[..end].split(|byte| *byte == b'\n') {
        let colon = line.windows(2).position(|bytes| bytes == b": ").unwrap_or(line.len());
        let name = String::from_utf8_lossy(&line[..colon]).into_owned();
        let value = Bytes::copy_from_slice(line.get(colon + 2..).unwrap_or_default());
        match &*name {
            "property" => message.content_type = Some(String::from_utf8_lossy(&value).into_owned()),
            "key" => message.key = Some(value),
            "tombstone" => message.payload = None,
            _ => message.headers.append(name, value),
        }
    }
    message
}

/// Decodes, and encodes what came out, which has to be decoded to the same.
///
/// # Panics
///
/// If not, or for an error of the wrong kind.
pub fn decode(codec: &impl Codec, input: &[u8]) -> Option<Message> {
    let message = message(input);
    codec.fits(&message);
    let decoded = match codec.decode(message) {
        Ok(decoded) => decoded,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Decode, "{error:?}");
            return None;
        }
    };
    match codec.encode(decoded.clone()) {
        Ok(encoded) => {
            let again = codec.decode(encoded).expect("what it has written is read");
            assert_eq!((&again.id, &again.name), (&decoded.id, &decoded.name));
            assert_eq!(trimmed(&again), trimmed(&decoded));
            // One without a key may get that of a header `ce_subject`, when it becomes a CloudEvent.
            assert!(decoded.key.is_none() || again.key == decoded.key, "{again:?} {decoded:?}");
            assert_eq!(again.content_type, decoded.content_type);
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidEvent, "{error:?}"),
    }
    Some(decoded)
}

/// White space around JSON is not kept by what puts it into other JSON.
fn trimmed(message: &Message) -> Option<&[u8]> {
    message.payload.as_deref().map(<[u8]>::trim_ascii)
}
