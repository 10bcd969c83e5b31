//! What an operator asks for dead letters, and how it is carried out (and what was edited, for the record): a row for each in
//! `cqrs_outbox_request`, which the relay that owns its group finds with its heartbeat.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::{DateTime, Utc};
use cqrs_core::{BeginTransaction, Error, ErrorKind, Result, Transaction};
use diesel::sql_types::{BigInt, Binary, Integer, Nullable, Text};
use diesel::{QueryResult, QueryableByName};
use uuid::Uuid;

use crate::backend::Backend;
use crate::changes::EditChanges;
use crate::dead_letters::{DeadLetter, DeadLetterFilter, Page, time};
use crate::error::store_error;
use crate::on::On;
use crate::outbox::Outbox;
use crate::query::Query;
use crate::retention::LONGEST;
use crate::statements::{ROWS_PER_INSERT, limit, places};
use crate::writing::{LARGE, in_parts};

/// How many requests are carried out with a heartbeat at most: its leases' rows are locked meanwhile, and it is answered afterwards.
const PER_HEARTBEAT: usize = 500;

/// How often it is asked without the lanes in which somebody holds something.
const ROUNDS: usize = 8;

/// How many times as many it looks at, where most are held back.
const PAGES: usize = 10;

/// How many bytes of dead letters a heartbeat moves at most, but one in any case.
const BYTES_PER_HEARTBEAT: i64 = 16 * 1024 * 1024;

/// How to ask for dead letters to be replayed or discarded.
///
/// ```
/// use cqrs_outbox_diesel::Asking;
///
/// let gently = Asking::new().rate(20.0).requested_by("ada");
/// ```
#[non_exhaustive]
#[must_use = "it does nothing by itself"]
#[derive(Clone, Debug, PartialEq)]
pub struct Asking {
    limit: usize,
    rate: Option<f64>,
    dry_run: bool,
    requested_by: Option<String>,
}

impl Default for Asking {
    fn default() -> Self {
        Self { limit: 1_000, rate: None, dry_run: false, requested_by: None }
    }
}

impl Asking {
    /// For up to 1,000 at once, without delay, in the name of the database's user.
    pub fn new() -> Self {
        Self::default()
    }

    /// For so many at most, the oldest ones. Default 1,000. [`Asked::more`] says whether there are more.
    ///
    /// A dead letter has its place until a relay has carried out what was asked for, and has the same one again if it is refused again. So asked
    /// for once more, at once, it is for the same ones; to go on behind some, leave them out by the filter.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// So many a second, on the average: what is due goes with each heartbeat of a relay, 500 at most. Default: all with the next
    /// heartbeats.
    pub fn rate(mut self, per_second: f64) -> Self {
        self.rate = Some(per_second);
        self
    }

    /// Whether only to say which it would be. Default `false`.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Who asks. Default: the database's user, where the database has users.
    pub fn requested_by(mut self, requested_by: impl Into<String>) -> Self {
        self.requested_by = Some(requested_by.into());
        self
    }

    /// How long the one at this place has to wait, in seconds.
    fn delay(&self, nth: usize) -> f64 {
        // No list is so long that its places do not fit.
        #[expect(clippy::cast_precision_loss, reason = "places are far below 2^52")]
        self.rate.map_or(0.0, |rate| nth as f64 / rate)
    }

    /// Refuses a rate that is none, or so low that the last of so many would wait for longer than databases have dates.
    fn check(&self, count: usize) -> Result<()> {
        let Some(rate) = self.rate else { return Ok(()) };
        if rate.is_finite() && rate > 0.0 && self.delay(count) < LONGEST.as_secs_f64() {
            return Ok(());
        }
        let what = if rate > 0.0 && rate.is_finite() {
            format!(
                "at a rate of {rate} events a second the last of {count} would wait for a thousand years: raise it"
            )
        } else {
            format!("a rate of {rate} events a second: it has to be above 0")
        };
        Err(Error::new(ErrorKind::Configuration, what))
    }
}

