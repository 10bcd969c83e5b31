//! How a dead letter is shown.

use std::fmt::Write as _;

use cqrs_outbox_diesel::{DeadLetter, DeadLetterDetails};
use serde_json::{Value, json};

use crate::key::{self, Key, hex, visible};
use crate::{counted, time};

pub(super) fn as_json(letter: &DeadLetter) -> Value {
    json!({
        "id": letter.id,
        "event_id": letter.event_id.to_string(),
        "name": letter.name,
        "topic": letter.topic,
        "key": key::shown(letter.key.as_ref()),
        "attempts": letter.attempts,
        "size": letter.size,
        "error": letter.error,
        "occurred_at": letter.occurred_at.map(time),
        "died_at": time(letter.died_at),
    })
}

pub(super) fn for_people(letter: &DeadLetter) -> String {
    format!(
        "{}  {}  {}  {} for {}, {}, {}\n    {}",
        letter.id,
        time(letter.died_at),
        letter.event_id,
        visible(&letter.name),
        visible(&letter.topic),
        key::for_people(letter.key.as_ref()),
        counted(letter.attempts, "attempt"),
        visible(letter.error.as_deref().unwrap_or("no error is known")),
    )
}

/// Text as text, anything else as `{"hex": ".."}`.
fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "hex": hex(bytes) }),
    }
}

pub(super) fn details_as_json(details: &DeadLetterDetails) -> Value {
    let DeadLetterDetails { letter, message, refusals, .. } = details;
    let mut all = as_json(letter);
    all["kind"] = json!(message.kind.map(|kind| kind.as_str()));
    all["version"] = json!(message.version);
    all["content_type"] = json!(message.content_type);
    all["headers"] = message.headers.iter().map(|(name, value)| json!([name, bytes(value)])).collect();
    all["payload"] = message.payload.as_deref().map_or(Value::Null, bytes);
    all["refusals"] = refusals
        .iter()
        .map(|refusal| json!({ "at": refusal.at.map(time), "error": refusal.error }))
        .collect();
    all
}

pub(super) fn details_for_people(details: &DeadLetterDetails) -> String {
    let DeadLetterDetails { letter, message, refusals, .. } = details;
    let mut shown = String::new();
    let mut row = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(shown, "{name:<14} {}", visible(value));
    };
    row("number", &letter.id.to_string());
    row("event", &letter.event_id.to_string());
    row("name", &letter.name);
    row("topic", &letter.topic);
    row("key", &key::shown(letter.key.as_ref()).unwrap_or_else(|| "none".to_owned()));
    row("occurred", &letter.occurred_at.map_or("not known".to_owned(), time));
    row("died", &time(letter.died_at));
    row("attempts", &letter.attempts.to_string());
    for refusal in refusals {
        let at = refusal.at.map_or("not known when".to_owned(), time);
        row("refused", &format!("{at}  {}", refusal.error));
    }
    row("content type", message.content_type.as_deref().unwrap_or("none"));
    for (name, value) in message.headers.iter() {
        row("header", &format!("{name}: {}", Key(value.clone())));
    }
    let payload = match message.payload.as_deref().map(|payload| (payload, std::str::from_utf8(payload))) {
        None => "none: a tombstone".to_owned(),
        Some((_, Ok(text))) => text.lines().map(visible).collect::<Vec<_>>().join("\n"),
        Some((payload, Err(_))) => format!("hex:{}", hex(payload)),
    };
    format!("{shown}\n{payload}")
}
