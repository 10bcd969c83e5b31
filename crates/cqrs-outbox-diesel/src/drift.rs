//! What of the tables is not as a migration makes it.
//!
//! What to expect is not written down anywhere: the migrations are run once more, apart from the tables that are in use
//! (temporary tables; on SQLite a database in memory), and the same server describes both in the same words. So it cannot go
//! stale, and no version of a server needs to be known here.

use std::collections::BTreeMap;
use std::fmt;

use cqrs_core::Result;
use cqrs_outbox::table::TableNames;
use cqrs_outbox::{OrderUnit, StoreError, StoreErrorKind};
use diesel::result::Error as DieselError;
use diesel::sql_types::{BigInt, Nullable, Text};
use diesel::{QueryResult, QueryableByName};

use crate::backend::Backend;
use crate::error::{MIGRATE, is_denied, store_error};
use crate::migration::SCHEMA_VERSION;
use crate::on::On;
use crate::outbox::Outbox;
use crate::query::Query;
use crate::statements::Meta;
use crate::tx::Tx;

/// A difference between the tables and those that a migration makes, or what may hide one: [`Outbox::drift`].
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// In which way it is different.
    pub kind: DriftKind,
    /// What is different: ``the column `topic` of `cqrs_outbox` ``.
    pub object: String,
    /// How a migration makes it, in the words of this database; `None`: it makes nothing like that.
    pub expected: Option<String>,
    /// How it is, in the words of this database; `None`: it is missing, or was not seen.
    pub found: Option<String>,
    /// Whether events may be lost, late or out of order, or writers fail. What is not serious may be on purpose: an index of
    /// yours, or other settings.
    pub is_serious: bool,
    /// Why it matters, or what to do.
    pub advice: String,
}

/// In which way something is not as a migration makes it.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriftKind {
    /// It is not there.
    Missing,
    /// It is another one.
    Changed,
    /// It is there, and no migration makes it.
    Added,
    /// This user may not look at it: it may be as it should be, or not.
    Unseen,
}

impl DriftKind {
    /// For programs: `missing`, `changed`, `added` or `unseen`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Changed => "changed",
            Self::Added => "added",
            Self::Unseen => "unseen",
        }
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, object, expected, found, advice, .. } = self;
        let said = |text: &Option<String>| text.clone().unwrap_or_default();
        match kind {
            DriftKind::Changed => {
                write!(f, "{object} is `{}`, and should be `{}`", said(found), said(expected))?;
            }
            DriftKind::Missing => write!(f, "{object} is missing: `{}`", said(expected))?,
            DriftKind::Added => write!(f, "{object} is there, and no migration makes it: `{}`", said(found))?,
            DriftKind::Unseen => write!(f, "{object} may not be looked at by this user")?,
        }
        write!(f, ". {advice}")
    }
}

/// What the parts of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Table,
    Column,
    Index,
    Constraint,
    Sequence,
    Settings,
    Trigger,
    Rule,
    /// Of another table, to this one.
    Reference,
    /// The rows of `cqrs_outbox_group`, taken together.
    Groups,
}

impl Part {
    /// As the statements of PostgreSQL call it.
    fn named(name: &str) -> Self {
        match name {
            "column" => Self::Column,
            "index" => Self::Index,
            "constraint" => Self::Constraint,
            "sequence" => Self::Sequence,
            "settings" => Self::Settings,
            "trigger" => Self::Trigger,
            "rule" => Self::Rule,
            "reference" => Self::Reference,
            "groups" => Self::Groups,
            _ => Self::Table,
        }
    }

    fn called(self, table: &str, name: &str) -> String {
        match self {
            Self::Table => format!("the table `{table}`"),
            Self::Column => format!("the column `{name}` of `{table}`"),
            Self::Index => format!("the index `{name}` of `{table}`"),
            Self::Constraint => format!("the constraint `{name}` of `{table}`"),
            Self::Sequence => format!("the sequence of `{table}.{name}`"),
            Self::Settings => format!("the storage settings of `{table}`"),
            Self::Trigger if name.is_empty() => "which triggers the tables have".to_owned(),
            Self::Trigger => format!("the trigger `{name}` of `{table}`"),
            Self::Rule => format!("the rule `{name}` of `{table}`"),
            Self::Reference => format!("the foreign key `{name}` to `{table}`"),
            Self::Groups => format!("the content of `{table}`"),
        }
    }
}

