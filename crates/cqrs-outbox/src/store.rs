use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use cqrs_core::{Error, ErrorKind};
use uuid::Uuid;

use crate::retention::Kept;
use crate::row::{Confirmed, GroupNo, Lane, OutboxRow};

/// A relay: a name for people, and an id that is new each time it starts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RelayId {
    /// The name: by default host and process.
    pub name: String,
    /// New for each start, so that a relay does not mistake the leases of its former life for its own.
    pub incarnation: Uuid,
}

/// The right to send the events of a group, until it expires by the database's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease {
    /// The group.
    pub group: GroupNo,
    /// Rises with each change of the owner; a negative outcome that names an older one changes nothing.
    pub epoch: i64,
}

/// What a relay tells the store every few seconds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Heartbeat {
    /// How long the leases are to last from now, by the database's clock.
    pub lease: Duration,
    /// How many more groups it would take, of those that nobody owns or whose lease has expired.
    pub take: usize,
    /// Leases that it gives back. They name their epoch, so that a heartbeat that is carried out late ends no later lease.
    pub release: Vec<Lease>,
}

/// What the store answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ownership {
    /// All leases of this relay.
    pub leases: Vec<Lease>,
    /// How many groups there are.
    pub groups: usize,
    /// How many relays were seen within a lease's time, this one included.
    pub relays: usize,
    /// Whether an operator has stopped all relaying.
    pub hold: bool,
    /// No gate is closed for a time in the groups of these leases, and none was made due by this call: as long as this relay closes none
    /// itself, the side tables need not be looked at before the next heartbeat. `false` if there may be one. (One that waits for what
    /// someone does about a dead letter counts when that is done.)
    pub nothing_aside: bool,
    /// No event is scheduled in these groups, whenever it is due: [`promote`](OutboxStore::promote) need not be called before the next
    /// heartbeat. `false` if there may be one.
    pub nothing_scheduled: bool,
    /// The groups of these leases that were taken from another relay which ended without a release, each with what that
    /// relay had recorded by [`record_suspects`](OutboxStore::record_suspects). Taken again by this relay, whose own lease
    /// has lapsed, they are without it: it was told.
    pub dirty: BTreeMap<GroupNo, Vec<i64>>,
}

/// Which rows to read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReadRequest {
    /// Rows of these groups.
    pub leases: Vec<Lease>,
    /// But not these: the relay has them in memory. In ascending order.
    pub known: Vec<i64>,
    /// At most so many.
    pub limit: usize,
    /// At most so many bytes, but at least one row.
    pub max_bytes: usize,
}

/// A row that the broker refused for a reason of its own, or that waits aside for a destination that is suspended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rejection {
    /// The lease under which it was sent.
    pub lease: Lease,
    /// The row.
    pub id: i64,
    /// Its lane.
    pub lane: Lane,
    /// Which refusal of the row this is: what its attempts are to be, so that writing it twice counts it once. What they are
    /// already, if it was not refused.
    pub attempts: u32,
    /// Why.
    pub error: String,
    /// What is to become of it.
    pub verdict: Verdict,
}

/// What is to become of a row that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It waits aside, and its lane with it, for so long.
    Park {
        /// By the database's clock.
        retry_in: Duration,
    },
    /// It goes to the dead letters.
    Bury {
        /// And the later events of its lane?
        later: LaterEvents,
    },
}

impl Verdict {
    /// Whether the later rows of the lane stay behind.
    pub(crate) fn closes_gate(self) -> bool {
        self != Self::Bury { later: LaterEvents::GoOn }
    }
}

/// What becomes of the later events of a key when one of it goes to the dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LaterEvents {
    /// They wait until someone has replayed or discarded every dead letter of the key. The default: the order of the key is
    /// kept, and nothing else is given up.
    #[default]
    Wait,
    /// They go on without it. A replay of it comes behind what has gone by then.
    GoOn,
    /// They follow it into the dead letters, until someone has replayed or discarded every dead letter of the key: the order of the
    /// key is kept, and none of it waits unseen. At most 10,000 of those that stand aside already follow with each one that does;
    /// what is left of them waits.
    Follow,
}

impl LaterEvents {
    /// The error of a dead letter that only follows another one.
    pub const FOLLOWS: &str = "an earlier event of its key is a dead letter, and it follows it";
}

