//! What a writer may ask for beside the event itself, on every database: a deduplication key, a version of the key, a time.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use cqrs_core::{
    AddOutcome, Added, AddedEvent, Deliver, Error, ErrorKind, Outgoing, Result, VersionConflict, WriteOptions,
};
use cqrs_outbox::table::{OutboxRecord, check_key};
use diesel::QueryResult;
use uuid::Uuid;

use crate::backend::Backend;
use crate::error::{is_unanswered, store_error};
use crate::on::On;
use crate::outbox::Outbox;
use crate::query::Query;

/// What is stored for a key that has no version yet.
const NO_VERSION: i64 = -1;

/// An event, or a statement, of so many bytes may be larger than what a server takes. With a smaller one nobody asks whether it is.
pub(crate) const LARGE: usize = 500_000;

/// Why nothing was written.
pub(crate) enum NotWritten {
    Refused(Error),
    Database(diesel::result::Error),
    /// The connection ended without an answer, and this is the largest event of those.
    Unanswered(diesel::result::Error, Large),
}

/// A large event: its name and its bytes.
pub(crate) struct Large {
    name: String,
    bytes: usize,
}

impl Large {
    /// An event of that name, if it is one.
    pub(crate) fn event(name: &str, bytes: usize) -> Option<Self> {
        (bytes >= LARGE).then(|| Self { name: name.to_owned(), bytes })
    }

    fn of(rows: &[OutboxRecord]) -> Option<Self> {
        let row = rows.iter().max_by_key(|row| row.size())?;
        Self::event(&row.event_name, row.size())
    }
}

impl<B: Backend> Outbox<B> {
    /// A server that gets more than it takes at once says so, if at all, to a client that is still busy sending it.
    pub(crate) async fn not_written(&self, error: NotWritten) -> Error {
        let (error, Large { name, bytes }) = match error {
            NotWritten::Refused(error) => return error,
            NotWritten::Database(error) => return self.failed(store_error(error)),
            NotWritten::Unanswered(error, large) => (error, large),
        };
        match self.max_packet().await {
            Some(max) if bytes.saturating_add(BESIDE) > max => {
                let what = format!(
                    "the event `{name}` has {bytes} bytes, and the database's server takes a `max_allowed_packet` of {max} at once: make it \
                     smaller (a notification with an id instead of the state), or raise that setting of the server"
                );
                Error::new(ErrorKind::InvalidEvent, what).with_source(error)
            }
            _ => self.failed(store_error(error)),
        }
    }

    /// The connection that wrote is gone, and of the application's there may be no other.
    async fn max_packet(&self) -> Option<usize> {
        let query = Query::new(B::MAX_PACKET?);
        let mut conn = self.acquire_for_call().await.ok()?;
        let max = B::numbers(&mut conn.on(), query).await.ok()?;
        conn.give_back();
        usize::try_from(*max.first()?).ok()
    }
}

/// What a statement has beside the bytes of an event, at most: its text, ids, lengths.
const BESIDE: usize = 1_000;

/// The same for each of its rows, or keys.
const BESIDE_EACH: usize = 200;

impl NotWritten {
    /// With the largest of the events that were to be written, if one is large.
    pub(crate) fn of(error: diesel::result::Error, large: Option<Large>) -> Self {
        match large {
            Some(large) if is_unanswered(&error) => Self::Unanswered(error, large),
            _ => Self::Database(error),
        }
    }
}

