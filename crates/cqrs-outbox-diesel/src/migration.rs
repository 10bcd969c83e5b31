//! The tables, as SQL that is embedded and can be printed.
//!
//! Not `diesel_migrations`, because its table of versions is the application's own: two sets of migrations in one table
//! would take each other for missing or unknown.

use std::fmt;

use cqrs_core::Result;
use cqrs_outbox::table::{Dialect, TableNames};

/// The version of the tables that this library writes.
pub(crate) const SCHEMA_VERSION: i32 = 1;

/// One step of the tables' history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The version of the tables after it.
    pub version: i32,
    /// The oldest version of this library's tables that a reader of them may expect.
    pub min_reader_version: i32,
    /// What it is about.
    pub name: &'static str,
    /// Whose SQL it is.
    pub dialect: Dialect,
    /// The statements, with the default names.
    pub sql: &'static str,
}

impl Migration {
    /// As [`Display`](fmt::Display) shows it, with other names.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](cqrs_core::ErrorKind::Configuration): this database cannot have such names.
    pub fn with_names(&self, names: &TableNames) -> Result<String> {
        names.check(self.dialect)?;
        Ok(names.sql(self.dialect, self.to_string()).into_owned())
    }
}

impl fmt::Display for Migration {
    /// The SQL, to be run by hand: in one transaction, it leaves what [`Outbox::migrate`](crate::Outbox::migrate) leaves.
    /// On MariaDB and MySQL each statement commits; what was interrupted is run once more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-- {} ({})\n{}", self.version, self.name, self.sql)
    }
}

/// What [`Outbox::migrate`](crate::Outbox::migrate) did to the tables.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Their version before; `None` if there were none.
    pub from: Option<i32>,
    /// Their version now.
    pub to: i32,
    /// Whether the row that says so was lost, and was written again. Whether relaying was on hold is lost with it: it is on hold now,
    /// unless nothing waits and no relay has ever been at work. [`Outbox::resume`](crate::Outbox::resume) ends that.
    pub restored: bool,
}

/// All of them for PostgreSQL, oldest first.
#[cfg(feature = "postgres")]
pub const POSTGRES: &[Migration] = &[Migration {
    version: 1,
    min_reader_version: 1,
    name: "outbox and inbox",
    dialect: Dialect::Postgres,
    sql: concat!(
        include_str!("../migrations/postgres/0001_outbox_and_inbox.sql"),
        "\n",
        include_str!("../migrations/postgres/0001_meta.sql"),
        "INSERT INTO cqrs_outbox_meta (schema_version, min_reader_version) VALUES (1, 1);\n"
    ),
}];

/// All of them for MariaDB and MySQL, oldest first.
#[cfg(feature = "mysql")]
pub const MYSQL: &[Migration] = &[Migration {
    version: 1,
    min_reader_version: 1,
    name: "outbox and inbox",
    dialect: Dialect::MySql,
    sql: concat!(
        include_str!("../migrations/mysql/0001_outbox_and_inbox.sql"),
        "\n",
        include_str!("../migrations/mysql/0001_meta.sql"),
        "INSERT IGNORE INTO cqrs_outbox_meta (only_row, schema_version, min_reader_version) VALUES (1, 1, 1);\n"
    ),
}];

/// All of them for SQLite, oldest first.
#[cfg(feature = "sqlite")]
pub const SQLITE: &[Migration] = &[Migration {
    version: 1,
    min_reader_version: 1,
    name: "outbox and inbox",
    dialect: Dialect::Sqlite,
    sql: concat!(
        include_str!("../migrations/sqlite/0001_outbox_and_inbox.sql"),
        "\n",
        include_str!("../migrations/sqlite/0001_meta.sql"),
        "INSERT INTO cqrs_outbox_meta (schema_version, min_reader_version) VALUES (1, 1);\n"
    ),
}];

/// Makes `cqrs_outbox_meta`, if it is not there, without its row. A statement of its own, for that table may be lost alone.
#[cfg(feature = "postgres")]
pub(crate) const POSTGRES_META: &str = include_str!("../migrations/postgres/0001_meta.sql");

/// The same on MariaDB and MySQL.
#[cfg(feature = "mysql")]
pub(crate) const MYSQL_META: &str = include_str!("../migrations/mysql/0001_meta.sql");

/// The same on SQLite.
#[cfg(feature = "sqlite")]
pub(crate) const SQLITE_META: &str = include_str!("../migrations/sqlite/0001_meta.sql");
