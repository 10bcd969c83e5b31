//! Changing what is to be sent of scheduled events and of dead letters.

use std::time::Duration;

use cqrs_core::{BeginTransaction, Deliver, Encoder, ErrorKind, Headers, Message, Outgoing, Transaction};
use cqrs_outbox_diesel::{
    Asking, DeadLetterFilter, Edit, EditChanges, Edited, Outbox, Page, RequestFilter, RequestKind,
    RequestOutcome, ScheduleFilter,
};
use diesel_async::SimpleAsyncConnection;
use tokio::time::sleep;
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site};
use crate::dead_letters::{Owner, buried, letter};
use crate::harness::{OnEach, Test, tests};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        let mut tests = tests!(edit<D> {
            a_dead_letter_goes_again_as_it_was_changed,
            a_scheduled_event_goes_as_it_was_changed,
            what_is_not_named_stays_as_it_was,
            what_a_relay_may_have_is_not_changed,
            what_would_not_do_is_refused_and_changes_nothing,
            the_content_type_says_whether_it_has_to_be_json,
            headers_that_cannot_be_read_are_replaced,
            what_was_changed_is_noted_without_what_it_was,
            those_who_change_one_at_the_same_time_wait_for_each_other,
            an_edit_is_not_asked_for,
        });
        if D::SERVICE.is_some() {
            tests.extend(tests!(edit<D> { one_that_is_taken_meanwhile_is_not_changed }));
        }
        tests
    }
}

