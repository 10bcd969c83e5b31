//! Changing what is to be sent, as long as no relay may have it: of scheduled events and of dead letters.

use bytes::Bytes;
use cqrs_core::codec::{Json, header, is_json};
use cqrs_core::{BeginTransaction, Encoder, Error, ErrorKind, Headers, Message, Result, Transaction};
use cqrs_outbox::table::OutboxRecord;
use cqrs_outbox::{OrderUnit, Place};
use diesel::QueryResult;
use serde::de::IgnoredAny;
use uuid::Uuid;

use crate::backend::Backend;
use crate::changes::EditChanges;
use crate::error::store_error;
use crate::on::On;
use crate::outbox::Outbox;
use crate::query::Query;
use crate::record::Record;
use crate::requests::{RequestKind, RequestOutcome};
use crate::tx::Tx;
use crate::writing::{Large, NotWritten};

/// What to change of an event. Its topic and its key stay, for they are its place in the order, and so do its id and its name: where
/// these are wrong, discard or cancel it and write another one.
///
/// The payload and the headers are those that the broker is given, as [`Outbox::dead_letter`] and [`Outbox::scheduled`] show them. With
/// some wire formats the id, the name and the time stand in them, too, by which consumers know the event.
///
/// ```
/// use cqrs_outbox_diesel::Edit;
///
/// let mended = Edit::new()
///     .payload(r#"{"room": 5}"#)
///     .header("schema", "rooms/2")
///     .without_header("x-debug")
///     .requested_by("ada");
/// ```
#[must_use = "it does nothing by itself"]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// `Some(None)` is a tombstone.
    payload: Option<Option<Bytes>>,
    headers: Vec<HeaderEdit>,
    requested_by: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HeaderEdit {
    Set(String, Bytes),
    Remove(String),
    Clear,
    Standard,
}

impl Edit {
    /// Nothing yet, in the name of the database's user.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another payload.
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = Some(Some(payload.into()));
        self
    }

    /// No payload at all, which Kafka calls a tombstone.
    pub fn tombstone(mut self) -> Self {
        self.payload = Some(None);
        self
    }

    /// Sets a header in place of those of the same name.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(HeaderEdit::Set(name.into(), value.into()));
        self
    }

    /// Takes away every header of that name. There has to be one.
    pub fn without_header(mut self, name: impl Into<String>) -> Self {
        self.headers.push(HeaderEdit::Remove(name.into()));
        self
    }

    /// Puts those headers in place of all that the event has which the default wire format ([`Json`]) gives it, and which an event gets that
    /// plain SQL wrote: its id, name, kind and version, its time, and its content type.
    pub fn standard_headers(mut self) -> Self {
        self.headers.push(HeaderEdit::Standard);
        self
    }

    /// Takes all headers away that the event has, but for those that are set after this; with some wire formats those, too, by which
    /// consumers know it.
    pub fn without_headers(mut self) -> Self {
        self.headers.push(HeaderEdit::Clear);
        self
    }

    /// Who changes it. Default: the database's user, where the database has users.
    pub fn requested_by(mut self, requested_by: impl Into<String>) -> Self {
        self.requested_by = Some(requested_by.into());
        self
    }

    /// What the columns are to be.
    fn apply(&self, record: Record, encoder: &Encoder) -> Result<Update> {
        let refused = |what: String| Error::new(ErrorKind::InvalidEvent, what);
        let raw_headers = record.headers();
        let (unreadable, headers_size) = (raw_headers.error(), raw_headers.size());
        let mut message = record.into_row(Place::Parked, OrderUnit::default()).message;
        let size_before = message.size();
        if let Some(error) = &unreadable
            && !self.headers.is_empty()
        {
            if !self.headers.iter().any(|edit| matches!(edit, HeaderEdit::Clear | HeaderEdit::Standard)) {
                return Err(refused(format!(
                    "the headers of the event `{}` cannot be read ({error}), and so not be changed one by one: put the standard \
                     ones in their place (`--standard-headers`), or take them all away (`--remove-headers`), and set those that it is to have",
                    message.name
                )));
            }
            message.headers = Headers::new();
        }
        let before = message.clone();
        for edit in &self.headers {
            match edit {
                HeaderEdit::Set(name, value) => message.headers.set(name.clone(), value.clone()),
                HeaderEdit::Remove(name)
                    if before.headers.get(name).is_none() && message.headers.get(name).is_none() =>
                {
                    return Err(refused(no_header(&message, name)));
                }
                HeaderEdit::Remove(name) => message.headers.remove(name),
                HeaderEdit::Clear => message.headers = Headers::new(),
                HeaderEdit::Standard => {
                    message.headers = Headers::new();
                    Json::set_headers(&mut message);
                }
            }
        }
        keeps_its_names(&before, &message)?;
        if let Some(payload) = &self.payload {
            payload.as_deref().map_or(Ok(()), |payload| check_json(&message, payload))?;
            message.payload.clone_from(payload);
        }
        message.check()?;
        // One that was too large before was written under another limit.
        if message.size() > size_before {
            encoder.check_size(&message)?;
        }
        let mut changes = EditChanges::between(&before, &message);
        if unreadable.is_some() && !self.headers.is_empty() {
            changes.unreadable_headers = Some(headers_size);
        }
        let key_size = message.key.as_ref().map_or(0, Bytes::len);
        let payload_size = message.payload.as_ref().map_or(0, Bytes::len);
        let name = message.name.clone();
        let headers = match self.headers.is_empty() {
            true => None,
            false => Some(OutboxRecord::try_from(message)?.headers),
        };
        let headers_size = headers.as_ref().map_or(headers_size, String::len);
        let size = i64::try_from(payload_size + key_size + headers_size).unwrap_or(i64::MAX);
        Ok(Update { name, payload: self.payload.clone(), headers, size, changes })
    }
}

