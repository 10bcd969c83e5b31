//! What of the tables is not as a migration makes it.
//!
//! What to expect is not written down anywhere: the migrations are run once more, apart from the tables that are in use
//! (temporary tables; on SQLite a database in memory), and the same server describes both in the same words. So it cannot go
//! stale, and no version of a server needs to be known here.

use std::collections::BTreeMap;
use std::fmt;

use cqrs_core::Result;
use cqrs_outbox::{StoreError, StoreErrorKind};
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Text};

use crate::backend::Backend;
use crate::error::{MIGRATE, is_denied, store_error};
use crate::migration::SCHEMA_VERSION;
use crate::outbox::Outbox;
use crate::tx::Tx;

/// A difference between the tables and those that a migration makes: [`Outbox::drift`].
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// What is different: ``the column `topic` of `cqrs_outbox` ``.
    pub object: String,
    /// How a migration makes it, in the words of this database; `None`: it makes nothing like that.
    pub expected: Option<String>,
    /// How it is, in the words of this database; `None`: it is missing.
    pub found: Option<String>,
    /// Whether events may be lost, late or out of order, or writers fail. What is not serious may be on purpose: an index of
    /// yours, or other settings.
    pub is_serious: bool,
    /// Why it matters, or what to do.
    pub advice: String,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, expected, found, advice, .. } = self;
        match (expected, found) {
            (Some(expected), Some(found)) => write!(f, "{object} is `{found}`, and should be `{expected}`")?,
            (Some(expected), None) => write!(f, "{object} is missing: `{expected}`")?,
            (None, Some(found)) => write!(f, "{object} is there, and no migration makes it: `{found}`")?,
            (None, None) => write!(f, "{object}")?,
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
            Self::Trigger => format!("the trigger `{name}` of `{table}`"),
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
    pub(crate) definition: String,
}

#[cfg(any(feature = "mysql", feature = "sqlite", test))]
impl Fact {
    pub(crate) fn new(table: &str, part: Part, name: &str, definition: impl Into<String>) -> Self {
        Self { table: table.to_owned(), part, name: name.to_owned(), definition: definition.into() }
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
        Self { table: row.of_table, part, name: row.name, definition: row.definition }
    }
}

/// The groups that there are. One fact, for they matter together.
pub(crate) const GROUPS: &str = "\
    SELECT 'cqrs_outbox_group' AS of_table, 'groups' AS part, '' AS name, \
        concat(count(*), ' groups, ', coalesce(sum(last_slot - first_slot + 1), 0), ' slots from ', \
            coalesce(min(first_slot), 0), ' to ', coalesce(max(last_slot), 0)) AS definition \
    FROM cqrs_outbox_group";