/// An event whose headers are its name and a word.
fn event(name: &str) -> Message {
    let mut message = letter("rooms", name, Some(b"5"));
    message.payload = Some(r#"{"room":4}"#.into());
    message.headers.append("word", "old");
    message
}

fn id(message: &Message) -> Uuid {
    message.id.as_ref().unwrap().to_uuid().unwrap()
}

async fn headers<D: Db>(outbox: &Outbox<D>, event_id: Uuid) -> Headers {
    outbox.dead_letter(event_id).await.unwrap().unwrap().message.headers
}

/// Changes a dead letter.
async fn edit<D: Db>(outbox: &Outbox<D>, event_id: Uuid, edit: Edit) {
    assert_eq!(outbox.edit(event_id, &edit).await.unwrap(), Edited::DeadLetter);
}

/// What is noted of edits: the event, who it was, and what became of it.
async fn notes<D: Db>(outbox: &Outbox<D>) -> Vec<(Uuid, String, RequestOutcome)> {
    let requests = outbox.requests(&RequestFilter::new(), Page::oldest_first()).await.unwrap();
    let edits = requests.into_iter().filter(|request| request.kind == RequestKind::Edit);
    edits.map(|request| (request.event_id, request.requested_by, request.done.unwrap().1)).collect()
}

/// What is noted that they have changed.
async fn changes<D: Db>(outbox: &Outbox<D>) -> Vec<EditChanges> {
    let requests = outbox.requests(&RequestFilter::new(), Page::oldest_first()).await.unwrap();
    let edits = requests.into_iter().filter(|request| request.kind == RequestKind::Edit);
    edits.map(|request| request.changes.unwrap()).collect()
}

/// Whether the table counts the bytes of this row right.
async fn counts_right<D: Db>(outbox: &Outbox<D>, table: &str) -> bool {
    let length = |column: &str| match D::NAME {
        "sqlite" => format!("coalesce(length(CAST({column} AS BLOB)), 0)"),
        _ => format!("coalesce(octet_length({column}), 0)"),
    };
    let parts = ["payload", "payload_text", "message_key", "headers"].map(length).join(" + ");
    let text = if D::NAME == "sqlite" { "TEXT" } else { "char(20)" };
    let query = format!("SELECT CAST(size - ({parts}) AS {text}) AS value FROM {table}");
    let off = outbox.values(&query).await;
    !off.is_empty() && off.iter().all(|bytes| bytes.trim() == "0")
}

async fn a_dead_letter_goes_again_as_it_was_changed<D: Db>(site: &Site) {
    let (first, second) = (event("a"), event("b"));
    let (outbox, owner) = buried::<D>(site, true, vec![first.clone(), second.clone()]).await;
    let (before, of_second) = (headers(&outbox, id(&first)).await, headers(&outbox, id(&second)).await);
    let edit = Edit::new()
        .payload(&br#"{"room":5,"open":true}"#[..])
        .header("word", "new")
        .header("bytes", &b"\x00\xff"[..])
        .requested_by("ada");
    assert_eq!(outbox.edit(id(&first), &edit).await.unwrap(), Edited::DeadLetter);

    let details = outbox.dead_letter(id(&first)).await.unwrap().unwrap();
    assert_eq!(details.message.payload.as_deref(), Some(&br#"{"room":5,"open":true}"#[..]));
    let mut wanted = before;
    wanted.set("word", "new");
    wanted.set("bytes", &b"\x00\xff"[..]);
    assert_eq!(details.message.headers, wanted);
    assert_eq!((details.letter.attempts, details.refusals.len()), (3, 1), "what was refused stays known");
    assert!(counts_right(&outbox, "cqrs_outbox_dead").await);
    assert_eq!(notes(&outbox).await, [(id(&first), "ada".to_owned(), RequestOutcome::Edited)]);
    // In the order of their names, as many bytes as before and another word.
    let noted = serde_json::json!([{
        "payload": { "before": { "bytes": 10 }, "after": { "bytes": 22 } },
        "headers": [
            { "name": "bytes", "before": null, "after": { "bytes": 2 } },
            { "name": "word", "before": { "bytes": 3 }, "after": { "bytes": 3 } },
        ],
    }]);
    assert_eq!(serde_json::to_value(changes(&outbox).await).unwrap(), noted);

    outbox.replay_all(&DeadLetterFilter::new(), &Asking::new()).await.unwrap();
    let [a, b] = owner.parked().await.try_into().unwrap();
    assert_eq!((&a.message.payload, &a.message.headers), (&details.message.payload, &wanted));
    assert_eq!(a.event_id, id(&first));
    assert_eq!((b.message.payload, b.message.headers), (second.payload, of_second));
}

async fn a_scheduled_event_goes_as_it_was_changed<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let message = event("a");
    let mut later = Outgoing::from(message.clone());
    later.options.deliver = Some(Deliver::After(Duration::from_millis(1_500)));
    outbox.transaction(async |tx| tx.publish(later).await).await.unwrap();
    let edit = Edit::new().payload(&br#"{"room":7}"#[..]).without_header("word");
    assert_eq!(outbox.edit(id(&message), &edit).await.unwrap(), Edited::Scheduled);
    let shown = outbox.scheduled(&ScheduleFilter::default()).await.unwrap().remove(0).message;
    assert_eq!(shown.payload.as_deref(), Some(&br#"{"room":7}"#[..]));
    assert!(!shown.headers.is_empty() && shown.headers.get("word").is_none());
    // SQLite and MariaDB count a row's bytes when it moves.
    let owner = Owner::new(&outbox).await;
    let promote = async || {
        let leases = owner.beat().await.leases;
        owner.store.promote(&leases, 10).await.unwrap()
    };
    while outbox.waiting().await == 0 {
        promote().await;
        sleep(Duration::from_millis(50)).await;
    }
    let row = owner.read().await.remove(0);
    assert_eq!(
        (row.event_id, &row.message.payload, &row.message.headers),
        (id(&message), &shown.payload, &shown.headers)
    );
    assert_eq!(notes(&outbox).await.len(), 1);
    assert_eq!(outbox.edit(id(&message), &edit).await.unwrap(), Edited::TooLate);
}

async fn what_is_not_named_stays_as_it_was<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let owner = Owner::new(&outbox).await;
    // Of plain SQL: its payload is text, and its headers are made of its columns.
    let insert = "INSERT INTO cqrs_outbox (event_name, topic, message_key, payload_text) \
                  VALUES ('room_closed', 'rooms', '5', '{\"room\":4}')";
    outbox.sql(insert).await.unwrap();
    owner.bury_all(false, "not readable").await;
    let letters = outbox.dead_letters(&DeadLetterFilter::new(), Page::oldest_first()).await.unwrap();
    let event_id = letters[0].event_id;
    let made = headers(&outbox, event_id).await;
    let unset = async || {
        outbox.values("SELECT event_name AS value FROM cqrs_outbox_dead WHERE headers IS NULL").await
    };

    edit(&outbox, event_id, Edit::new().payload("{}")).await;
    assert_eq!((headers(&outbox, event_id).await, unset().await.len()), (made.clone(), 1));
    assert!(counts_right(&outbox, "cqrs_outbox_dead").await);

    edit(&outbox, event_id, Edit::new().header("word", "new")).await;
    let details = outbox.dead_letter(event_id).await.unwrap().unwrap();
    let mut wanted = made;
    wanted.set("word", "new");
    assert_eq!((details.message.payload, details.message.headers), (Some("{}".into()), wanted));
    assert!(counts_right(&outbox, "cqrs_outbox_dead").await);

    edit(&outbox, event_id, Edit::new().tombstone().without_headers()).await;
    let details = outbox.dead_letter(event_id).await.unwrap().unwrap();
    assert_eq!((details.message.payload, details.message.headers), (None, Headers::new()));
    assert!(counts_right(&outbox, "cqrs_outbox_dead").await);
    // And back again.
    edit(&outbox, event_id, Edit::new().payload("[]")).await;
    outbox.replay(event_id).await.unwrap();
    let row = owner.parked().await.remove(0);
    assert_eq!((row.defect, row.message.payload), (None, Some("[]".into())));
}

async fn what_a_relay_may_have_is_not_changed<D: Db>(site: &Site) {
    let (parked, dead) = (event("a"), event("b"));
    let (outbox, owner) = buried::<D>(site, false, vec![parked.clone(), dead.clone()]).await;
    outbox.replay(id(&parked)).await.unwrap();
    owner.beat().await;
    let hot = event("c");
    let written = hot.clone();
    outbox.transaction(async move |tx| tx.publish(written).await).await.unwrap();
    let edit = Edit::new().payload("{}");
    for event_id in [id(&parked), id(&hot), Uuid::new_v4(), Uuid::nil()] {
        assert_eq!(outbox.edit(event_id, &edit).await.unwrap(), Edited::TooLate);
    }
    assert_eq!(owner.parked().await[0].message.payload, parked.payload);
    assert_eq!(owner.read().await[0].message.payload, hot.payload);
    assert_eq!(outbox.dead_letter(id(&dead)).await.unwrap().unwrap().message.payload, dead.payload);
    assert!(notes(&outbox).await.is_empty());
}

async fn what_would_not_do_is_refused_and_changes_nothing<D: Db>(site: &Site) {
    let message = event("a");
    let (outbox, _) = buried::<D>(site, false, vec![message.clone()]).await;
    let before = outbox.dead_letter(id(&message)).await.unwrap();
    let small = outbox.clone().with_encoder(Encoder::default().with_max_message_bytes(100));
    let grown = format!("\"{}\"", "x".repeat(100));
    for (edit, kind, part) in [
        (Edit::new(), ErrorKind::Configuration, "changes nothing"),
        (Edit::new().requested_by("ada"), ErrorKind::Configuration, "changes nothing"),
        (Edit::new().header("", "x"), ErrorKind::InvalidEvent, "unusable name"),
        (Edit::new().without_header("wrod"), ErrorKind::InvalidEvent, "has no header \"wrod\""),
        (Edit::new().without_headers().header("a\0b", ""), ErrorKind::InvalidEvent, "unusable name"),
        (Edit::new().header("cqrs-id", "another"), ErrorKind::InvalidEvent, "its id and its name stay"),
        (
            Edit::new().without_headers().header("cqrs-name", "another"),
            ErrorKind::InvalidEvent,
            "`cqrs-name`",
        ),
        (Edit::new().payload("{\"room\":"), ErrorKind::InvalidEvent, "no JSON"),
        (Edit::new().payload(""), ErrorKind::InvalidEvent, "no JSON"),
        (Edit::new().payload(grown), ErrorKind::InvalidEvent, "the limit is 100"),
    ] {
        let error = small.edit(id(&message), &edit).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{edit:?}: {error}");
        assert!(error.to_string().contains(part), "{edit:?}: {error}");
        assert_eq!(outbox.dead_letter(id(&message)).await.unwrap(), before, "{edit:?}");
    }
    assert!(notes(&outbox).await.is_empty());
    // As it is, or not at all, it may.
    let own = Edit::new().without_headers().header("cqrs-id", id(&message).to_string());
    assert_eq!(outbox.edit(id(&message), &own).await.unwrap(), Edited::DeadLetter);
    // It is larger than that already, and becomes no larger.
    assert!(before.unwrap().letter.size > 100);
    assert_eq!(small.edit(id(&message), &Edit::new().payload("[]")).await.unwrap(), Edited::DeadLetter);
}

async fn the_content_type_says_whether_it_has_to_be_json<D: Db>(site: &Site) {
    let message = event("a");
    let (outbox, _) = buried::<D>(site, false, vec![message.clone()]).await;
    let refused = async |payload: &'static str| {
        let error = outbox.edit(id(&message), &Edit::new().payload(payload)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidEvent);
        assert!(error.to_string().contains("no JSON"), "{error}");
    };
    // Whatever it was before.
    edit(&outbox, id(&message), Edit::new().tombstone()).await;
    refused("text").await;
    refused("").await;
    let text = |content_type: &'static str| Edit::new().header("content-type", content_type).payload("text");
    edit(&outbox, id(&message), text("text/plain")).await;
    edit(&outbox, id(&message), Edit::new().header("content-type", "application/json; charset=utf-8")).await;
    refused("other text").await;
    for content_type in ["application/cloudevents+json", "Application/JSON"] {
        let error = outbox.edit(id(&message), &text(content_type)).await.unwrap_err();
        assert!(error.to_string().contains("no JSON"), "{content_type}: {error}");
    }
    // A line of JSON each, and JSON that is compressed.
    edit(&outbox, id(&message), text("application/jsonl")).await;
    edit(&outbox, id(&message), text("application/json").header("content-encoding", "gzip")).await;
}

async fn headers_that_cannot_be_read_are_replaced<D: Db>(site: &Site) {
    let message = event("a");
    let (outbox, owner) = buried::<D>(site, false, vec![message.clone()]).await;
    outbox.sql("UPDATE cqrs_outbox_dead SET headers = NULL").await.unwrap();
    let standard = headers(&outbox, id(&message)).await;
    outbox.sql("UPDATE cqrs_outbox_dead SET headers = '[[\"word\", 1]]'").await.unwrap();
    let error = outbox.edit(id(&message), &Edit::new().header("word", "new")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);
    assert!(error.to_string().contains("cannot be read") && error.to_string().contains("`a`"), "{error}");
    // The payload does not depend on them.
    edit(&outbox, id(&message), Edit::new().payload("[]")).await;
    assert!(counts_right(&outbox, "cqrs_outbox_dead").await);
    edit(&outbox, id(&message), Edit::new().without_headers().header("word", "new")).await;
    assert_eq!(headers(&outbox, id(&message)).await, Headers::from_iter([("word", "new")]));
    outbox.sql("UPDATE cqrs_outbox_dead SET headers = '[[\"word\", 1]]'").await.unwrap();
    edit(&outbox, id(&message), Edit::new().standard_headers()).await;
    outbox.replay(id(&message)).await.unwrap();
    let row = owner.parked().await.remove(0);
    assert_eq!((row.defect, row.message.headers), (None, standard));
}

/// Who may see who did it need not be one who may see what is in an event.
async fn what_was_changed_is_noted_without_what_it_was<D: Db>(site: &Site) {
    let message = event("a");
    let (outbox, _) = buried::<D>(site, false, vec![message.clone()]).await;
    outbox.replay(id(&message)).await.unwrap();
    let secret = "s3cret";
    edit(&outbox, id(&message), Edit::new().header("token", secret).header("cqrs-version", "2")).await;
    edit(&outbox, id(&message), Edit::new().tombstone().without_header("token")).await;
    edit(&outbox, id(&message), Edit::new().tombstone().header("cqrs-version", "2")).await;
    outbox.sql("UPDATE cqrs_outbox_dead SET headers = '[[\"token\", 1]]'").await.unwrap();
    edit(&outbox, id(&message), Edit::new().without_headers().header("word", secret)).await;
    let wanted = serde_json::json!([
        {
            "headers": [
                { "name": "cqrs-version", "before": null, "after": { "bytes": 1, "text": "2" } },
                { "name": "token", "before": null, "after": { "bytes": 6 } },
            ],
        },
        {
            "payload": { "before": { "bytes": 10 }, "after": null },
            "headers": [{ "name": "token", "before": { "bytes": 6 }, "after": null }],
        },
        {},
        { "headers": [{ "name": "word", "before": null, "after": { "bytes": 6 } }], "unreadable_headers": 14 },
    ]);
    assert_eq!(serde_json::to_value(changes(&outbox).await).unwrap(), wanted);
    let stored = outbox.values("SELECT changes AS value FROM cqrs_outbox_request WHERE kind = 'edit'").await;
    assert!(stored.len() == 4 && !stored.iter().any(|noted| noted.contains(secret)), "{stored:?}");

    outbox.sql("UPDATE cqrs_outbox_request SET changes = 'x' WHERE changes = '{}'").await.unwrap();
    let requests = outbox.requests(&RequestFilter::new(), Page::oldest_first()).await.unwrap();
    let noted: Vec<bool> = requests.iter().map(|request| request.changes.is_some()).collect();
    assert_eq!(noted, [false, true, true, false, true]);
}

/// Else one would take back what another has done.
async fn those_who_change_one_at_the_same_time_wait_for_each_other<D: Db>(site: &Site) {
    let message = event("a");
    let (outbox, _) = buried::<D>(site, false, vec![message.clone()]).await;
    let editors = (0..8).map(|nth| {
        let (outbox, event_id) = (outbox.clone(), id(&message));
        tokio::spawn(async move {
            for time in 0..5 {
                let edit = Edit::new().header(format!("{nth}-{time}"), "set");
                assert_eq!(outbox.edit(event_id, &edit).await.unwrap(), Edited::DeadLetter);
            }
        })
    });
    for editor in editors.collect::<Vec<_>>() {
        editor.await.unwrap();
    }
    let headers = headers(&outbox, id(&message)).await;
    let set = headers.iter().filter(|(_, value)| &value[..] == b"set").count();
    assert_eq!((set, notes(&outbox).await.len()), (40, 40));
}

async fn an_edit_is_not_asked_for<D: Db>(site: &Site) {
    let (outbox, _) = buried::<D>(site, false, vec![event("a")]).await;
    let letters = outbox.dead_letters(&DeadLetterFilter::new(), Page::oldest_first()).await.unwrap();
    let error = outbox.ask(RequestKind::Edit, &DeadLetterFilter::new(), &Asking::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let error = outbox.ask_for(RequestKind::Edit, &letters, &Asking::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(outbox.requests(&RequestFilter::new(), Page::oldest_first()).await.unwrap().is_empty());
}

async fn one_that_is_taken_meanwhile_is_not_changed<D: Db>(site: &Site) {
    let message = event("a");
    let (outbox, _) = buried::<D>(site, false, vec![message.clone()]).await;
    // As a relay that replays it, before it commits.
    let mut taking = outbox.begin().await.unwrap();
    taking.batch_execute("DELETE FROM cqrs_outbox_dead").await.unwrap();
    let editing = tokio::spawn({
        let (outbox, event_id) = (outbox.clone(), id(&message));
        async move { outbox.edit(event_id, &Edit::new().payload("[]")).await }
    });
    outbox.is_waited_for(&editing).await;
    taking.commit().await.unwrap();
    assert_eq!(editing.await.unwrap().unwrap(), Edited::TooLate);
    assert!(notes(&outbox).await.is_empty());
}