fn no_header(message: &Message, name: &str) -> String {
    let mut names: Vec<String> = message.headers.iter().map(|(name, _)| format!("{name:?}")).collect();
    names.dedup();
    let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    format!("the event `{}` has no header {name:?} that could be taken away: it has {has}", message.name)
}

/// The headers that say the event's id and name say what the columns do, or what they said before: consumers know it again by them.
fn keeps_its_names(before: &Message, after: &Message) -> Result<()> {
    let id = after.id.as_ref().map(ToString::to_string);
    for (header, own) in [(header::ID, id.as_deref()), (header::NAME, Some(after.name.as_str()))] {
        let said = after.headers.get(header);
        if said.is_some() && said != before.headers.get(header) && after.headers.get_str(header) != own {
            let what = format!(
                "the header `{header}` of the event `{}` would say something else than the event's own: its id and its name stay, for \
                 consumers know it again by them",
                after.name
            );
            return Err(Error::new(ErrorKind::InvalidEvent, what));
        }
    }
    Ok(())
}

/// What says that it is JSON has to be: it is easily written wrong by hand, and would fail at each consumer. What stood there before does not count,
/// for a tombstone would let anything follow.
fn check_json(message: &Message, payload: &[u8]) -> Result<()> {
    // As consumers take it; of a message without one the table says JSON.
    let content_type = message.headers.get_str(header::CONTENT_TYPE).or(message.content_type.as_deref());
    let is_compressed = message.headers.get(header::CONTENT_ENCODING).is_some();
    if is_compressed || !content_type.is_some_and(is_json) {
        return Ok(());
    }
    serde_json::from_slice::<IgnoredAny>(payload).map(drop).map_err(|error| {
        let what = format!(
            "the new payload of the event `{}` is no JSON ({error}), as its content type says: mend it, or set the header `{}` to what it is",
            message.name,
            header::CONTENT_TYPE
        );
        Error::new(ErrorKind::InvalidEvent, what)
    })
}

