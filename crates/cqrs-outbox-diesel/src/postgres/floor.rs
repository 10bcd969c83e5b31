//! Where reads begin.
//!
//! A row that was removed leaves its entries in the indexes until nobody can see it any more. One old snapshot, anywhere
//! in the database, keeps all of them: neither vacuum nor a scan may take them away, and each read from the beginning
//! would visit each of them. So a read of a group begins behind its *floor*: **no row of the group has an id up to
//! there, and none ever will.**
//!
//! # Why that is true
//!
//! That a read finds no such row is not enough, for ids are given before commits: whoever has drawn one may commit it
//! later. So it takes three steps, one after the other:
//!
//! 1. `last`: the last id that the sequence has given.
//! 2. `open`: the transactions that hold a lock on the table or on its sequence such as those hold who insert.
//! 3. Once all of `open` have ended: with a new snapshot, the first row of each group up to `last`. The floor rises to
//!    just below it or, if there is none, to `last`.
//!
//! Whoever has drawn an id up to `last` held those locks before he drew it, and thus before step 1, and holds them until
//! his transaction ends: INSERT locks the table, and `nextval` the sequence, so that this is true of one who draws an id
//! first and uses it later. So he had ended before step 2, or is in `open`. Locks are released after a commit can be seen
//! (a crash releases them too), so what he committed is seen in step 3. Whoever draws later gets an id above `last`: the
//! sequence keeps none in store for a session (`CACHE 1`) and does not go back. Rows do not come back into the table.
//!
//! What that needs is nothing of anybody else's: an open transaction keeps a floor from rising only if it has itself
//! written to the outbox. A rule by `xmin` would wait for everyone who writes anything; and it would be wrong, for an id
//! is drawn before its transaction has an xid. A transaction that was prepared (two phases) has no session by which it
//! can be told from others: no floor rises while there is one.
//!
//! All of this is true of one *generation* of the table. A crash may lose what a sequence has given, and rows that were removed
//! are there again; a standby that takes over may never have heard of either. So a run of the server has a name, in a table that
//! is empty after both (it is unlogged). A restore brings that name back, on this server or another one; but then the server was
//! started at another time, or the table is stored in another place, as it is after `TRUNCATE`. A sequence that begins again
//! is stored in another place, too. One that is set back is not: but what it gave last is less than it was. All of that makes
//! one text and one number, and a statement that is given a floor asks for them itself: a moment before would not do. Where
//! they are not what they were it begins at the beginning, and says so, for the sequence is going to reach that number again.
//!
//! An id that was not drawn by the transaction that inserts it, but made up, or drawn in another one and kept, breaks the
//! contract of the table. It must not be lost for that: every minute the ids below the floors are looked at all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text};
use diesel::{OptionalExtension, QueryResult, QueryableByName};
use diesel_async::RunQueryDsl;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::prepared::{Parameter, prepared};
use super::{Pg, sql};
use crate::on::On;
use crate::record::Record;

/// So many rows are read before it is worth a look whether floors can rise.
const ROWS: usize = 1_000;

/// And no more often than this.
const PAUSE: Duration = Duration::from_millis(100);

/// How often the ids below the floors are looked at.
const LOOK_BELOW: Duration = Duration::from_secs(60);

/// What is known of the table, whoever owns the groups: all relays that share an outbox share it.
#[derive(Debug, Default)]
pub struct Floors(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By group.
    floors: BTreeMap<i32, i64>,
    basis: Basis,
    waiting: Option<Candidate>,
    /// The sequence had given nothing, and no read has found anything since: there is nothing to step over.
    is_unused: bool,
    /// Rows read since there was the last candidate.
    rows: usize,
    next_look: Option<Instant>,
    next_look_below: Option<Instant>,
}

/// What floors are about. By default nothing that there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Basis {
    /// The oid of the sequence of the ids.
    pub(super) sequence: i64,
    pub(super) generation: String,
    /// The last id that the sequence is known to have given: no floor is above.
    pub(super) last: i64,
}

/// Where a read begins.
#[derive(Debug)]
pub(super) struct Beginning {
    /// In the order of the groups.
    pub(super) floors: Vec<i64>,
    pub(super) basis: Basis,
}

/// A row, and whether the read that found it began at the floors.
#[derive(QueryableByName)]
pub(super) struct Found {
    #[diesel(embed)]
    record: Record,
    #[diesel(sql_type = Bool)]
    floors_hold: bool,
}

/// Floors can rise up to `last` when these transactions have ended.
#[derive(Debug)]
struct Candidate {
    last: i64,
    open: BTreeSet<String>,
}

#[derive(QueryableByName)]
struct Sequence {
    #[diesel(sql_type = BigInt)]
    sequence: i64,
    #[diesel(sql_type = Nullable<Text>)]
    generation: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    last: Option<i64>,
    #[diesel(sql_type = Bool)]
    is_unused: bool,
}

#[derive(QueryableByName)]
struct Holder {
    #[diesel(sql_type = Text)]
    transaction: String,
    #[diesel(sql_type = Bool)]
    prepared: bool,
}

#[derive(QueryableByName)]
struct First {
    #[diesel(sql_type = Integer)]
    group_no: i32,
    #[diesel(sql_type = Nullable<BigInt>)]
    first: Option<i64>,
}