/// What was asked for.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The dead letters, the oldest first.
    pub letters: Vec<DeadLetter>,
    /// Whether there are more that fit.
    pub more: bool,
    /// The requests for them that were open before. Of several for one dead letter the first that is due counts, also if it asks for
    /// something else: take back what is not meant any more ([`Outbox::cancel_requests`]).
    pub open: Vec<DeadLetterRequest>,
}

/// What is asked for.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Send it again.
    Replay,
    /// Drop it.
    Discard,
    /// Change what is to be sent. It is done at once, by [`Outbox::edit`], and stands here for those who want to know who it was, and
    /// [what](EditChanges) was changed.
    Edit,
}

impl RequestKind {
    /// As it stands in the table: `replay`, `discard` or `edit`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Discard => "discard",
            Self::Edit => "edit",
        }
    }

    /// Refuses what a relay would not carry out.
    fn check(self) -> Result<()> {
        if self == Self::Edit {
            let what = "an edit is not asked for: `Outbox::edit` does it";
            return Err(Error::new(ErrorKind::Configuration, what));
        }
        Ok(())
    }
}

/// What became of a dead letter that something was asked for, or of an event that was edited. It may not be what was asked for: of two
/// requests for one dead letter, the first that is due wins.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// It went back, to be sent.
    Replayed,
    /// It was dropped.
    Discarded,
    /// It was not there any more when the request was due.
    Gone,
    /// Nothing: the request was taken back before ([`Outbox::cancel_requests`]).
    Cancelled,
    /// What is to be sent was changed.
    Edited,
}

impl RequestOutcome {
    /// As it stands in the table: `replayed`, `discarded`, `gone`, `cancelled` or `edited`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
            Self::Gone => "gone",
            Self::Cancelled => "cancelled",
            Self::Edited => "edited",
        }
    }
}

/// A request, and what became of it.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterRequest {
    /// Its number: where a next [`Page`] goes on.
    pub id: i64,
    /// What was asked for.
    pub kind: RequestKind,
    /// For the dead letter of this event; an edit may be of a scheduled event.
    pub event_id: Uuid,
    /// It is not done before this time, by the database's clock.
    pub not_before: DateTime<Utc>,
    /// Who asked.
    pub requested_by: String,
    /// When, by the database's clock.
    pub requested_at: DateTime<Utc>,
    /// When it was done, and what became of the event; `None` as long as it is open.
    pub done: Option<(DateTime<Utc>, RequestOutcome)>,
    /// What an edit has changed. `None` of what is no edit, or where what is noted cannot be read.
    pub changes: Option<EditChanges>,
}

/// Which requests: those that fit everything that is said here; without a word, all.
#[non_exhaustive]
#[must_use = "a filter does nothing by itself"]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestFilter {
    open: bool,
    id: Option<i64>,
    event_id: Option<Uuid>,
}

impl RequestFilter {
    /// All of them.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only those that are not done yet.
    pub fn open(mut self) -> Self {
        self.open = true;
        self
    }

    /// The one with this number.
    pub fn id(mut self, id: i64) -> Self {
        self.id = Some(id);
        self
    }

    /// About this event.
    pub fn event_id(mut self, event_id: Uuid) -> Self {
        self.event_id = Some(event_id);
        self
    }

    /// Adds the conditions to a query of `cqrs_outbox_request`.
    fn apply<B: Backend>(&self, query: Query) -> Query {
        let query = query
            .condition("(kind IN ('replay', 'discard') OR kind = 'edit' AND done_at IS NOT NULL)", true)
            .condition("done_at IS NULL", self.open)
            .filter("id = ?", self.id);
        match self.event_id {
            Some(event_id) => {
                query.condition("event_id = ", true).then(B::DIALECT.event_id).bind(event_id.to_string())
            }
            None => query,
        }
    }
}

impl<B: Backend> Outbox<B> {
    /// Asks for a dead letter to be sent again, before the later events of its key that wait for it. The relay that owns
    /// its key does it with its next heartbeat. A key that waits for several goes on when none of them is left, as for
    /// [`replay_all`](Self::replay_all).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`]; [`ErrorKind::InvalidEvent`] if there is no dead letter with this id; [`ErrorKind::CommitUnknown`] if the
    /// connection broke meanwhile, and it may have been asked for: ask again, which is harmless.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it open whether it was asked for; asking twice is harmless.
    pub async fn replay(&self, event_id: Uuid) -> Result<()> {
        self.ask_for_one(RequestKind::Replay, event_id).await
    }