/// A part of a table, as the database describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub(crate) table: String,
    pub(crate) part: Part,
    pub(crate) name: String,
    /// `None`: this user may not look at it.
    pub(crate) definition: Option<String>,
}

impl Fact {
    #[cfg(any(feature = "mysql", feature = "sqlite", test))]
    pub(crate) fn new(table: &str, part: Part, name: &str, definition: impl Into<String>) -> Self {
        let definition = Some(definition.into());
        Self { table: table.to_owned(), part, name: name.to_owned(), definition }
    }

    #[cfg(any(feature = "postgres", feature = "mysql", test))]
    pub(crate) fn unseen(table: &str, part: Part) -> Self {
        Self { table: table.to_owned(), part, name: String::new(), definition: None }
    }
}

/// A fact, as a query gives it.
#[derive(QueryableByName, Debug)]
pub(crate) struct FactRow {
    #[diesel(sql_type = Text)]
    of_table: String,
    #[diesel(sql_type = Text)]
    part: String,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    definition: String,
}

impl From<FactRow> for Fact {
    fn from(row: FactRow) -> Self {
        let part = Part::named(&row.part);
        Self { table: row.of_table, part, name: row.name, definition: Some(row.definition) }
    }
}

/// The groups that there are. One fact, for they matter together.
pub(crate) const GROUPS: &str = "\
    SELECT 'cqrs_outbox_group' AS of_table, 'groups' AS part, '' AS name, \
        concat(count(*), ' groups, ', coalesce(sum(last_slot - first_slot + 1), 0), ' slots from ', \
            coalesce(min(first_slot), 0), ' to ', coalesce(max(last_slot), 0)) AS definition \
    FROM cqrs_outbox_group";

/// The groups as a fact. If they cannot be read, a column of that table is not what it should be, and told; unless this user may
/// not read them.
#[cfg_attr(
    not(any(feature = "postgres", feature = "mysql")),
    expect(unused_variables, reason = "SQLite has no users")
)]
pub(crate) fn groups(names: &TableNames, read: QueryResult<Vec<FactRow>>) -> Vec<Fact> {
    match read {
        Ok(rows) => rows.into_iter().map(Fact::from).collect(),
        #[cfg(any(feature = "postgres", feature = "mysql"))]
        Err(error) if is_denied(&error) => {
            vec![Fact::unseen(&names.unqualified("cqrs_outbox_group"), Part::Groups)]
        }
        Err(_) => Vec::new(),
    }
}

