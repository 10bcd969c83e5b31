//! How a dead letter is shown.

use cqrs_outbox_diesel::{DeadLetter, DeadLetterDetails};
use serde_json::{Value, json};

use crate::key::{self, visible};
use crate::message::{self, Rows, Wrong};
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

fn wrong(details: &DeadLetterDetails) -> Wrong<'_> {
    Wrong { defect: details.defect.as_deref(), unreadable_headers: details.unreadable_headers.as_ref() }
}

pub(super) fn details_as_json(details: &DeadLetterDetails) -> Value {
    let DeadLetterDetails { letter, message, refusals, .. } = details;
    let mut all = as_json(letter);
    message::add(&mut all, message, &wrong(details));
    all["refusals"] = refusals
        .iter()
        .map(|refusal| json!({ "at": refusal.at.map(time), "error": refusal.error }))
        .collect();
    all
}

pub(super) fn details_for_people(details: &DeadLetterDetails) -> String {
    let DeadLetterDetails { letter, message, refusals, .. } = details;
    let mut rows = Rows::default();
    rows.row("number", &letter.id.to_string());
    rows.row("event", &letter.event_id.to_string());
    rows.row("name", &letter.name);
    rows.row("topic", &letter.topic);
    rows.row("key", &key::shown(letter.key.as_ref()).unwrap_or_else(|| "none".to_owned()));
    rows.row("occurred", &letter.occurred_at.map_or("not known".to_owned(), time));
    rows.row("died", &time(letter.died_at));
    rows.row("attempts", &letter.attempts.to_string());
    for refusal in refusals {
        let at = refusal.at.map_or("not known when".to_owned(), time);
        rows.row("refused", &format!("{at}  {}", refusal.error));
    }
    rows.above(message, &wrong(details))
}