    /// Asks for a dead letter to be dropped, so that the later events of its key go on.
    ///
    /// # Errors
    ///
    /// As for [`replay`](Self::replay).
    ///
    /// # Cancel safety
    ///
    /// As for [`replay`](Self::replay).
    pub async fn discard(&self, event_id: Uuid) -> Result<()> {
        self.ask_for_one(RequestKind::Discard, event_id).await
    }

    /// Asks for all dead letters that fit to be sent again, those of a key in their order: none passes an earlier one of its key
    /// that is asked for, whenever each is due. The relays that own them do it with their heartbeats.
    ///
    /// A key that waits for its dead letters (`RelaySettings::later_events`) goes on when none of them is left:
    /// those that are replayed wait for the others to be replayed or discarded, and all go in their order, before what was
    /// written later. A key that does not wait has sent later events before them, and sends some between them where they are
    /// too many for one heartbeat.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`]; [`ErrorKind::Configuration`] if the rate is not above zero, or next to nothing;
    /// [`ErrorKind::CommitUnknown`] if the connection broke meanwhile, and all may have been asked for, or none: ask again, which is
    /// harmless. None that fits is no error.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it open whether they were asked for, all or none; asking twice is harmless.
    pub async fn replay_all(&self, filter: &DeadLetterFilter, asking: &Asking) -> Result<Asked> {
        self.ask(RequestKind::Replay, filter, asking).await
    }

    /// Asks for all dead letters that fit to be dropped. A key that waits for its dead letters goes on when none of them is left.
    ///
    /// # Errors
    ///
    /// As for [`replay_all`](Self::replay_all).
    ///
    /// # Cancel safety
    ///
    /// As for [`replay_all`](Self::replay_all).
    pub async fn discard_all(&self, filter: &DeadLetterFilter, asking: &Asking) -> Result<Asked> {
        self.ask(RequestKind::Discard, filter, asking).await
    }

