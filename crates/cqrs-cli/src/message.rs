//! How what is to be sent is shown.

use std::fmt::Write as _;

use bytes::Bytes;
use cqrs::Message;
use serde_json::{Value, json};

use crate::key::{Key, hex, visible};

/// Text as text, anything else as `{"hex": ".."}`.
fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "hex": hex(bytes) }),
    }
}

/// What is wrong with the row of an event.
pub(crate) struct Wrong<'a> {
    pub(crate) defect: Option<&'a str>,
    pub(crate) unreadable_headers: Option<&'a Bytes>,
}

/// Adds it to the object of its event.
pub(crate) fn add(all: &mut Value, message: &Message, wrong: &Wrong<'_>) {
    all["defect"] = json!(wrong.defect);
    all["unreadable_headers"] = wrong.unreadable_headers.map_or(Value::Null, |headers| bytes(headers));
    all["kind"] = json!(message.kind.map(|kind| kind.as_str()));
    all["version"] = json!(message.version);
    all["content_type"] = json!(message.content_type);
    all["headers"] = message.headers.iter().map(|(name, value)| json!([name, bytes(value)])).collect();
    all["payload"] = message.payload.as_deref().map_or(Value::Null, bytes);
}

/// An event for people: a line for each thing that there is to say of it.
#[derive(Default)]
pub(crate) struct Rows(String);

impl Rows {
    pub(crate) fn row(&mut self, name: &str, value: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{name:<14} {}", visible(value));
    }

    /// With what is to be sent below them.
    pub(crate) fn above(mut self, message: &Message, wrong: &Wrong<'_>) -> String {
        if let Some(defect) = wrong.defect {
            self.row("cannot be sent", defect);
        }
        if let Some(headers) = wrong.unreadable_headers {
            self.row("headers", &Key(headers.clone()).to_string());
        }
        self.row("content type", message.content_type.as_deref().unwrap_or("none"));
        for (name, value) in message.headers.iter() {
            self.row("header", &format!("{name}: {}", Key(value.clone())));
        }
        let payload = match message.payload.as_deref().map(|payload| (payload, std::str::from_utf8(payload)))
        {
            None => "none: a tombstone".to_owned(),
            Some((_, Ok(text))) => text.lines().map(visible).collect::<Vec<_>>().join("\n"),
            Some((payload, Err(_))) => format!("hex:{}", hex(payload)),
        };
        format!("{}\n{payload}", self.0)
    }
}