/// What an event was when it was changed.
#[must_use = "it may have been too late"]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Edited {
    /// It waits for its time, and goes as it is now.
    Scheduled,
    /// It was given up, and goes as it is now if it is [replayed](Outbox::replay).
    DeadLetter,
    /// It is neither, and nothing was changed: it may have been sent, or a relay may be about to send it.
    TooLate,
}

/// Columns of a row.
struct Update {
    /// The event's name.
    name: String,
    payload: Option<Option<Bytes>>,
    headers: Option<String>,
    /// Bytes of payload, key and headers, as the tables count them.
    size: i64,
    /// What is noted of it.
    changes: EditChanges,
}

impl Update {
    /// If more goes to the server with it than it may take.
    fn large(&self) -> Option<Large> {
        let payload = self.payload.iter().flatten().map(Bytes::len).sum::<usize>();
        Large::event(&self.name, payload + self.headers.as_ref().map_or(0, String::len))
    }

    /// Scheduled rows count their bytes by themselves.
    fn into_query(self, update: &'static str, counts_bytes: bool) -> Query {
        // The same text whatever is changed begins with what changes nothing.
        let mut query = Query::new(update).then(" SET id = id");
        if let Some(headers) = self.headers {
            query = query.then(", headers = ?").bind(headers);
        }
        query = match self.payload {
            Some(Some(payload)) => {
                query.then(", payload_text = NULL, tombstone = false, payload = ?").bind(Vec::from(payload))
            }
            Some(None) => query.then(", payload_text = NULL, tombstone = true, payload = NULL"),
            None => query,
        };
        if counts_bytes { query } else { query.then(", size = ?").bind(self.size) }
    }
}

impl<B: Backend> Outbox<B> {
    /// Changes a [scheduled](Self::scheduled) event, or a [dead letter](Self::dead_letter), which is then [replayed](Self::replay)
    /// as it is now. What a relay may be about to send is not changed: neither events that are due, nor those that stand aside.
    ///
    /// Two that change the same event wait for each other. A relay that would take it meanwhile passes it by, or the other way round it was
    /// too late. Who changed what of which event, and when, stands in [`requests`](Self::requests) as long as those are kept, without the
    /// content ([`EditChanges`]); what it was before, nowhere.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEvent`], and nothing is changed: it would be too large for the outbox's encoder, would have a header with an
    /// unusable name, has none of a name that is to be taken away, its new payload is no JSON, though its content type says so, or its headers cannot be read and are to be changed
    /// one by one. Whether it is too large is asked only if it grows, or if the server takes no more (`max_allowed_packet` of MariaDB and MySQL).
    /// [`ErrorKind::Configuration`] if nothing is to be changed. [`ErrorKind::Store`]; those of [`Transaction::commit`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it open whether it was done, all of it or nothing. Done twice it stands twice in the requests, but one
    /// that takes a header away is refused the second time.
    pub async fn edit(&self, event_id: Uuid, edit: &Edit) -> Result<Edited> {
        if edit.payload.is_none() && edit.headers.is_empty() {
            let what = "an edit that changes nothing: say what the payload or a header is to be";
            return Err(Error::new(ErrorKind::Configuration, what));
        }
        let mut tx = self.begin_short().await.map_err(|error| self.failed(error))?;
        match self.edit_in(&mut tx, event_id, edit).await {
            Ok(Edited::TooLate) => tx.rollback().await.map(|()| Edited::TooLate),
            Ok(edited) => tx.commit().await.map(|()| edited),
            Err(error) => {
                // So that the connection is not given up with it. That of one that is broken says no more than the error.
                drop(tx.rollback().await);
                Err(error)
            }
        }
    }