/// The statements of a migration, which has no `;` within a text.
#[cfg(feature = "mysql")]
pub(crate) fn statements(sql: &str) -> impl Iterator<Item = String> {
    let lines = sql.lines().filter(|line| !line.trim_start().starts_with("--"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let statements: Vec<String> =
        text.split(';').map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect();
    statements.into_iter()
}

/// What is different of the parts that make a version, in all tables but the one that says which it is. Indexes of others', and
/// settings, are of any version.
fn other_version(mut expected: Vec<Fact>, mut found: Vec<Fact>) -> Vec<Drift> {
    let is_part = |fact: &Fact| {
        !is_meta(&fact.table)
            && [Part::Table, Part::Column, Part::Index, Part::Constraint, Part::Sequence].contains(&fact.part)
    };
    expected.retain(is_part);
    let same = |one: &Fact, other: &Fact| {
        (&one.table, one.part, &one.name) == (&other.table, other.part, &other.name)
    };
    found.retain(|fact| {
        let is_index = [Part::Index, Part::Constraint].contains(&fact.part);
        is_part(fact) && (!is_index || expected.iter().any(|one| same(one, fact)))
    });
    compare(expected, found)
}

const META: &str = "cqrs_outbox_meta";

/// Whatever the tables are called.
fn is_meta(table: &str) -> bool {
    table.ends_with("outbox_meta")
}

/// The row is missing that says of which version the tables are.
fn meta_is_lost(names: &TableNames, is_table_there: bool) -> Option<Drift> {
    is_table_there.then(|| Drift {
        kind: DriftKind::Missing,
        object: format!("the content of `{}`", names.unqualified(META)),
        expected: Some(format!("one row, version {SCHEMA_VERSION}")),
        found: None,
        is_serious: true,
        advice: META_ADVICE.to_owned(),
    })
}

const META_ADVICE: &str = "No relay starts without it, and those that run are on hold. Restore it; or run `cqrs outbox migrate`, which writes it \
     again if all else is as it should be, and leaves relaying on hold, for that is lost with it: then `cqrs outbox resume`";

/// What is different, table by table.
fn compare(expected: Vec<Fact>, found: Vec<Fact>) -> Vec<Drift> {
    type Key = (String, Part, String);
    let by_key = |facts: Vec<Fact>| -> BTreeMap<Key, Option<String>> {
        facts.into_iter().map(|fact| ((fact.table, fact.part, fact.name), fact.definition)).collect()
    };
    let (mut expected, mut found) = (by_key(expected), by_key(found));
    let table = |of: &Key| (of.0.clone(), Part::Table, String::new());
    // Others may have tables whose names begin with ours.
    found.retain(|key, _| expected.contains_key(&table(key)));
    let tables: Vec<String> = expected.keys().map(|key| key.0.to_uppercase()).collect();
    let is_missing = |key: &&Key| key.1 == Part::Table && found.get(*key).is_none_or(Option::is_none);
    let missing: Vec<Key> = expected.keys().filter(is_missing).cloned().collect();
    // Of a table that is missing, or not to be seen, nothing else need be told.
    expected.retain(|key, _| key.1 == Part::Table || !missing.contains(&table(key)));
    found.retain(|key, _| key.1 == Part::Table || !missing.contains(&table(key)));
    let mut keys: Vec<Key> = expected.keys().chain(found.keys()).cloned().collect();
    keys.sort();
    keys.dedup();
    let drifts = keys.into_iter().filter_map(|key| {
        let (expected, found) = (expected.remove(&key).flatten(), found.remove(&key));
        if found == Some(None) {
            let privilege = match key.1 {
                Part::Trigger => "TRIGGER on them".to_owned(),
                _ => format!("SELECT on `{}`", key.0),
            };
            return Some(unseen(key.1.called(&key.0, &key.2), &privilege));
        }
        let found = found.flatten();
        (expected != found).then(|| drift(&key.0, key.1, &key.2, expected, found, &tables))
    });
    drifts.collect()
}

/// What a user may not see is no reason to change anything.
fn unseen(object: String, privilege: &str) -> Drift {
    let advice = format!(
        "It may be as it should be, or not: check as the user that migrates, or grant this one {privilege}"
    );
    Drift { kind: DriftKind::Unseen, object, expected: None, found: None, is_serious: false, advice }
}

/// Whether a trigger runs before what it is about, and whether that is rows that are written only: in the words before the name of
/// its table.
fn runs(definition: &str) -> (bool, bool) {
    let words = definition.split_whitespace().take_while(|word| !["ON", "FOR"].contains(word));
    // SQLite's are before, unless they say so.
    let (mut before, mut inserts_only) = (true, true);
    for word in words {
        before &= word != "AFTER";
        inserts_only &= !["UPDATE", "DELETE", "TRUNCATE"].contains(&word);
    }
    (before, inserts_only)
}

/// Whether the text of a trigger removes or changes rows of one of these tables. What other functions do that it calls is not known, nor
/// is a statement that it puts together.
fn takes_rows(definition: &str, tables: &[String]) -> bool {
    let is_in_a_name = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '$';
    let words = definition.split(|letter| !is_in_a_name(letter)).filter(|word| !word.is_empty());
    // What it is about is named before that, in the same words.
    let body: Vec<&str> = words.skip_while(|word| !["FOR", "BEGIN"].contains(word)).collect();
    body.iter().enumerate().any(|(at, word)| {
        // `DELETE FROM ONLY public.cqrs_outbox`.
        let object = body.iter().skip(at + 1).take(4);
        let is_ours = |name: &&str| tables.iter().any(|table| table == name);
        match *word {
            "DELETE" | "UPDATE" | "TRUNCATE" | "MERGE" | "REPLACE" => object.clone().any(is_ours),
            // `INSERT INTO cqrs_outbox .. ON CONFLICT (..) DO UPDATE`, or `.. ON DUPLICATE KEY UPDATE`.
            "INSERT" => object.clone().any(is_ours) && body[at..].contains(&"UPDATE"),
            _ => false,
        }
    })
}

/// The beginning of a trigger's text, which may be long.
fn shortened(mut definition: String) -> String {
    const SHOWN: usize = 300;
    if let Some((end, _)) = definition.char_indices().nth(SHOWN) {
        definition.truncate(end);
        definition.push('…');
    }
    definition
}

fn drift(
    table: &str,
    part: Part,
    name: &str,
    expected: Option<String>,
    found: Option<String>,
    tables: &[String],
) -> Drift {
    let is_extra = expected.is_none();
    let found_in_capitals = found.as_deref().unwrap_or_default().to_uppercase();
    let (runs_before, on_inserts_only) = runs(&found_in_capitals);
    let takes_rows = part == Part::Trigger && takes_rows(&found_in_capitals, tables);
    let goes_along =
        ["ON DELETE CASCADE", "ON DELETE SET"].iter().any(|rule| found_in_capitals.contains(rule));
    let is_serious = match part {
        Part::Settings => false,
        Part::Trigger => runs_before || takes_rows,
        Part::Reference => !goes_along,
        // Rows that give no value for it are refused.
        Part::Column if is_extra => {
            found_in_capitals.contains("NOT NULL")
                && !["DEFAULT", "GENERATED"].iter().any(|word| found_in_capitals.contains(word))
        }
        Part::Index if is_extra => found_in_capitals.contains("UNIQUE"),
        Part::Constraint if is_extra => false,
        _ => true,
    };
    let advice = match part {
        Part::Table if found.is_none() && is_meta(table) => META_ADVICE,
        Part::Table if found.is_none() => {
            "Restore it, or make it with its statements in `cqrs outbox migrate --print`"
        }
        Part::Table => "Change it back with ALTER TABLE, or make it anew while nobody uses it",
        Part::Column if is_extra && is_serious => {
            "Writers that do not know it fail: let it be NULL, or give it a default"
        }
        Part::Column if is_extra => "It does no harm",
        Part::Column => "Change it back with ALTER TABLE, while no writer and no relay is at work",
        Part::Index if is_extra && is_serious => "It refuses rows that the outbox may have: drop it",
        Part::Index if is_extra => "It does no harm, but each write pays for it",
        Part::Index if found.is_none() => "Without it whole tables are read: make it",
        Part::Index => "Drop it and make it anew",
        Part::Constraint if is_extra => "It may refuse rows that the outbox may have",
        Part::Constraint => {
            "Without it rows can be written that no relay can send as they were meant: add it with ALTER TABLE"
        }
        Part::Sequence => {
            "Ids that are handed out in bunches, or do not rise, invert the order of a key's events: ALTER SEQUENCE"
        }
        Part::Settings => {
            "Rows live for milliseconds, and vacuum has to come early and often: ALTER TABLE .. SET, unless it is on purpose"
        }
        Part::Trigger if runs_before && on_inserts_only => {
            "It may change or leave out what is written, and while it fails nothing can be: drop it, unless you know what it does"
        }
        Part::Trigger if runs_before => {
            "It may keep what was sent from being removed, or change what is moved; then events are sent again and again, or lost: drop \
             it, unless you know what it does"
        }
        Part::Trigger if takes_rows => {
            "It removes or changes rows of the outbox: an event may be lost, go out otherwise, or be sent again: drop it, unless you know what \
             it does"
        }
        Part::Trigger if on_inserts_only => {
            "It runs for each row that is written there: while it fails none is, and each transaction waits for it. What functions do that \
             it calls was not looked at"
        }
        Part::Trigger => {
            "It runs for each row that a relay removes, moves or marks there: while it fails, what was sent stays, and is sent again. What \
             functions do that it calls was not looked at"
        }
        Part::Rule => {
            "It takes the place of what writers and relays do, or adds to it: events may not be written, or not be removed after \
             they were sent, and what a relay moves in one statement is refused: DROP RULE"
        }
        Part::Reference if goes_along => {
            "The rows of that table go, or lose it, when a relay removes or moves the row here, and each time it looks for them"
        }
        Part::Reference => {
            "A row here that one of that table refers to cannot be removed or moved: what was sent stays, and is sent again: drop the \
             foreign key"
        }
        Part::Groups => {
            "Nothing is sent of a group without a row: insert what is missing, as in `cqrs outbox migrate --print`"
        }
    };
    let kind = match (&expected, &found) {
        (None, _) => DriftKind::Added,
        (_, None) => DriftKind::Missing,
        (Some(_), Some(_)) => DriftKind::Changed,
    };
    let (object, advice) = (part.called(table, name), advice.to_owned());
    let found = if part == Part::Trigger { found.map(shortened) } else { found };
    Drift { kind, object, expected, found, is_serious, advice }
}

/// Where the sequence of a table's ids stands.
#[derive(QueryableByName, Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    #[diesel(sql_type = Text)]
    pub(crate) of_table: String,
    /// The last id that it has given; `None`: this user may not ask it.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub(crate) last: Option<i64>,
    /// The highest one of the rows that have their ids of it, wherever they stand now.
    #[diesel(sql_type = BigInt)]
    pub(crate) highest: i64,
}

/// A sequence that is going to give ids that are in use.
fn behind<B: Backend>(names: &TableNames, sequence: &Sequence) -> Option<Drift> {
    let Sequence { of_table, last, highest } = sequence;
    let Some(last) = last else {
        let object = format!("whether the sequence of `{of_table}.id` stands behind ids that are in use");
        return Some(unseen(object, "SELECT on that sequence"));
    };
    let advice = || {
        format!(
            "New events get ids that others have, so their keys lose their order, and on PostgreSQL writers fail where such a row \
             waits: `{}`",
            B::set_sequence(names, of_table, *highest)
        )
    };
    (highest > last).then(|| Drift {
        kind: DriftKind::Changed,
        object: Part::Sequence.called(of_table, "id"),
        expected: Some(format!("at {highest} or above")),
        found: Some(format!("at {last}")),
        is_serious: true,
        advice: advice(),
    })
}

/// A unit of order that was changed while something waited by the other one.
async fn waits_by_another_unit<B: Backend>(on: &mut On<'_, B>) -> QueryResult<Option<Drift>> {
    let units = [
        (OrderUnit::Key, OrderUnit::TopicAndKey, B::DIALECT.is_lane_of_topic),
        (OrderUnit::TopicAndKey, OrderUnit::Key, B::DIALECT.is_lane_of_key),
    ];
    for (unit, other, is_lane_of_other) in units {
        let waits =
            SIDE_TABLES.map(|table| format!("EXISTS (SELECT 1 FROM {table} WHERE {is_lane_of_other})"));
        let found = Query::new("SELECT count(*) AS value FROM cqrs_outbox_meta WHERE order_unit = ?")
            .bind(unit.as_str())
            .then(&format!(" AND ({})", waits.join(" OR ")));
        if B::numbers(on, found).await?.first().is_some_and(|found| *found > 0) {
            let row = |unit| Some(format!("order_unit = {unit}"));
            return Ok(Some(Drift {
                kind: DriftKind::Changed,
                object: format!("the content of `{}`", on.names.unqualified(META)),
                expected: row(other),
                found: row(unit),
                is_serious: true,
                advice: UNIT_ADVICE.to_owned(),
            }));
        }
    }
    Ok(None)
}

/// Where lanes are written down.
pub(crate) const SIDE_TABLES: [&str; 3] = ["cqrs_outbox_gate", "cqrs_outbox_parked", "cqrs_outbox_dead"];

const UNIT_ADVICE: &str = "Something stands aside, or is a dead letter, that waits by the other unit, and later events pass it. Put it back \
     (UPDATE) while no relay is at work, let a relay end that (`cqrs outbox status`, `cqrs dead`), and then change it by `cqrs outbox order-unit`";

impl<B: Backend> Outbox<B> {
    /// What of the tables is not as a migration makes it: changed by hand, by another tool, or by a restore that left
    /// something out. Empty if all is as it should be.
    ///
    /// It changes nothing of the tables that are in use. What to expect it learns by running the migrations once more, on
    /// temporary tables (on SQLite in memory), which are gone when it returns. For that it needs the privilege `TEMPORARY` on
    /// PostgreSQL, which everyone has by default, and `CREATE TEMPORARY TABLES` on MariaDB and MySQL. Not for a server that
    /// is read-only.
    ///
    /// What this user may not look at is told as [`DriftKind::Unseen`], and is not serious: it may be as it should be. Foreign keys of
    /// other tables that the user may not look at are not seen at all, on MariaDB and MySQL.
    ///
    /// Not looked at are privileges, the server's own settings, and the rows but for those of `cqrs_outbox_group`, for whether what stands
    /// aside waits by the [unit of order](Self::order_unit), and for whether the sequences of ids stand behind those that are in use: `TRUNCATE .. RESTART IDENTITY` leaves them so, or the restore of
    /// some of the tables.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`](cqrs_core::ErrorKind::Store): there are no tables, they are of another version than this
    /// library's, or what is needed is not granted.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn drift(&self) -> Result<Vec<Drift>> {
        self.try_drift().await.map_err(|error| self.failed(error))
    }

    async fn try_drift(&self) -> Result<Vec<Drift>, StoreError> {
        // It is closed at the end, and so never lent again: it has temporary tables, which hide the others.
        let mut conn = Tx::new(self.acquire().await?, self.clone(), None);
        let (mut unread, mut is_lost) = (None, false);
        match B::meta(&mut conn.on()).await {
            Ok(None) if !B::has_tables(&mut conn.on()).await.map_err(store_error)? => {
                return Err(StoreError::new(StoreErrorKind::Schema, MIGRATE));
            }
            Ok(None) => is_lost = true,
            Ok(Some(Meta { schema_version: version, .. })) if version != SCHEMA_VERSION => {
                let what = format!(
                    "the outbox's tables are of version {version}, and this program can only tell how those of version \
                     {SCHEMA_VERSION} should be: run `cqrs outbox migrate`, or update this program"
                );
                return Err(StoreError::new(StoreErrorKind::Schema, what));
            }
            Ok(Some(_)) => {}
            // What keeps it from being read is found below, if anything can be.
            Err(error) => unread = Some(error),
        }
        let found =
            B::describe(&mut conn.on()).await.map_err(|error| store_error(unread.unwrap_or(error)))?;
        // If it fails, a table or a column is not what it should be, and told.
        let sequences = match B::sequences(&mut conn.on()).await {
            Ok(sequences) => sequences.iter().filter_map(|one| behind::<B>(self.tables(), one)).collect(),
            Err(error) if is_denied(&error) => {
                let object = "whether sequences stand behind ids that are in use".to_owned();
                vec![unseen(object, "SELECT on all tables of the outbox and their sequences")]
            }
            Err(_) => Vec::new(),
        };
        let order_unit = match waits_by_another_unit::<B>(&mut conn.on()).await {
            Ok(drift) => drift,
            Err(error) if is_denied(&error) => {
                let object = "whether what stands aside waits by the unit of order".to_owned();
                Some(unseen(object, "SELECT on all tables of the outbox"))
            }
            Err(_) => None,
        };
        let expected = B::describe_fresh(&mut conn.on()).await.map_err(not_described)?;
        let has_meta = found.iter().any(|fact| is_meta(&fact.table));
        let mut drifts = compare(expected, found);
        drifts.extend(meta_is_lost(self.tables(), is_lost && has_meta));
        drifts.extend(sequences);
        drifts.extend(order_unit);
        Ok(drifts)
    }
}