/// What became of a change that only the owner of a group may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fenced<T> {
    /// It was made.
    Done(T),
    /// The lease is no longer this relay's: nothing was changed.
    LeaseLost,
}

/// What became of scheduled events whose time had come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Promoted {
    /// How many moved into the hot table.
    pub moved: usize,
    /// How long until the next one of these groups is due, by the database's clock: zero if some are due that were too many
    /// for this call. `None` if none is scheduled.
    pub next_due: Option<Duration>,
}

/// A topic that a relay cannot reach, so that what is for it waits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SuspendedTopic {
    /// Which.
    pub topic: String,
    /// What the broker said last.
    pub error: String,
}

/// The port to the database that holds the outbox. `cqrs-testing` judges an implementation.
///
/// Each method is one short transaction or statement. None may be open while the relay talks to the broker: that is
/// why there is no method that lends one.
#[async_trait]
pub trait OutboxStore: fmt::Debug + Send + Sync + 'static {
    /// Where it is, for errors and logs: a URL without its password. Default: nothing is said.
    fn place(&self) -> Option<&str> {
        None
    }

    /// Whether the tables are there and of a version that this relay can work with.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Schema`] if they are not; [`StoreErrorKind::Installation`] if they are those of another outbox than was asked for;
    /// [`StoreErrorKind::Unavailable`] if the database cannot be reached.
    async fn check(&self) -> Result<(), StoreError>;

    /// In this order: records that the relay lives, gives groups back, renews its leases, takes groups that are free or
    /// whose lease has expired, and carries out the operators' requests for its groups.
    ///
    /// Taking a group raises its epoch, and marks it dirty if its last lease was another relay's and ended without a release,
    /// with what that one had recorded of its suspects at the end. A lease that ends more than two lease times ahead (the clock was set back) counts as expired.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Installation`], and nothing is taken, if the outbox was exchanged for another one; it ends the relay, as all
    /// errors do that are not [retryable](StoreError::is_retryable).
    async fn heartbeat(&self, relay: &RelayId, heartbeat: &Heartbeat) -> Result<Ownership, StoreError>;

    /// The rows of the hot table that may be sent, in ascending order of their ids, as of one snapshot that begins after
    /// the call. Never hides a row that is committed.
    async fn read(&self, request: &ReadRequest) -> Result<Vec<OutboxRow>, StoreError>;

    /// The rows of the lanes whose gate is due, in ascending order of their ids: of each such lane the first ones.
    async fn read_parked(&self, request: &ReadRequest) -> Result<Vec<OutboxRow>, StoreError>;

    /// Removes rows that the broker has. Needs no lease: it is right whoever owns the group now. Doing it twice is
    /// harmless. A row of the hot table may have been moved aside since it was read, by a call that the relay took for
    /// failed; it is removed there, too.
    async fn settle(&self, confirmed: &[Confirmed]) -> Result<(), StoreError>;

    /// Parks or buries a row that was refused: keeps the attempts and the error; parking it closes its lane's gate, and so does
    /// burying it, for good, unless the later events go on. The lane is the one that the rejection names: that of the row's key, or that of
    /// the event by itself, where the relay sends it [without regard to its key](crate::Unordered).
    async fn reject(&self, rejection: &Rejection) -> Result<Fenced<()>, StoreError>;

    /// Moves rows of the hot table aside, behind the closed gate of their lane. `Done(false)` if the gate is not closed:
    /// nothing was moved. Where the lane waits for what someone does about a dead letter, and `later` is to follow, they become dead
    /// letters, too; what was replayed there stays.
    async fn set_aside(
        &self,
        lease: Lease,
        lane: &Lane,
        ids: &[i64],
        later: LaterEvents,
    ) -> Result<Fenced<bool>, StoreError>;

    /// Opens the gate of a lane that has no rows aside any more. `Done(false)` if it has, or if it waits for what someone does
    /// about a dead letter: the call may be carried out long after the relay has given it up.
    async fn open_gate(&self, lease: Lease, lane: &Lane) -> Result<Fenced<bool>, StoreError>;

    /// Moves up to `limit` scheduled events that are due from the groups of these leases into the hot table, in the order of
    /// their time, and of their ids where that is the same. They get new ids: their place in their lane is now.
    ///
    /// Only the owner of a group may, so that the order of a lane is nobody else's matter: of leases that are no longer of
    /// their epoch nothing is moved. An event goes once, however many relays try. It waits for no writer: what one holds
    /// locked, to cancel it say, is left for a later call, with what is due behind it in its lane.
    ///
    /// By default there is nothing: this store has no scheduled events.
    async fn promote(&self, leases: &[Lease], limit: usize) -> Result<Promoted, StoreError> {
        let _ = (leases, limit);
        Ok(Promoted::default())
    }

    /// Records which rows this relay is about to send with suspicion, in place of what it recorded before. Whoever takes its
    /// groups over, should it die, finds them in [`Ownership::dirty`]. It need not be fenced, for it is about this relay only;
    /// of a relay that has not sent a heartbeat nothing is recorded.
    ///
    /// By default nothing is: an event that kills the process is then never found out.
    async fn record_suspects(&self, relay: &RelayId, ids: &[i64]) -> Result<(), StoreError> {
        let _ = (relay, ids);
        Ok(())
    }

    /// Records which topics this relay cannot reach, in place of what it recorded before, for operators to see until it leaves.
    /// A relay calls it beside each heartbeat as long as there are any, and once when there are none any more. Says whether it was
    /// recorded: of a relay that has not sent a heartbeat, or was forgotten since, nothing is.
    ///
    /// By default nothing is.
    async fn record_suspended(&self, relay: &RelayId, topics: &[SuspendedTopic]) -> Result<bool, StoreError> {
        let _ = (relay, topics);
        Ok(false)
    }

    /// Removes what is kept for a time only, and was there longer than this by the store's clock (deduplication keys: whose window is
    /// over); says how much. What waits, and dead
    /// letters, are not touched. Several at once share the work. In short transactions; what was removed stays removed if a later
    /// one fails.
    ///
    /// By default there is nothing: this store keeps nothing of that kind.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    async fn purge(&self, kept: Kept, older_than: Duration) -> Result<u64, StoreError> {
        let _ = (kept, older_than);
        Ok(0)
    }

    /// Gives all groups back and signs off.
    async fn leave(&self, relay: &RelayId) -> Result<(), StoreError>;

    /// Forgets what it has kept in this process for that relay, whose run is over: it has nothing in memory any more. Called once, however the
    /// run ended, so also without [`leave`](Self::leave), and while a future or a panic is on its way out. The database is not asked.
    ///
    /// By default nothing was kept.
    fn forget(&self, relay: &RelayId) {
        let _ = relay;
    }

    /// Whether [`changed`](Self::changed) resolves behind the commits of every process, as far as it can tell, and not only behind those of
    /// this one. Then the relay polls less often where nothing happens.
    ///
    /// By default it does not.
    fn hears_commits(&self) -> bool {
        false
    }

    /// Resolves when there may be something new to read; the relay polls all the same. May never resolve.
    ///
    /// # Cancel safety
    ///
    /// Safe: what happened between two calls is not missed.
    async fn changed(&self) {
        std::future::pending().await
    }
}