impl Floors {
    /// Where a read of these groups begins; floors are raised before, if that is due. A failure leaves them as they are: a read
    /// from further below is slower, and right.
    pub(super) async fn of(&self, on: &mut On<'_, Pg>, groups: &[i32]) -> Beginning {
        let mut state = self.0.lock().await;
        if let Err(error) = state.look(on, groups).await {
            // A privilege that is missing, as a rule: not worth an error in the server's log with each read.
            tracing::debug!(%error, "where reads of the outbox begin is left as it is");
            state.next_look = Some(Instant::now() + LOOK_BELOW);
        }
        let floors = groups.iter().map(|group| state.floor(*group)).collect();
        Beginning { floors, basis: state.basis.clone() }
    }

    /// What a read found that was to begin there.
    pub(super) async fn have_read(&self, beginning: &Beginning, found: Vec<Found>) -> Vec<Record> {
        let mut state = self.0.lock().await;
        state.rows += found.len();
        state.is_unused &= found.is_empty();
        let is_over = found.iter().any(|found| !found.floors_hold);
        if is_over && beginning.basis.generation == state.basis.generation {
            state.forget(Basis::default());
        }
        found.into_iter().map(|found| found.record).collect()
    }
}

impl State {
    fn floor(&self, group: i32) -> i64 {
        self.floors.get(&group).copied().unwrap_or(i64::MIN)
    }

    async fn look(&mut self, on: &mut On<'_, Pg>, groups: &[i32]) -> QueryResult<()> {
        let now = Instant::now();
        if self.next_look.is_some_and(|next| now < next) {
            return Ok(());
        }
        if self.next_look_below.is_none_or(|next| now >= next) {
            self.next_look_below = Some(now + LOOK_BELOW);
            self.look_below(on).await?;
        }
        let is_new = |group| !self.is_unused && !self.floors.contains_key(group);
        if self.rows < ROWS && self.waiting.is_none() && !groups.iter().any(is_new) {
            return Ok(());
        }
        self.next_look = Some(now + PAUSE);
        let Some(last) = self.decided(on).await? else { return Ok(()) };
        let firsts = groups.iter().map(|group| (*group, self.floor(*group), last));
        for First { group_no, first } in first_ids(on, &self.basis, firsts).await? {
            let floor = first.map_or(last, |first| first - 1);
            self.floors.entry(group_no).and_modify(|old| *old = floor.max(*old)).or_insert(floor);
        }
        Ok(())
    }

    /// An id such that whoever has drawn one up to it has ended, if there is news of that.
    async fn decided(&mut self, on: &mut On<'_, Pg>) -> QueryResult<Option<i64>> {
        let found: Option<Sequence> =
            prepared(on.sql(sql::SEQUENCE), []).get_result(on.conn).await.optional()?;
        let Some(Sequence { sequence, generation, last: Some(last), is_unused }) = found else {
            // It is not a sequence of which anything can be known: as a rule, this user may not look at it.
            self.forget(Basis::default());
            self.next_look = Some(Instant::now() + LOOK_BELOW);
            return Ok(None);
        };
        let Some(generation) = generation else {
            self.forget(Basis::default());
            prepared(on.sql(sql::BEGIN_RUN), []).execute(on.conn).await?;
            return Ok(None);
        };
        let (before, now) = (&self.basis, Basis { sequence, generation, last });
        if (before.sequence, &before.generation) == (now.sequence, &now.generation) && before.last <= now.last
        {
            self.basis = now;
        } else {
            self.forget(now);
        }
        self.is_unused = is_unused;
        if is_unused {
            self.waiting = None;
            return Ok(None);
        }
        let holders: Vec<Holder> =
            prepared(on.sql(sql::OPEN_WRITERS), [Parameter::Number(sequence)]).load(on.conn).await?;
        if holders.iter().any(|holder| holder.prepared) {
            return Ok(None);
        }
        let open: BTreeSet<_> = holders.into_iter().map(|holder| holder.transaction).collect();
        let candidate = self.waiting.take().unwrap_or_else(|| {
            self.rows = 0;
            Candidate { last, open: open.clone() }
        });
        if candidate.open.is_disjoint(&open) {
            return Ok(Some(candidate.last));
        }
        self.waiting = Some(candidate);
        Ok(None)
    }

    /// What was true before is not any more.
    fn forget(&mut self, basis: Basis) {
        let (next_look, next_look_below) = (self.next_look, self.next_look_below);
        *self = Self { basis, next_look, next_look_below, ..Self::default() };
    }

    /// There is nothing, unless somebody has broken the contract.
    async fn look_below(&mut self, on: &mut On<'_, Pg>) -> QueryResult<()> {
        let below = self.floors.iter().map(|(group, floor)| (*group, i64::MIN, *floor));
        for First { group_no, first } in first_ids(on, &self.basis, below).await? {
            if let Some(id) = first {
                tracing::warn!(
                    id,
                    "a row was inserted into the outbox with an id that its transaction has not drawn from the sequence: it may \
                     be out of order; leave the column `id` to its default"
                );
                self.floors.insert(group_no, id - 1);
            }
        }
        Ok(())
    }
}

/// Of each group, the first id above the one and up to the other; nothing on another basis.
async fn first_ids(
    on: &mut On<'_, Pg>,
    basis: &Basis,
    groups: impl Iterator<Item = (i32, i64, i64)>,
) -> QueryResult<Vec<First>> {
    let (mut numbers, mut above, mut up_to) = (Vec::new(), Vec::new(), Vec::new());
    for (number, from, to) in groups {
        numbers.push(number);
        above.push(from);
        up_to.push(to);
    }
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    let parameters = [
        Parameter::Integers(&numbers),
        Parameter::Numbers(&above),
        Parameter::Numbers(&up_to),
        Parameter::Number(basis.sequence),
        Parameter::Text(&basis.generation),
        Parameter::Number(basis.last),
    ];
    prepared(on.sql(sql::FIRST_IDS), parameters).load(on.conn).await
}