impl<B: Backend> Outbox<B> {
    /// Whether tables that do not say of which version they are, are of this library's: `false` if some are missing.
    ///
    /// # Errors
    ///
    /// They are not, or not clearly.
    pub(crate) async fn are_of_this_version(&self) -> Result<bool, StoreError> {
        // It is closed at the end, as above.
        let mut conn = Tx::new(self.acquire().await?, self.clone(), None);
        let found = B::describe(&mut conn.on()).await.map_err(store_error)?;
        let expected = B::describe_fresh(&mut conn.on()).await.map_err(not_described)?;
        let differences = other_version(expected, found);
        let is_table =
            |drift: &Drift| drift.kind == DriftKind::Missing && drift.object.starts_with("the table ");
        let (missing, others): (Vec<_>, Vec<_>) = differences.iter().partition(|drift| is_table(drift));
        match others.first().or(if B::DDL_COMMITS { None } else { missing.first() }) {
            None => Ok(missing.is_empty()),
            Some(first) => {
                let what = format!(
                    "the outbox's tables do not say of which version they are: the row of `{}` is lost. And they are not as those \
                     of version {SCHEMA_VERSION}: {} of them: {first}. Mend that first, or restore the row, if you know which it was",
                    self.tables().unqualified(META),
                    differences.len()
                );
                Err(StoreError::new(StoreErrorKind::Schema, what))
            }
        }
    }
}

