//! JSON objects whose values are left as they are written: numbers of any size, and the payload's own bytes.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// The fields of an object, in their order.
pub(super) struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Object<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> serde_json::Result<Self> {
        // An error of serde's would quote the whole of a text that stands there instead.
        match bytes.trim_ascii_start().first() {
            Some(b'{') => serde_json::from_slice(bytes),
            Some(_) => Err(serde_json::Error::custom("expected an object")),
            None => Err(serde_json::Error::custom("expected an object, and there is nothing")),
        }
    }

    /// Of several with one name the last, as Python and JavaScript have it.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// All of them, those with one name once.
    pub(super) fn last_of_each(&self) -> Vec<(&str, &'a RawValue)> {
        let mut known = HashSet::new();
        let mut fields: Vec<_> = self.0.iter().rev().map(|(name, value)| (name.as_str(), *value)).collect();
        fields.retain(|(name, _)| known.insert(*name));
        fields.reverse();
        fields
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Object(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// Writes an object field by field.
///
/// By hand, not by types that are `Serialize`: the compiler would list those to whoever forgets to derive it for an event.
pub(super) struct Writer(String);

impl Writer {
    pub(super) fn new() -> Self {
        Self(String::from("{"))
    }

    pub(super) fn text(self, name: &str, value: &str) -> Self {
        self.json(name, &Value::from(value).to_string())
    }

    /// A value that is JSON already.
    pub(super) fn json(mut self, name: &str, value: &str) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&Value::from(name).to_string());
        self.0.push(':');
        self.0.push_str(value);
        self
    }

    pub(super) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// The text that a value is, if it is one.
pub(super) fn text(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

pub(super) fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}