    /// What was asked for, by whom, and what became of it: a page of it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn requests(&self, filter: &RequestFilter, page: Page) -> Result<Vec<DeadLetterRequest>> {
        let query = filter.apply::<B>(Query::new(B::DIALECT.requests));
        let mut conn = self.lend().await.map_err(|error| self.failed(error))?;
        let rows = B::requests(&mut conn.on(), page.apply(query))
            .await
            .map_err(|error| self.failed(store_error(error)))?;
        conn.give_back();
        rows.into_iter().map(RequestRow::into_request).collect()
    }

    /// Takes requests back: of those that fit, what no relay has begun to carry out is not done any more, and ends as
    /// [`Cancelled`](RequestOutcome::Cancelled). Says how many these are. What is done stays done; a dead letter for which something else
    /// was asked, too, still has that.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`]; those of the thousands before stay taken back. [`ErrorKind::CommitUnknown`] if the connection broke
    /// meanwhile, and the last thousand may be taken back, or not: do it again. None that fits is no error.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it open which were taken back; doing it twice is harmless.
    pub async fn cancel_requests(&self, filter: &RequestFilter) -> Result<u64> {
        let open = filter.clone().open();
        let mut cancelled = 0;
        loop {
            let mut tx = self.begin_short().await.map_err(|error| self.failed(error))?;
            let (found, some) =
                take_back::<B>(&mut tx.on(), &open).await.map_err(|error| self.failed(store_error(error)))?;
            tx.commit().await?;
            cancelled += some as u64;
            if found < ROWS_PER_INSERT {
                return Ok(cancelled);
            }
        }
    }

    async fn ask_for_one(&self, kind: RequestKind, event_id: Uuid) -> Result<()> {
        let (filter, asking) = (DeadLetterFilter::new().event_id(event_id), Asking::new());
        let letters = self.dead_letters(&filter, Page::oldest_first().limit(asking.limit)).await?;
        if letters.is_empty() {
            let what =
                format!("there is no dead letter with the id {event_id}: nothing to {}", kind.as_str());
            return Err(Error::new(ErrorKind::InvalidEvent, what));
        }
        self.ask_for(kind, &letters, &asking).await
    }

    /// [`replay_all`](Self::replay_all) or [`discard_all`](Self::discard_all).
    ///
    /// # Errors
    ///
    /// As for [`replay_all`](Self::replay_all); [`ErrorKind::Configuration`] for [`RequestKind::Edit`], which is not asked for.
    ///
    /// # Cancel safety
    ///
    /// As for [`replay_all`](Self::replay_all).
    pub async fn ask(&self, kind: RequestKind, filter: &DeadLetterFilter, asking: &Asking) -> Result<Asked> {
        kind.check()?;
        asking.check(0)?;
        // One more, to know whether there are more.
        let page = Page::oldest_first().limit(asking.limit.saturating_add(1));
        let mut letters = self.dead_letters(filter, page).await?;
        let more = letters.len() > asking.limit;
        letters.truncate(asking.limit);
        let open = self.open_requests_for(&letters).await?;
        if !asking.dry_run {
            self.ask_for(kind, &letters, asking).await?;
        }
        Ok(Asked { letters, more, open })
    }

    async fn open_requests_for(&self, letters: &[DeadLetter]) -> Result<Vec<DeadLetterRequest>> {
        let mut open = Vec::new();
        let mut conn = self.lend().await.map_err(|error| self.failed(error))?;
        for letters in letters.chunks(ROWS_PER_INSERT) {
            let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
            let query = RequestFilter::new().open().apply::<B>(Query::new(B::DIALECT.requests));
            let rows = B::requests(&mut conn.on(), query.condition("dead_id IN ", true).list(&ids)).await;
            for row in rows.map_err(|error| self.failed(store_error(error)))? {
                open.push(row.into_request()?);
            }
        }
        conn.give_back();
        // An id that came again names another event.
        let events: HashSet<Uuid> = letters.iter().map(|letter| letter.event_id).collect();
        open.retain(|request| events.contains(&request.event_id));
        open.sort_unstable_by_key(|request| request.id);
        Ok(open)
    }

    /// Asks for these dead letters, and for no others that may fit by now: for someone who has seen a list and said yes to it.
    /// Of what is said in `asking`, the limit and the dry run are about finding them, and do not count here.
    ///
    /// # Errors
    ///
    /// As for [`ask`](Self::ask). One that is not there any more is no error: its request ends as
    /// [`Gone`](RequestOutcome::Gone).
    ///
    /// # Cancel safety
    ///
    /// As for [`replay_all`](Self::replay_all).
    pub async fn ask_for(&self, kind: RequestKind, letters: &[DeadLetter], asking: &Asking) -> Result<()> {
        kind.check()?;
        asking.check(letters.len())?;
        if letters.is_empty() {
            return Ok(());
        }
        let dialect = B::DIALECT;
        let mut letters: Vec<&DeadLetter> = letters.iter().collect();
        letters.sort_by_key(|letter| letter.id);
        let by = if asking.requested_by.is_some() { "?" } else { dialect.me };
        let row = format!("(?, {}, ?, ?, {}, {by})", dialect.event_id, dialect.not_before);
        let mut tx = self.begin().await?;
        // A small server takes them, too.
        let beside_each = asking.requested_by.as_ref().map_or(0, String::len);
        let chunks = letters.chunks(ROWS_PER_INSERT);
        let chunks = chunks
            .flat_map(|some| in_parts(some, LARGE, |letter| letter.lane.as_bytes().len() + beside_each));
        let mut nth = 0..;
        for chunk in chunks {
            let rows = places(&row, chunk.len());
            let insert = "INSERT INTO cqrs_outbox_request (kind, event_id, dead_id, lane, not_before, requested_by) VALUES ";
            let mut insert = Query::new(insert).then(&rows);
            for (letter, nth) in chunk.iter().zip(&mut nth) {
                insert = insert
                    .bind(kind.as_str())
                    .bind(letter.event_id.to_string())
                    .bind(letter.id)
                    .bind(letter.lane.as_bytes().to_vec())
                    .bind(asking.delay(nth));
                if let Some(by) = &asking.requested_by {
                    insert = insert.bind(&**by);
                }
            }
            B::execute(&mut tx.on(), insert).await.map_err(|error| self.failed(store_error(error)))?;
        }
        tx.commit().await
    }
}

