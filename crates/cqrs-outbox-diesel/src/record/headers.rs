//! The column `headers`: `{"name": "value"}`, or `[["name", "value"], ["name", {"hex": "00ff"}]]` in their order.
//!
//! Strict, for what is not understood would be missing in the message, and nobody would hear of it. A number is refused, too:
//! it has no one form as text.

use std::fmt;

use bytes::Bytes;
use cqrs_core::Headers;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Result;

pub(super) fn from_json(text: &[u8]) -> Result<Headers> {
    serde_json::from_slice(text)
        .map(|Pairs(pairs)| pairs.into_iter().map(|(Name(name), value)| (name, value.0)).collect())
}

struct Pairs(Vec<(Name, Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object, or an array of pairs of a name and a value")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = seq.next_element()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// As an encoder takes them.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        if name.is_empty() || name.contains('\0') {
            return Err(D::Error::custom(format_args!("{name:?} cannot be the name of a header")));
        }
        Ok(Self(name))
    }
}

struct Value(Bytes);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct TextOrHex;

        impl<'de> Visitor<'de> for TextOrHex {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the value of a header: text or {\"hex\": \"..\"}")
            }

            fn visit_str<E: Error>(self, text: &str) -> std::result::Result<Value, E> {
                Ok(Value(Bytes::copy_from_slice(text.as_bytes())))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
                let only = map.next_entry::<String, String>()?.filter(|(name, _)| name == "hex");
                let bytes = only.as_ref().and_then(|(_, hex)| from_hex(hex));
                if let Some(bytes) = bytes
                    && map.next_key::<String>()?.is_none()
                {
                    return Ok(Value(bytes.into()));
                }
                Err(A::Error::custom("an object that is not {\"hex\": \"..\"} with two digits for each byte"))
            }
        }

        deserializer.deserialize_any(TextOrHex)
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use cqrs_core::Message;
    use cqrs_outbox::table::OutboxRecord;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn headers_come_back_as_they_were() {
        let headers: Headers = [
            ("a", &b"1"[..]),
            ("a", b""),
            ("\u{fc}", b"\x00\xff"),
            ("nul", b"a\0b"),
            ("q", "\"☃\"".as_bytes()),
        ]
        .into_iter()
        .map(|(name, value)| (name, Bytes::from(value)))
        .collect();
        let mut message = Message::new("rooms", "{}");
        message.id = Some(Uuid::nil().into());
        message.headers = headers.clone();
        let written = OutboxRecord::try_from(message).unwrap().headers;
        assert_eq!(from_json(written.as_bytes()).unwrap(), headers);
    }

    #[test]
    fn an_object_is_taken_in_its_order_with_what_is_repeated() {
        let headers = from_json(br#"{"b": "blue", "a": {"hex": "00fF"}, "b": ""}"#).unwrap();
        let pairs: Vec<_> = headers.iter().map(|(name, value)| (name, &value[..])).collect();
        assert_eq!(pairs, [("b", &b"blue"[..]), ("a", b"\x00\xff"), ("b", b"")]);
        assert!(from_json(b" [] ").unwrap().is_empty() && from_json(b"{}").unwrap().is_empty());
    }

    #[test]
    fn what_is_not_promised_is_refused_with_a_word() {
        for (text, part) in [
            (r#"[1]"#, "invalid type: integer `1`, expected a tuple of size 2"),
            (r#"[["a"]]"#, "invalid length 1"),
            (r#"[["a", "b", "c"]]"#, "trailing characters"),
            (r#"[["a", 3]]"#, "integer `3`, expected the value of a header: text or {\"hex\": \"..\"}"),
            (r#"{"a": null}"#, "invalid type: null, expected the value of a header"),
            (r#"{"a": true}"#, "boolean `true`"),
            (r#"{"a": ["b"]}"#, "invalid type: sequence"),
            (r#"{"a": {}}"#, "an object that is not {\"hex\": \"..\"}"),
            (r#"{"a": {"hex": "0"}}"#, "an object that is not"),
            (r#"{"a": {"hex": "+f"}}"#, "an object that is not"),
            (r#"{"a": {"hex": "00", "b": "1"}}"#, "an object that is not"),
            (r#"{"a": {"text": "00"}}"#, "an object that is not"),
            (r#"{"": "b"}"#, "\"\" cannot be the name of a header"),
            (r#"[["a\u0000", "b"]]"#, "\"a\\0\" cannot be the name"),
            (r#"[["a", "\ud800"]]"#, "hex escape"),
            (r#""text""#, "expected an object, or an array of pairs"),
            ("{\"a\": \"\u{1}\"}", "control character"),
        ] {
            let error = from_json(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(from_json(b"{\"a\": \"\xff\"}").is_err());
    }
}