/// The statements of a migration, which has no `;` within a text.
#[cfg(feature = "mysql")]
pub(crate) fn statements(sql: &str) -> impl Iterator<Item = String> {
    let lines = sql.lines().filter(|line| !line.trim_start().starts_with("--"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let statements: Vec<String> =
        text.split(';').map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect();
    statements.into_iter()
}

/// What is different, table by table.
fn compare(expected: Vec<Fact>, found: Vec<Fact>) -> Vec<Drift> {
    type Key = (String, Part, String);
    let by_key = |facts: Vec<Fact>| -> BTreeMap<Key, String> {
        facts.into_iter().map(|fact| ((fact.table, fact.part, fact.name), fact.definition)).collect()
    };
    let (mut expected, mut found) = (by_key(expected), by_key(found));
    let table = |of: &Key| (of.0.clone(), Part::Table, String::new());
    // Others may have tables whose names begin with ours.
    found.retain(|key, _| expected.contains_key(&table(key)));
    let missing: Vec<Key> =
        expected.keys().filter(|key| key.1 == Part::Table && !found.contains_key(*key)).cloned().collect();
    // Of a table that is missing nothing else need be told.
    expected.retain(|key, _| key.1 == Part::Table || !missing.contains(&table(key)));
    found.retain(|key, _| !missing.contains(&table(key)));
    let mut keys: Vec<Key> = expected.keys().chain(found.keys()).cloned().collect();
    keys.sort();
    keys.dedup();
    let drifts = keys.into_iter().filter_map(|key| {
        let (expected, found) = (expected.remove(&key), found.remove(&key));
        (expected != found).then(|| drift(&key.0, key.1, &key.2, expected, found))
    });
    drifts.collect()
}

fn drift(table: &str, part: Part, name: &str, expected: Option<String>, found: Option<String>) -> Drift {
    let is_extra = expected.is_none();
    let found_in_capitals = found.as_deref().unwrap_or_default().to_uppercase();
    let is_serious = match part {
        Part::Settings | Part::Trigger => false,
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
        Part::Trigger => "It runs in the transactions of writers and relays",
        Part::Groups => {
            "Nothing is sent of a group without a row: insert what is missing, as in `cqrs outbox migrate --print`"
        }
    };
    let advice = advice.to_owned();
    Drift { object: part.called(table, name), expected, found, is_serious, advice }
}

/// Where the sequence of a table's ids stands.
#[derive(QueryableByName, Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    #[diesel(sql_type = Text)]
    pub(crate) of_table: String,
    /// The last id that it has given.
    #[diesel(sql_type = BigInt)]
    pub(crate) last: i64,
    /// The highest one of the rows that have their ids of it, wherever they stand now.
    #[diesel(sql_type = BigInt)]
    pub(crate) highest: i64,
}

/// A sequence that is going to give ids that are in use.
fn behind<B: Backend>(sequence: &Sequence) -> Option<Drift> {
    let Sequence { of_table, last, highest } = sequence;
    let advice = || {
        format!(
            "New events get ids that others have, so their keys lose their order, and on PostgreSQL writers fail where such a row \
             waits: `{}`",
            B::set_sequence(of_table, *highest)
        )
    };
    (highest > last).then(|| Drift {
        object: Part::Sequence.called(of_table, "id"),
        expected: Some(format!("at {highest} or above")),
        found: Some(format!("at {last}")),
        is_serious: true,
        advice: advice(),
    })
}

impl<B: Backend> Outbox<B> {
    /// What of the tables is not as a migration makes it: changed by hand, by another tool, or by a restore that left
    /// something out. Empty if all is as it should be.
    ///
    /// It changes nothing of the tables that are in use. What to expect it learns by running the migrations once more, on
    /// temporary tables (on SQLite in memory), which are gone when it returns. For that it needs the privilege `TEMPORARY` on
    /// PostgreSQL, which everyone has by default, and `CREATE TEMPORARY TABLES` on MariaDB and MySQL. Not for a server that
    /// is read-only.
    ///
    /// Not looked at are privileges, the server's own settings, and the rows but for those of `cqrs_outbox_group`, and for whether
    /// the sequences of ids stand behind those that are in use: `TRUNCATE .. RESTART IDENTITY` leaves them so, or the restore of
    /// some of the tables. Triggers on
    /// MariaDB and MySQL are seen by who has the privilege `TRIGGER`.
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
        match B::schema_version(&mut conn).await {
            Ok(None) => return Err(StoreError::new(StoreErrorKind::Schema, MIGRATE)),
            Ok(Some((version, _))) if version != SCHEMA_VERSION => {
                let what = format!(
                    "the outbox's tables are of version {version}, and this program can only tell how those of version \
                     {SCHEMA_VERSION} should be: run `cqrs outbox migrate`, or update this program"
                );
                return Err(StoreError::new(StoreErrorKind::Schema, what));
            }
            // What keeps it from being read is found below.
            Ok(Some(_)) | Err(_) => {}
        }
        let found = B::describe(&mut conn).await.map_err(store_error)?;
        // If it fails, a table or a column is not what it should be, and told.
        let sequences = B::sequences(&mut conn).await.unwrap_or_default();
        let expected = B::describe_fresh(&mut conn).await.map_err(|error| {
            if !is_denied(&error) {
                return store_error(error);
            }
            let what = format!(
                "the check makes the tables anew as temporary ones, and this user may not: {error}: grant it TEMPORARY on \
                 the database (PostgreSQL) or CREATE TEMPORARY TABLES (MariaDB, MySQL), or check as the user that migrates"
            );
            StoreError::new(StoreErrorKind::Configuration, what).with_source(error)
        })?;
        let mut drifts = compare(expected, found);
        drifts.extend(sequences.iter().filter_map(behind::<B>));
        Ok(drifts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