/// Up to so many of the open requests that fit: how many there were, and how many of them were taken back. Looked for by the index of
/// what is open, and locked afterwards, in the order in which others lock theirs.
async fn take_back<B: Backend>(on: &mut On<'_, B>, open: &RequestFilter) -> QueryResult<(usize, usize)> {
    let found = open.apply::<B>(Query::new("SELECT id AS value FROM cqrs_outbox_request"));
    let found = found.then(" ORDER BY dead_id, id LIMIT ?").bind(limit(ROWS_PER_INSERT));
    let found = B::numbers(on, found).await?;
    let locked = lock_requests::<B>(on, &found, B::DIALECT.for_update).await?;
    close::<B>(on, &locked, RequestOutcome::Cancelled).await?;
    Ok((found.len(), locked.len()))
}

/// Those of these requests that are open, locked until the end of the transaction.
async fn lock_requests<B: Backend>(
    on: &mut On<'_, B>,
    ids: &[i64],
    for_update: &str,
) -> QueryResult<Vec<i64>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let query = Query::new("SELECT id AS value FROM cqrs_outbox_request")
        .then(B::DIALECT.by_primary_key)
        .condition("done_at IS NULL AND id IN ", true)
        .list(ids);
    B::numbers(on, query.then(" ORDER BY id").then(for_update)).await
}

/// Those of these dead letters that are there and nobody else has locked.
async fn lock_dead<B: Backend>(on: &mut On<'_, B>, ids: &[i64]) -> QueryResult<HashSet<i64>> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let query = Query::new("SELECT id AS value FROM cqrs_outbox_dead")
        .then(B::DIALECT.by_primary_key)
        .condition("id IN ", true)
        .list(ids)
        .then(" ORDER BY id")
        .then(B::DIALECT.skip_locked);
    Ok(B::numbers(on, query).await?.into_iter().collect())
}

/// How many requests a heartbeat carries out: half of what took too long, and more again when that has gone well. Else what takes
/// longer than a heartbeat has time for would be begun with each, and never end.
#[derive(Debug)]
pub(crate) struct Portion {
    size: AtomicUsize,
    tried: AtomicUsize,
}

impl Default for Portion {
    fn default() -> Self {
        Self { size: AtomicUsize::new(PER_HEARTBEAT), tried: AtomicUsize::new(PER_HEARTBEAT) }
    }
}

impl Portion {
    fn begin(&self) -> usize {
        let size = self.size.load(Ordering::Relaxed);
        self.tried.store(size, Ordering::Relaxed);
        size
    }

    /// It is about so many.
    fn try_for(&self, count: usize) {
        self.tried.store(count, Ordering::Relaxed);
    }

    pub(crate) fn has_failed(&self) {
        let half = self.tried.load(Ordering::Relaxed) / 2;
        self.size.store(half.max(1), Ordering::Relaxed);
    }

    pub(crate) fn is_done(&self) {
        let size = self.size.load(Ordering::Relaxed);
        // A quarter more: it is about as much as there is time for.
        self.size.store((size + size.div_ceil(4)).min(PER_HEARTBEAT), Ordering::Relaxed);
    }
}

/// A request that is due.
#[derive(QueryableByName, Debug)]
pub struct DueRequest {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Nullable<Binary>)]
    lane: Option<Vec<u8>>,
    #[diesel(sql_type = BigInt)]
    dead_id: i64,
    /// `None` if the dead letter is gone.
    #[diesel(sql_type = Nullable<Integer>)]
    size: Option<i32>,
}

impl DueRequest {
    fn is_replay(&self) -> bool {
        self.kind == RequestKind::Replay.as_str()
    }
}