    async fn edit_in(&self, tx: &mut Tx<B>, event_id: Uuid, edit: &Edit) -> Result<Edited> {
        let failed = |error| self.failed(store_error(error));
        let scheduled = lock_scheduled::<B>(&mut tx.on(), event_id).await.map_err(failed)?;
        let dead = lock_dead::<B>(&mut tx.on(), event_id).await.map_err(failed)?;
        let edited = match (&scheduled[..], &dead[..]) {
            ([], []) => Edited::TooLate,
            ([], _) => Edited::DeadLetter,
            _ => Edited::Scheduled,
        };
        for (records, update, counts_bytes) in
            [(scheduled, "UPDATE cqrs_outbox_scheduled", true), (dead, "UPDATE cqrs_outbox_dead", false)]
        {
            for record in records {
                let id = record.id;
                let change = edit.apply(record, self.encoder())?;
                let dead_id = if counts_bytes { 0 } else { id };
                let note = note::<B>(event_id, dead_id, edit.requested_by.as_deref(), &change.changes)?;
                let large = change.large();
                let update = change.into_query(update, counts_bytes).condition("id = ?", true).bind(id);
                if let Err(error) = B::execute(&mut tx.on(), update).await {
                    return Err(self.not_written(NotWritten::of(error, large)).await);
                }
                B::execute(&mut tx.on(), note).await.map_err(failed)?;
            }
        }
        Ok(edited)
    }
}

/// The scheduled rows of this event, locked. Found first, and locked by their ids, so that no rows are locked that are only looked at.
async fn lock_scheduled<B: Backend>(on: &mut On<'_, B>, event_id: Uuid) -> QueryResult<Vec<Record>> {
    let find = Query::new("SELECT id AS value FROM cqrs_outbox_scheduled")
        .condition("event_id = ", true)
        .then(B::DIALECT.event_id)
        .bind(event_id.to_string())
        .then(" ORDER BY id");
    let found = B::numbers(on, find).await?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let rows = B::scheduled(
        on,
        locking::<B>(B::DIALECT.scheduled).list(&found).then(" ORDER BY id").then(B::DIALECT.for_update),
    );
    Ok(rows.await?.into_iter().map(|row| row.record).collect())
}

/// The dead letters of this event, locked.
async fn lock_dead<B: Backend>(on: &mut On<'_, B>, event_id: Uuid) -> QueryResult<Vec<Record>> {
    let find = Query::new("SELECT id AS value FROM cqrs_outbox_dead")
        .condition(B::DIALECT.event_id_is, true)
        .bind(event_id.as_bytes().to_vec())
        .then(" ORDER BY id");
    let mut records = Vec::new();
    for id in B::numbers(on, find).await? {
        let row = locking::<B>(B::DIALECT.dead_letters_in_full).list(&[id]).then(B::DIALECT.for_update);
        records.extend(B::dead_letter(on, row).await?.map(|row| row.record));
    }
    Ok(records)
}

fn locking<B: Backend>(rows: &'static str) -> Query {
    Query::new(rows).then(B::DIALECT.by_primary_key).condition("id IN ", true)
}

/// Notes who did it, when, and what it was.
fn note<B: Backend>(
    event_id: Uuid,
    dead_id: i64,
    requested_by: Option<&str>,
    changes: &EditChanges,
) -> Result<Query> {
    let dialect = B::DIALECT;
    let changes =
        serde_json::to_string(changes).map_err(|error| Error::caused_by(ErrorKind::Store, error))?;
    let note = Query::new(
        "INSERT INTO cqrs_outbox_request (kind, event_id, dead_id, outcome, changes, done_at, requested_by) VALUES (?, ",
    )
    .bind(RequestKind::Edit.as_str())
    .then(dialect.event_id)
    .bind(event_id.to_string())
    .then(", ?, ?, ?, ")
    .bind(dead_id)
    .bind(RequestOutcome::Edited.as_str())
    .bind(changes)
    .then(dialect.now);
    Ok(match requested_by {
        Some(by) => note.then(", ?)").bind(by),
        None => note.then(", ").then(dialect.me).then(")"),
    })
}