/// How a store failed.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// Not reachable, busy, a deadlock, a time-out: waiting helps.
    Unavailable,
    /// The tables are missing or of another version: someone has to act.
    Schema,
    /// The login was refused, the URL is wrong: someone has to act.
    Configuration,
    /// It is another outbox than the one that was asked for, a copy of it say: someone has to act. A relay ends, also one that was at
    /// work when it was exchanged.
    Installation,
    /// Anything else. The relay tries again, for it must not give up what was committed.
    Other,
}

/// A failure of a store: its kind, and a message that says what was wrong and what to do.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    message: String,
    store: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync + 'static>>,
}

impl StoreError {
    /// A failure of that kind.
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), store: None, source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync + 'static>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds which store it was, by its URL without a password; one that was added before stays.
    #[must_use]
    pub fn at(mut self, store: impl fmt::Display) -> Self {
        self.store.get_or_insert_with(|| store.to_string());
        self
    }

    /// How it failed.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Whether the relay tries again.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, StoreErrorKind::Unavailable | StoreErrorKind::Other)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.store {
            Some(store) => write!(f, "{} ({store})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl StoreError {
    /// As the error of the toolkit, of kind [`ErrorKind::Store`]; retryable if it is of kind
    /// [`StoreErrorKind::Unavailable`], for anything else may well be the fault of what was written.
    pub fn into_error(self) -> Error {
        let retryable = self.kind == StoreErrorKind::Unavailable;
        Error::caused_by(ErrorKind::Store, self).with_retryable(retryable)
    }
}