impl From<Error> for NotWritten {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<diesel::result::Error> for NotWritten {
    fn from(error: diesel::result::Error) -> Self {
        Self::Database(error)
    }
}

/// A deduplication key that an event wants to be the first with.
#[derive(Debug)]
pub struct Claim {
    pub(crate) key: Vec<u8>,
    pub(crate) event_id: Uuid,
    pub(crate) seconds: f64,
}

/// As [`write_all`], and tells what may have been too large.
pub(crate) async fn write<B: Backend>(
    on: &mut On<'_, B>,
    events: Vec<Outgoing>,
) -> Result<Added, NotWritten> {
    let mut large = None;
    write_all(on, events, &mut large).await.map_err(|error| match error {
        NotWritten::Database(error) => NotWritten::of(error, large),
        error => error,
    })
}

/// Writes events, or none if one is refused. Those that ask for nothing, as most do, are one INSERT.
///
/// The order of the steps matters. Deduplication first: a duplicate has no version. Versions next, for their rows are to be
/// locked before an outbox row draws its id. Whoever locks several rows does so in the order of their keys.
async fn write_all<B: Backend>(
    on: &mut On<'_, B>,
    events: Vec<Outgoing>,
    large: &mut Option<Large>,
) -> Result<Added, NotWritten> {
    let mut added = Added::all(&events);
    let mut rows = Vec::with_capacity(events.len());
    let mut options = Vec::with_capacity(events.len());
    for event in events {
        check(&event)?;
        rows.push(OutboxRecord::try_from(event.message)?);
        options.push(event.options);
    }
    *large = Large::of(&rows);
    let most = most_at_once::<B>(on, &rows, &options).await?;
    if options.iter().all(WriteOptions::is_empty) {
        insert::<B>(on, rows, most).await?;
        return Ok(added);
    }
    let claims = claims(&rows, &options);
    let mut firsts = HashMap::new();
    for some in in_parts(&claims, most, |claim| claim.key.len()) {
        firsts.extend(B::claim(on, some).await?);
    }
    let claimed: Vec<Vec<u8>> =
        claims.into_iter().map(|claim| claim.key).filter(|key| !firsts.contains_key(key)).collect();
    for (nth, (row, options)) in rows.iter().zip(&options).enumerate() {
        let Some(dedup) = &options.dedup else { continue };
        match firsts.get(dedup.key.as_ref()) {
            Some(first) => added.events[nth] = AddedEvent::new((*first).into(), AddOutcome::Duplicate),
            None => drop(firsts.insert(dedup.key.to_vec(), row.event_id)),
        }
    }
    let is_duplicate = |nth: usize| added.events[nth].outcome == AddOutcome::Duplicate;
    let versions = versions(&rows, &options, is_duplicate);
    if !versions.is_empty() {
        let mut stored = HashMap::new();
        for some in in_parts(&versions.keys().cloned().collect::<Vec<_>>(), most, Vec::len) {
            stored.extend(B::lock_versions(on, some).await?);
        }
        match raised(versions, stored) {
            Ok(raised) => {
                for some in in_parts(&raised, most, |(key, _)| key.len()) {
                    B::set_versions(on, some).await?;
                }
            }
            Err(conflict) => {
                // Whoever goes on all the same and commits must not leave a key behind that nothing was written for.
                if !claimed.is_empty() {
                    B::release_claims(on, &claimed).await?;
                }
                return Err(conflict.into_error().into());
            }
        }
    }
    let now = match options.iter().any(|options| options.deliver.is_some()) {
        true => B::now(on).await?,
        false => DateTime::UNIX_EPOCH,
    };
    let (mut hot, mut later) = (Vec::new(), Vec::new());
    for (nth, (row, options)) in rows.into_iter().zip(options).enumerate() {
        if added.events[nth].outcome == AddOutcome::Duplicate {
            continue;
        }
        match options.deliver.map(|deliver| due(deliver, now)) {
            Some(due) if due > now => {
                added.events[nth].outcome = AddOutcome::Scheduled;
                later.push((row, due));
            }
            _ => hot.push(row),
        }
    }
    insert::<B>(on, hot, most).await?;
    let counts = lengths(&later, most, |(row, _)| row.size());
    let mut later = later.into_iter();
    for count in counts {
        B::schedule(on, later.by_ref().take(count).collect()).await?;
    }
    Ok(added)
}

async fn insert<B: Backend>(on: &mut On<'_, B>, rows: Vec<OutboxRecord>, most: usize) -> QueryResult<()> {
    // As most are.
    if most == usize::MAX && !rows.is_empty() {
        return B::insert(on, rows).await;
    }
    let counts = lengths(&rows, most, OutboxRecord::size);
    let mut rows = rows.into_iter();
    for count in counts {
        B::insert(on, rows.by_ref().take(count).collect()).await?;
    }
    Ok(())
}

/// How many bytes a statement may have; asked of the server only if these are so many that they may be too many. And of the connection that
/// is to write them, for another one may have been opened under another limit.
async fn most_at_once<B: Backend>(
    on: &mut On<'_, B>,
    rows: &[OutboxRecord],
    options: &[WriteOptions],
) -> QueryResult<usize> {
    let Some(max_packet) = B::MAX_PACKET else { return Ok(usize::MAX) };
    let keys = options.iter().filter_map(|options| options.dedup.as_ref()).map(|dedup| dedup.key.len());
    let bytes = rows.iter().map(|row| row.size() + BESIDE_EACH).chain(keys).sum::<usize>();
    if bytes < LARGE || rows.len() == 1 {
        return Ok(usize::MAX);
    }
    let max = B::numbers(on, Query::new(max_packet)).await?;
    let max = max.first().and_then(|max| usize::try_from(*max).ok()).unwrap_or(usize::MAX);
    let max = max.saturating_sub(BESIDE);
    Ok(if bytes > max { max } else { usize::MAX })
}

/// How many of these there are in each statement: as many as have so many bytes together, but at least one.
fn lengths<T>(all: &[T], most: usize, bytes: impl Fn(&T) -> usize) -> Vec<usize> {
    let (mut lengths, mut left) = (Vec::new(), 0);
    for one in all {
        let bytes = bytes(one).saturating_add(BESIDE_EACH);
        match lengths.last_mut() {
            Some(length) if bytes <= left => {
                left -= bytes;
                *length += 1;
            }
            _ => {
                left = most.saturating_sub(bytes);
                lengths.push(1);
            }
        }
    }
    lengths
}

/// All of these in their order, so many at a time.
pub(crate) fn in_parts<T>(
    mut all: &[T],
    most: usize,
    bytes: impl Fn(&T) -> usize,
) -> impl Iterator<Item = &[T]> {
    lengths(all, most, bytes).into_iter().map(move |length| {
        let (some, others) = all.split_at(length);
        all = others;
        some
    })
}

/// What is asked for fits into the tables.
fn check(event: &Outgoing) -> Result<()> {
    event.check()?;
    let name = &event.message.name;
    if let Some(dedup) = &event.options.dedup {
        check_key(&dedup.key, &format!("deduplication key of the event `{name}`"))?;
    }
    match event.options.key_version {
        Some(version) if i64::try_from(version).is_err() => Err(Error::new(
            ErrorKind::InvalidEvent,
            format!("the event `{name}` has the version {version} of its key: {} is the last one", i64::MAX),
        )),
        _ => Ok(()),
    }
}

/// In the order of their keys, each once.
fn claims(rows: &[OutboxRecord], options: &[WriteOptions]) -> Vec<Claim> {
    let mut claims = BTreeMap::new();
    for (row, options) in rows.iter().zip(options) {
        if let Some(dedup) = &options.dedup {
            claims.entry(dedup.key.to_vec()).or_insert((row.event_id, dedup.window.as_secs_f64()));
        }
    }
    claims.into_iter().map(|(key, (event_id, seconds))| Claim { key, event_id, seconds }).collect()
}

/// The versions of each key, in the order in which they are to be written.
fn versions(
    rows: &[OutboxRecord],
    options: &[WriteOptions],
    is_duplicate: impl Fn(usize) -> bool,
) -> BTreeMap<Vec<u8>, Vec<i64>> {
    let mut versions = BTreeMap::<_, Vec<i64>>::new();
    for (nth, (row, options)) in rows.iter().zip(options).enumerate() {
        if let (Some(key), Some(version), false) = (&row.message_key, options.key_version, is_duplicate(nth))
        {
            versions.entry(key.clone()).or_default().push(i64::try_from(version).unwrap_or(i64::MAX));
        }
    }
    versions
}

/// The last version of each key, if each one is above the one before.
fn raised(
    versions: BTreeMap<Vec<u8>, Vec<i64>>,
    stored: HashMap<Vec<u8>, i64>,
) -> Result<Vec<(Vec<u8>, i64)>, VersionConflict> {
    let mut raised = Vec::with_capacity(versions.len());
    for (key, versions) in versions {
        let mut last = stored.get(&key).copied().unwrap_or(NO_VERSION);
        for wanted in versions {
            if wanted <= last {
                let number = |version: i64| u64::try_from(version).unwrap_or(0);
                return Err(VersionConflict::new(key, number(wanted), number(last)));
            }
            last = wanted;
        }
        raised.push((key, last));
    }
    Ok(raised)
}

fn due(deliver: Deliver, now: DateTime<Utc>) -> DateTime<Utc> {
    match deliver {
        Deliver::At(at) => at,
        Deliver::After(wait) => now + wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_for_one_statement_goes_in_several() {
        let parts = |sizes: &[usize], most: usize| {
            in_parts(sizes, most, |size| *size).map(<[usize]>::to_vec).collect::<Vec<_>>()
        };
        let each = BESIDE_EACH;
        assert_eq!(parts(&[], 1), Vec::<Vec<usize>>::new());
        assert_eq!(parts(&[1, 2, usize::MAX], usize::MAX), [vec![1, 2], vec![usize::MAX]]);
        assert_eq!(parts(&[1, 2, 3, 4, 5], 6 + 3 * each), [vec![1, 2, 3], vec![4, 5]]);
        assert_eq!(parts(&[1, 2, 3, 4, 5], 6 + 2 * each), [vec![1, 2], vec![3], vec![4], vec![5]]);
        // One that is too large goes by itself, and those behind it as before.
        assert_eq!(parts(&[1, 9_000, 1, 1], 6 + 2 * each), [vec![1], vec![9_000], vec![1, 1]]);
    }
}