/// A lane with dead letters that are to be replayed later.
#[derive(QueryableByName, Debug)]
pub struct Later {
    #[diesel(sql_type = Binary)]
    lane: Vec<u8>,
    /// The first of them.
    #[diesel(sql_type = BigInt)]
    dead_id: i64,
}

impl Later {
    /// None to replay may pass an earlier one of its lane that is asked for and not yet due.
    fn holds_back(&self, request: &DueRequest) -> bool {
        request.is_replay() && self.dead_id < request.dead_id
    }
}

/// Whether anything is asked for and not done, due or not. Sorted, for that leaves only the index of these to find it by: a planner
/// that believes in many would look through all that are done.
pub(crate) const ARE_OPEN: &str = "SELECT count(*) AS value FROM ( \
    SELECT not_before FROM cqrs_outbox_request WHERE done_at IS NULL ORDER BY not_before LIMIT 1) first";

/// Carries out what is due for dead letters of these groups, as much of it as a heartbeat has time for; in a transaction that holds
/// the rows of these groups' leases locked, and therefore waits for nobody.
pub(crate) async fn carry_out<B: Backend>(
    on: &mut On<'_, B>,
    groups: &[i32],
    portion: &Portion,
) -> QueryResult<()> {
    let count = portion.begin();
    let clock = Query::new("SELECT ").then(B::DIALECT.clock).then(" AS value");
    // One time for all that follows.
    let Some(now) = B::numbers(on, clock).await?.first().copied() else { return Ok(()) };
    let mut held = HashSet::new();
    for _ in 0..ROUNDS {
        let due = due::<B>(on, groups, now, count, held.clone()).await?;
        let before = held.len();
        let chosen = choose::<B>(on, due, &mut held).await?;
        // Lanes that somebody holds up leave room for others, for it is asked again without them.
        if !chosen.is_empty() || held.len() == before {
            portion.try_for(chosen.replayed.len() + chosen.discarded.len());
            return chosen.carry_out::<B>(on).await;
        }
    }
    Ok(())
}

/// What is to be done, all of it locked.
#[derive(Debug, Default)]
struct Chosen {
    /// Dead letters.
    replayed: Vec<i64>,
    discarded: Vec<i64>,
    /// Requests, each with its dead letter: all that is asked for these, due or not.
    about: Vec<(i64, i64)>,
    /// Requests whose dead letter is gone.
    gone: Vec<i64>,
}

impl Chosen {
    fn is_empty(&self) -> bool {
        self.replayed.is_empty() && self.discarded.is_empty() && self.gone.is_empty()
    }

    async fn carry_out<B: Backend>(self, on: &mut On<'_, B>) -> QueryResult<()> {
        let about = |dead: &[i64]| -> Vec<i64> {
            let dead: HashSet<_> = dead.iter().collect();
            self.about.iter().filter(|(_, of)| dead.contains(of)).map(|(id, _)| *id).collect()
        };
        if !self.replayed.is_empty() {
            B::replay(on, &self.replayed).await?;
            close::<B>(on, &about(&self.replayed), RequestOutcome::Replayed).await?;
        }
        if !self.discarded.is_empty() {
            B::discard_dead(on, &self.discarded).await?;
            close::<B>(on, &about(&self.discarded), RequestOutcome::Discarded).await?;
        }
        close::<B>(on, &self.gone, RequestOutcome::Gone).await
    }
}

