//! Keys, which are bytes, as people write them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

/// Text, or `hex:` and digits for what is no text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) Bytes);

const HEX: &str = "hex:";

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(digits) = text.strip_prefix(HEX) else {
            return Ok(Self(Bytes::copy_from_slice(text.as_bytes())));
        };
        let byte = |pair: &[u8]| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            pair.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u8::from_str_radix(pair, 16).ok())?
        };
        let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(byte).collect();
        bytes.map(|bytes| Self(bytes.into())).ok_or_else(|| {
            format!("`{digits}` is no hexadecimal number of whole bytes; text that begins with `{HEX}` is written as hex, too")
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.starts_with(HEX) => f.write_str(text),
            _ => write!(f, "{HEX}{}", hex(&self.0)),
        }
    }
}

/// A key, if there is one.
pub(crate) fn shown(key: Option<&Bytes>) -> Option<String> {
    key.map(|key| Key(key.clone()).to_string())
}

/// The same in a line for people.
pub(crate) fn for_people(key: Option<&Bytes>) -> String {
    shown(key).map_or("no key".to_owned(), |key| format!("key {}", visible(&key)))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Text for a terminal: what would steer it is escaped.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let escape = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    text.chars().map(escape).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_shown() {
        for (bytes, shown) in [
            (&b"room 5"[..], "room 5"),
            (b"", ""),
            ("ü".as_bytes(), "ü"),
            (b"\x00\xff", "hex:00ff"),
            (b"hex:00", "hex:6865783a3030"),
        ] {
            let key = Key(Bytes::copy_from_slice(bytes));
            assert_eq!(key.to_string(), shown);
            assert_eq!(shown.parse(), Ok(key));
        }
        for wrong in ["hex:0", "hex:0g", "hex:+1", "hex:ü"] {
            assert!(wrong.parse::<Key>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_terminal_is_not_steered() {
        assert_eq!(visible("plain ü"), "plain ü");
        assert_eq!(visible("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }
}
