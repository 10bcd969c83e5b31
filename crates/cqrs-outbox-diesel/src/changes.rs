//! What an edit has changed, as it is noted beside who it was.

use std::collections::BTreeMap;

use cqrs_core::codec::header;
use cqrs_core::{Headers, Message};
use serde::{Deserialize, Serialize};

/// So many headers are noted at most.
const MOST_HEADERS: usize = 50;

/// So many bytes of a header's name, and of a value that is noted.
const LONGEST: usize = 200;

/// Those that say what the event is and how to read it, mostly as its columns do.
const TOLD: [&str; 7] = [
    header::ID,
    header::NAME,
    header::KIND,
    header::VERSION,
    header::TIMESTAMP,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
];

/// What an [edit](crate::Outbox::edit) has changed.
///
/// It tells where something was changed, and how many bytes it has and had, but not the content: a payload and the headers of an
/// application may hold what must not outlive the event, and people who see who changed what need not be those who may see that. There
/// is no digest either, for what is short can be found by trying. Only of the standard headers does it tell what they said: the event's id,
/// name, kind, version, time, content type and content encoding.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditChanges {
    /// The payload, if it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<ValueChange>,
    /// The headers that are others, by their names: the first 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderChange>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_headers: usize,
    /// The bytes of what stood in the place of the headers and could not be read, if that was replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable_headers: Option<usize>,
}

/// Something before and after it was changed; `None` where it was not there: as a payload that is a tombstone.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueChange {
    /// As it was.
    pub before: Option<ValueSummary>,
    /// As it is now.
    pub after: Option<ValueSummary>,
}

/// All headers of a name, before and after they were changed.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderChange {
    /// Their name; of a long one the first 200 bytes.
    pub name: String,
    /// What they were.
    #[serde(flatten)]
    pub change: ValueChange,
}

/// What is noted of a payload or of a header's value.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueSummary {
    /// How many bytes it has; of several headers of a name, all of them together.
    pub bytes: usize,
    /// The value of a standard header, if there is one of its name, and it is text of up to 200 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl EditChanges {
    /// Whether all is as it was, as when a header was set to what it had.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// From the one to the other. The headers of `before` are none if they could not be read.
    pub(crate) fn between(before: &Message, after: &Message) -> Self {
        let payload = (before.payload != after.payload).then(|| {
            let noted =
                |message: &Message| message.payload.as_ref().map(|payload| ValueSummary::size(payload.len()));
            ValueChange { before: noted(before), after: noted(after) }
        });
        let mut headers = header_changes(&before.headers, &after.headers);
        let more_headers = headers.len().saturating_sub(MOST_HEADERS);
        headers.truncate(MOST_HEADERS);
        Self { payload, headers, more_headers, unreadable_headers: None }
    }
}

/// In the order of their names.
fn header_changes(before: &Headers, after: &Headers) -> Vec<HeaderChange> {
    // Of each name, the values before and after.
    let mut values = BTreeMap::<&str, [Vec<&[u8]>; 2]>::new();
    for (side, headers) in [before, after].into_iter().enumerate() {
        for (name, value) in headers.iter() {
            values.entry(name).or_default()[side].push(value);
        }
    }
    let changed = values.into_iter().filter(|(_, [before, after])| before != after);
    let change = |(name, [before, after]): (&str, [Vec<&[u8]>; 2])| HeaderChange {
        name: start(name).to_owned(),
        change: ValueChange {
            before: ValueSummary::header(name, &before),
            after: ValueSummary::header(name, &after),
        },
    };
    changed.map(change).collect()
}

fn start(name: &str) -> &str {
    let end = name.char_indices().map(|(at, char)| at + char.len_utf8()).take_while(|end| *end <= LONGEST);
    &name[..end.last().unwrap_or(0)]
}

impl ValueSummary {
    fn size(bytes: usize) -> Self {
        Self { bytes, text: None }
    }

    fn header(name: &str, values: &[&[u8]]) -> Option<Self> {
        let text = match values {
            [] => return None,
            [one] if TOLD.contains(&name) && one.len() <= LONGEST => std::str::from_utf8(one).ok(),
            _ => None,
        };
        Some(Self { bytes: values.iter().map(|value| value.len()).sum(), text: text.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(payload: Option<&'static str>, headers: &[(&'static str, &'static str)]) -> Message {
        let mut message = Message::tombstone("rooms");
        message.payload = payload.map(Into::into);
        message.headers = headers.iter().copied().collect();
        message
    }

    fn noted(before: &Message, after: &Message) -> serde_json::Value {
        let changes = EditChanges::between(before, after);
        let noted = serde_json::to_value(&changes).unwrap();
        assert_eq!(serde_json::from_value::<EditChanges>(noted.clone()).unwrap(), changes);
        noted
    }

    #[test]
    fn what_is_different_is_noted_and_its_content_is_not() {
        let before = message(
            Some("secret"),
            &[("token", "abc"), ("token", "d"), ("kept", "5"), ("content-type", "application/json")],
        );
        let after = message(
            Some("no secret"),
            &[("content-type", "text/plain"), ("kept", "5"), ("token", "secret"), ("new", "")],
        );
        assert_eq!(noted(&before, &before), json!({}));
        let wanted = json!({
            "payload": { "before": { "bytes": 6 }, "after": { "bytes": 9 } },
            "headers": [
                {
                    "name": "content-type",
                    "before": { "bytes": 16, "text": "application/json" },
                    "after": { "bytes": 10, "text": "text/plain" },
                },
                { "name": "new", "before": null, "after": { "bytes": 0 } },
                { "name": "token", "before": { "bytes": 4 }, "after": { "bytes": 6 } },
            ],
        });
        assert_eq!(noted(&before, &after), wanted);
    }

    #[test]
    fn as_many_bytes_of_something_else_are_a_change() {
        let change = |of: &serde_json::Value| (of["before"].clone(), of["after"].clone());
        let said = noted(&message(Some("4"), &[("a", "1")]), &message(Some("5"), &[("a", "2")]));
        assert_eq!(change(&said["payload"]), (json!({ "bytes": 1 }), json!({ "bytes": 1 })));
        assert_eq!(change(&said["headers"][0]), (json!({ "bytes": 1 }), json!({ "bytes": 1 })));
        let said = noted(&message(Some(""), &[]), &message(None, &[]));
        assert_eq!(change(&said["payload"]), (json!({ "bytes": 0 }), json!(null)));
        assert_eq!(said["headers"], json!(null));
    }

    const LONG: &str = match std::str::from_utf8(&[b'n'; LONGEST + 1]) {
        Ok(text) => text,
        Err(_) => "",
    };

    /// However many there are, and however long: the row has to fit.
    #[test]
    fn what_is_noted_is_bounded() {
        let mut after = message(None, &[]);
        for nth in 0..60 {
            after.headers.append(format!("{nth:03}{}", "ü".repeat(1_000)), "x".repeat(1_000));
        }
        let changes = EditChanges::between(&message(None, &[]), &after);
        assert_eq!((changes.headers.len(), changes.more_headers), (50, 10));
        assert_eq!(changes.headers[0].name, format!("000{}", "ü".repeat(98)));
        let said = noted(&message(None, &[]), &message(None, &[("cqrs-name", LONG)]));
        assert_eq!(said["headers"][0]["after"], json!({ "bytes": 201 }));
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over() {
        let later = r#"{"payload": {"before": null, "after": {"bytes": 1, "kind": "x"}}, "topic": {}}"#;
        let changes: EditChanges = serde_json::from_str(later).unwrap();
        assert_eq!(changes.payload.unwrap().after.unwrap().bytes, 1);
    }
}