fn not_described(error: DieselError) -> StoreError {
    if !is_denied(&error) {
        return store_error(error);
    }
    let what = format!(
        "the check makes the tables anew as temporary ones, and this user may not: {error}: grant it TEMPORARY on \
         the database (PostgreSQL) or CREATE TEMPORARY TABLES (MariaDB, MySQL), or check as the user that migrates"
    );
    StoreError::new(StoreErrorKind::Configuration, what).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_trigger_says_whether_it_takes_rows() {
        let tables = ["CQRS_OUTBOX".to_owned(), "CQRS_OUTBOX_DEAD".to_owned()];
        let takes = |body: &str| {
            let definition =
                format!("CREATE TRIGGER T AFTER INSERT ON CQRS_OUTBOX FOR EACH ROW BEGIN {body} END");
            takes_rows(&definition, &tables)
        };
        for body in [
            "DELETE FROM CQRS_OUTBOX WHERE ID = NEW.ID;",
            "DELETE FROM ONLY PUBLIC.\"CQRS_OUTBOX_DEAD\";",
            "UPDATE CQRS_OUTBOX SET TOPIC = '';",
            "TRUNCATE TABLE `CQRS_OUTBOX`;",
            "MERGE INTO CQRS_OUTBOX USING X ON TRUE WHEN MATCHED THEN DELETE;",
            "REPLACE INTO CQRS_OUTBOX VALUES (1);",
            "INSERT OR REPLACE INTO CQRS_OUTBOX VALUES (1);",
            "INSERT INTO CQRS_OUTBOX VALUES (1) ON DUPLICATE KEY UPDATE TOPIC = '';",
            "INSERT INTO CQRS_OUTBOX VALUES (1) ON CONFLICT (ID) DO UPDATE SET TOPIC = '';",
        ] {
            assert!(takes(body), "{body}");
        }
        for body in [
            "INSERT INTO AUDIT SELECT * FROM CQRS_OUTBOX;",
            "INSERT INTO CQRS_OUTBOX VALUES (1);",
            "DELETE FROM AUDIT;",
            "UPDATE CQRS_OUTBOX_COPY SET N = 1;",
        ] {
            assert!(!takes(body), "{body}");
        }
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(shortened("ä".repeat(301)), format!("{}…", "ä".repeat(300)));
        assert_eq!(shortened("ä".repeat(300)), "ä".repeat(300));
    }

    #[test]
    fn differences_are_told_once_each() {
        let fact = |table, part, name, definition: &str| Fact::new(table, part, name, definition);
        let expected = vec![
            fact("a", Part::Table, "", "table"),
            fact("a", Part::Column, "same", "text"),
            fact("a", Part::Column, "changed", "text"),
            fact("a", Part::Index, "missing", "(x)"),
            fact("gone", Part::Table, "", "table"),
            fact("gone", Part::Column, "x", "text"),
        ];
        let found = vec![
            fact("a", Part::Table, "", "table"),
            fact("a", Part::Column, "same", "text"),
            fact("a", Part::Column, "changed", "int"),
            fact("a", Part::Column, "extra", "int NOT NULL"),
            fact("a", Part::Column, "harmless", "int NOT NULL DEFAULT 1"),
            fact("a_of_others", Part::Table, "", "table"),
        ];
        let said: Vec<(String, bool)> = compare(expected, found)
            .into_iter()
            .map(|drift| {
                (drift.to_string().split(". ").next().unwrap_or_default().to_owned(), drift.is_serious)
            })
            .collect();
        let wanted = [
            ("the column `changed` of `a` is `int`, and should be `text`", true),
            ("the column `extra` of `a` is there, and no migration makes it: `int NOT NULL`", true),
            (
                "the column `harmless` of `a` is there, and no migration makes it: `int NOT NULL DEFAULT 1`",
                false,
            ),
            ("the index `missing` of `a` is missing: `(x)`", true),
            ("the table `gone` is missing: `table`", true),
        ];
        assert_eq!(said, wanted.map(|(what, is_serious)| (what.to_owned(), is_serious)));
    }
}