/// What of this can be done now. What somebody else has locked, a request to take it back say, is left for a later heartbeat, and so
/// is what is to be replayed behind it: its lane is held up.
async fn choose<B: Backend>(
    on: &mut On<'_, B>,
    due: Vec<DueRequest>,
    held: &mut HashSet<Vec<u8>>,
) -> QueryResult<Chosen> {
    let dead: HashSet<i64> = due.iter().filter(|one| one.size.is_some()).map(|one| one.dead_id).collect();
    let dead: Vec<i64> = dead.into_iter().collect();
    let about = about::<B>(on, &dead).await?;
    let mut ids: Vec<i64> = due.iter().chain(&about).map(|request| request.id).collect();
    ids.sort_unstable();
    ids.dedup();
    let open = lock_requests::<B>(on, &ids, B::DIALECT.skip_locked).await?;
    let open: HashSet<i64> = open.into_iter().collect();
    let there = lock_dead::<B>(on, &dead).await?;
    let about = about.into_iter().filter(|request| open.contains(&request.id));
    let about = about.map(|request| (request.id, request.dead_id)).collect();
    let mut chosen = Chosen { about, ..Chosen::default() };
    let (mut seen, mut bytes) = (HashSet::new(), 0);
    for request in due {
        let Some(size) = request.size else {
            chosen.gone.extend(open.get(&request.id));
            continue;
        };
        if !seen.insert(request.dead_id) {
            // What was asked for first is done, or was not to be had.
            continue;
        }
        if request.is_replay() && request.lane.as_ref().is_some_and(|lane| held.contains(lane)) {
            continue;
        }
        if !open.contains(&request.id) || !there.contains(&request.dead_id) {
            if request.is_replay() {
                held.extend(request.lane);
            }
            continue;
        }
        bytes += i64::from(size);
        if bytes > BYTES_PER_HEARTBEAT && bytes > i64::from(size) {
            // Later ones neither: they may be of the same lane.
            break;
        }
        let what = if request.is_replay() { &mut chosen.replayed } else { &mut chosen.discarded };
        what.push(request.dead_id);
    }
    Ok(chosen)
}

/// The first requests that are due and not held back, so many at most, in the order of their dead letters: of dead letters of these
/// groups. Those of dead letters that are gone, which have no group any more, are the first group's, so that no two heartbeats write
/// the same.
///
/// A page is read, and then what its lanes have to wait for: one statement for both would take the square of the time where
/// the database plans badly, and the heartbeat has seconds. A lane that is held back is left out of the next pages.
async fn due<B: Backend>(
    on: &mut On<'_, B>,
    groups: &[i32],
    now: i64,
    count: usize,
    mut held: HashSet<Vec<u8>>,
) -> QueryResult<Vec<DueRequest>> {
    let groups: Vec<i64> = groups.iter().copied().map(i64::from).collect();
    let gone = if groups.contains(&0) { "(d.id IS NULL OR " } else { "(d.id IS NOT NULL AND " };
    let (mut due, mut after) = (Vec::new(), i64::MIN);
    for _ in 0..PAGES {
        let page = Query::new(
            "SELECT r.id, r.kind, r.lane, r.dead_id, d.size \
             FROM cqrs_outbox_request r LEFT JOIN cqrs_outbox_dead d ON d.id = r.dead_id AND ",
        )
        .then(B::DIALECT.same_event)
        .condition("r.done_at IS NULL AND r.kind IN ('replay', 'discard') AND r.not_before <= ", true)
        .then(B::DIALECT.at)
        .bind(now)
        .condition(gone, true)
        .then(B::DIALECT.group)
        .then(" IN ")
        .list(&groups)
        .then(")")
        .filter("r.dead_id > ?", Some(after));
        let page = if held.is_empty() {
            page
        } else {
            page.condition("(r.kind = 'discard' OR r.lane IS NULL OR r.lane NOT IN ", true)
                .any_of(&held)
                .then(")")
        };
        let page = page.then(" ORDER BY r.dead_id, r.id LIMIT ?").bind(limit(count));
        let page = B::due_requests(on, page).await?;
        let is_last = page.len() < count;
        after = page.last().map_or(after, |request| request.dead_id);
        let later = later::<B>(on, &page, now).await?;
        for request in page {
            match request.lane.as_ref().and_then(|lane| later.get_key_value(lane)) {
                Some((lane, later)) if later.holds_back(&request) => drop(held.insert(lane.clone())),
                _ => due.push(request),
            }
        }
        if is_last || due.len() >= count {
            break;
        }
    }
    due.truncate(count);
    Ok(due)
}

/// The lanes of these requests that have earlier ones that are not due yet.
async fn later<B: Backend>(
    on: &mut On<'_, B>,
    page: &[DueRequest],
    now: i64,
) -> QueryResult<HashMap<Vec<u8>, Later>> {
    let lanes = page.iter().filter(|request| request.is_replay() && request.size.is_some());
    let lanes: HashSet<&Vec<u8>> = lanes.filter_map(|request| request.lane.as_ref()).collect();
    if lanes.is_empty() {
        return Ok(HashMap::new());
    }
    // Whoever asks again has not to wait for what was asked before, of the same event: ids may come again.
    let query = Query::new(
        "SELECT lane, min(dead_id) AS dead_id FROM (SELECT lane, dead_id FROM cqrs_outbox_request",
    )
    .condition("done_at IS NULL AND kind = 'replay' AND lane IN ", true)
    .any_of(lanes)
    .filter("dead_id < ?", page.last().map(|last| last.dead_id))
    .then(" GROUP BY lane, dead_id, event_id HAVING min(not_before) > ")
    .then(B::DIALECT.at)
    .bind(now)
    .then(") later GROUP BY lane");
    let later = B::later(on, query).await?;
    Ok(later.into_iter().map(|later| (later.lane.clone(), later)).collect())
}

/// All that is asked for these dead letters, due or not; but not for others that had their ids before.
async fn about<B: Backend>(on: &mut On<'_, B>, dead: &[i64]) -> QueryResult<Vec<DueRequest>> {
    if dead.is_empty() {
        return Ok(Vec::new());
    }
    let query = Query::new(
        "SELECT r.id, r.kind, r.lane, r.dead_id, d.size FROM cqrs_outbox_request r \
         JOIN cqrs_outbox_dead d ON d.id = r.dead_id AND ",
    )
    .then(B::DIALECT.same_event)
    .condition("r.done_at IS NULL AND r.kind IN ('replay', 'discard') AND r.dead_id IN ", true)
    .list(dead);
    B::due_requests(on, query).await
}

async fn close<B: Backend>(on: &mut On<'_, B>, requests: &[i64], outcome: RequestOutcome) -> QueryResult<()> {
    if requests.is_empty() {
        return Ok(());
    }
    let update = Query::new("UPDATE cqrs_outbox_request")
        .then(B::DIALECT.by_primary_key)
        .then(" SET outcome = ?, done_at = ")
        .bind(outcome.as_str())
        .then(B::DIALECT.now)
        .condition("done_at IS NULL AND id IN ", true)
        .list(requests);
    B::execute(on, update).await.map(drop)
}

/// A request, as it stands in the table: ids as bytes, times as RFC 3339.
#[derive(QueryableByName, Debug)]
pub struct RequestRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Nullable<Binary>)]
    event_id: Option<Vec<u8>>,
    #[diesel(sql_type = Text)]
    not_before: String,
    #[diesel(sql_type = Text)]
    requested_by: String,
    #[diesel(sql_type = Text)]
    requested_at: String,
    #[diesel(sql_type = Nullable<Text>)]
    done_at: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    outcome: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    changes: Option<String>,
}

impl RequestRow {
    fn into_request(self) -> Result<DeadLetterRequest> {
        let outcome = match self.outcome.as_deref() {
            Some("replayed") => RequestOutcome::Replayed,
            Some("discarded") => RequestOutcome::Discarded,
            Some("cancelled") => RequestOutcome::Cancelled,
            Some("edited") => RequestOutcome::Edited,
            _ => RequestOutcome::Gone,
        };
        Ok(DeadLetterRequest {
            id: self.id,
            kind: match &*self.kind {
                "replay" => RequestKind::Replay,
                "edit" => RequestKind::Edit,
                _ => RequestKind::Discard,
            },
            event_id: self.event_id.and_then(|id| Uuid::from_slice(&id).ok()).unwrap_or_default(),
            not_before: time(&self.not_before)?,
            requested_by: self.requested_by,
            requested_at: time(&self.requested_at)?,
            done: self.done_at.map(|at| Ok::<_, Error>((time(&at)?, outcome))).transpose()?,
            // Who it was is known all the same.
            changes: self.changes.and_then(|changes| serde_json::from_str(&changes).ok()),
        })
    }
}
