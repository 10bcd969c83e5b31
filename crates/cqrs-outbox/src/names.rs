use std::borrow::Cow;
use std::fmt;

use cqrs_core::{Error, ErrorKind, Result};

use crate::table::Dialect;

/// How the tables of an outbox and its inbox are called, and where they are. By default `cqrs_outbox`, `cqrs_outbox_gate` ..,
/// `cqrs_inbox`, where the connection looks first.
///
/// Other names let services share a database, each with an outbox of its own: neither sees, wakes or waits for the other.
///
/// ```
/// use cqrs_outbox::table::TableNames;
///
/// // `events.orders_outbox`, `events.orders_outbox_gate` .., `events.orders_inbox`
/// let names = TableNames::new().prefix("orders_").schema("events");
/// ```
///
/// All that use the tables need the same names: who writes, who relays, and the program `cqrs` (`--table-prefix`, `--schema`).
/// Nothing here renames tables that are there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[must_use = "names do nothing until they are given to a builder"]
pub struct TableNames {
    prefix: Cow<'static, str>,
    schema: Option<String>,
}

/// What all names begin with in the text of statements.
const PREFIX: &str = "cqrs_";

/// The others that begin like these are names of indexes and constraints.
const TABLES: [&str; 14] = [
    "cqrs_outbox",
    "cqrs_outbox_parked",
    "cqrs_outbox_scheduled",
    "cqrs_outbox_dead",
    "cqrs_outbox_sent",
    "cqrs_outbox_gate",
    "cqrs_outbox_group",
    "cqrs_outbox_relay",
    "cqrs_outbox_dedup",
    "cqrs_outbox_version",
    "cqrs_outbox_request",
    "cqrs_outbox_run",
    "cqrs_outbox_meta",
    "cqrs_inbox",
];

/// The longest name that PostgreSQL takes, in bytes; MariaDB and MySQL take one more.
const LONGEST_NAME: usize = 63;

/// The longest of what may follow the prefix: a constraint that PostgreSQL names after a table and its column.
const LONGEST_REST: usize = "outbox_scheduled_waiting_since_not_null".len();

const LONGEST_PREFIX: usize = LONGEST_NAME - LONGEST_REST;

impl Default for TableNames {
    fn default() -> Self {
        Self { prefix: Cow::Borrowed(PREFIX), schema: None }
    }
}

impl TableNames {
    /// The default names.
    pub fn new() -> Self {
        Self::default()
    }

    /// What all names begin with, those of indexes and constraints too, in place of `cqrs_`: lower-case letters, digits and `_`,
    /// 24 at most, and not a digit first. None at all makes `outbox` and `inbox`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Cow::Owned(prefix.into());
        self
    }

    /// Where the tables are: a schema of PostgreSQL; on MariaDB and MySQL another database of the server. It has to be there before
    /// the tables are made (`CREATE SCHEMA events`); what the connection looks at first does not matter then. Not for SQLite.
    ///
    /// Letters, digits, `_` and `-`, in capitals or not as it was created. Default: where the connection looks first.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = Some(schema.into());
        self
    }

    /// Whether this database can have such names.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`], which names what cannot be.
    pub fn check(&self, dialect: Dialect) -> Result<()> {
        let prefix = &*self.prefix;
        let wrong = |what: String| Err(Error::new(ErrorKind::Configuration, what));
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !prefix.chars().all(is_plain) || prefix.starts_with(|first: char| first.is_ascii_digit()) {
            return wrong(format!(
                "`{prefix}` cannot be the prefix of the outbox's tables: it is lower-case letters, digits and `_`, and not a digit first"
            ));
        }
        if prefix.len() > LONGEST_PREFIX {
            return wrong(format!(
                "`{prefix}` cannot be the prefix of the outbox's tables: it has {} bytes, and {LONGEST_PREFIX} leave room for the longest \
                 name that begins with it",
                prefix.len()
            ));
        }
        if prefix.starts_with("sqlite_") {
            return wrong(format!(
                "`{prefix}` cannot be the prefix of the outbox's tables: SQLite keeps names that begin with `sqlite_` for itself"
            ));
        }
        let Some(schema) = &self.schema else { return Ok(()) };
        let longest = match dialect {
            Dialect::Postgres => LONGEST_NAME,
            Dialect::MySql => LONGEST_NAME + 1,
            Dialect::Sqlite => {
                return wrong(format!(
                    "`{schema}` cannot be the schema of the outbox's tables: SQLite has attached files instead, and a transaction over two \
                     files is not atomic. Give the outbox a prefix"
                ));
            }
        };
        let is_word = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        if schema.is_empty() || !schema.chars().all(is_word) || schema.len() > longest {
            return wrong(format!(
                "`{schema}` cannot be the schema of the outbox's tables: it is 1 to {longest} letters, digits, `_` and `-`"
            ));
        }
        Ok(())
    }

    /// Statements that are written with the default names, with these: for SQL of your own about the tables. With the default names
    /// they come back as they are.
    ///
    /// A table gets its schema; what belongs to one (an index, a constraint) has none, and neither has a name in quotes, which is a
    /// value, unless it is a `regclass`. On MariaDB and MySQL `database()` becomes the schema, too. What of a text is data nobody can
    /// tell: bind it. Nor is it [checked](Self::check) whether there can be such names.
    pub fn sql(&self, dialect: Dialect, text: impl Into<Cow<'static, str>>) -> Cow<'static, str> {
        let text = text.into();
        if *self == Self::default() { text } else { Cow::Owned(self.put_into(dialect, &text)) }
    }

    fn put_into(&self, dialect: Dialect, text: &str) -> String {
        let mut sql = String::with_capacity(text.len() + text.len() / 4);
        let mut done = 0;
        for (at, _) in text.match_indices(PREFIX) {
            let (before, from) = text.split_at(at);
            let name = &from[..from.find(|c: char| !is_of_name(c)).unwrap_or(from.len())];
            if before.ends_with(is_of_name) || !is_ours(name) {
                continue;
            }
            sql.push_str(&text[done..at]);
            done = at + name.len();
            let is_regclass = before.ends_with("regclass('") || text[done..].starts_with("'::regclass");
            let is_value = before.ends_with(['\'', '"', '`', '.']) && !is_regclass;
            let renamed = self.unqualified(name);
            let is_table = TABLES.contains(&name) && !is_value;
            sql.push_str(&if is_table { self.qualified(dialect, &renamed) } else { renamed });
        }
        sql.push_str(&text[done..]);
        match (dialect, &self.schema) {
            (Dialect::MySql, Some(schema)) => sql.replace("database()", &format!("'{schema}'")),
            _ => sql,
        }
    }

    /// The name of a table, or of what belongs to one, in no schema, by its default name: `orders_outbox_gate` for
    /// `cqrs_outbox_gate`.
    pub fn unqualified(&self, name: &str) -> String {
        format!("{}{}", self.prefix, name.strip_prefix(PREFIX).unwrap_or(name))
    }

    /// Such a name as a statement has that of a table: with the schema, if there is one.
    pub fn qualified(&self, dialect: Dialect, unqualified: &str) -> String {
        let quote = if dialect == Dialect::MySql { '`' } else { '"' };
        match &self.schema {
            Some(schema) => format!("{quote}{schema}{quote}.{unqualified}"),
            None => unqualified.to_owned(),
        }
    }

    /// The same names in no schema.
    pub fn without_schema(&self) -> Self {
        Self { prefix: self.prefix.clone(), schema: None }
    }
}

impl fmt::Display for TableNames {
    /// The name of the hot table: `events.orders_outbox`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{schema}.")?;
        }
        write!(f, "{}outbox", self.prefix)
    }
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// `cqrs_outbox`, `cqrs_inbox`, and what is named after them.
fn is_ours(name: &str) -> bool {
    let rest = name.strip_prefix("cqrs_outbox").or_else(|| name.strip_prefix("cqrs_inbox"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_names_leave_a_text_as_it_is() {
        for names in [TableNames::new(), TableNames::new().prefix("cqrs_")] {
            assert!(matches!(names.sql(Dialect::Postgres, "DELETE FROM cqrs_outbox"), Cow::Borrowed(_)));
        }
    }

    #[test]
    fn tables_have_a_schema_and_what_belongs_to_them_has_not() {
        let names = TableNames::new().prefix("orders_").schema("events");
        for (text, wanted) in [
            ("DELETE FROM cqrs_outbox o", r#"DELETE FROM "events".orders_outbox o"#),
            ("cqrs_outbox_gate.until", r#""events".orders_outbox_gate.until"#),
            (
                "CREATE INDEX cqrs_outbox_read ON cqrs_outbox (id)",
                r#"CREATE INDEX orders_outbox_read ON "events".orders_outbox (id)"#,
            ),
            ("CONSTRAINT cqrs_inbox_x, cqrs_inbox", r#"CONSTRAINT orders_inbox_x, "events".orders_inbox"#),
            (
                "relname = 'cqrs_outbox' OR relname LIKE 'cqrs_inbox%'",
                "relname = 'orders_outbox' OR relname LIKE 'orders_inbox%'",
            ),
            ("to_regclass('cqrs_outbox_meta')", r#"to_regclass('"events".orders_outbox_meta')"#),
            ("'cqrs_outbox'::regclass", r#"'"events".orders_outbox'::regclass"#),
            ("'%I.cqrs_outbox_meta' `cqrs_outbox`", "'%I.orders_outbox_meta' `orders_outbox`"),
            (
                "SAVEPOINT cqrs_tx; xcqrs_outbox, cqrs_outboxes",
                "SAVEPOINT cqrs_tx; xcqrs_outbox, cqrs_outboxes",
            ),
        ] {
            assert_eq!(names.sql(Dialect::Postgres, text), wanted);
        }
        let text = "SELECT 1 FROM cqrs_outbox WHERE database() = 1";
        assert_eq!(
            names.sql(Dialect::MySql, text),
            "SELECT 1 FROM `events`.orders_outbox WHERE 'events' = 1"
        );
        let names = TableNames::new().prefix("");
        assert_eq!(names.sql(Dialect::MySql, text), "SELECT 1 FROM outbox WHERE database() = 1");
        assert_eq!(names.to_string(), "outbox");
    }

    #[test]
    fn what_cannot_be_is_told_by_name() {
        use Dialect::{MySql, Postgres, Sqlite};
        let prefix = |prefix: &str| TableNames::new().prefix(prefix);
        let schema = |schema: &str| TableNames::new().schema(schema);
        for (names, dialect, part) in [
            (prefix("Orders_"), Postgres, "`Orders_`"),
            (prefix("1_"), MySql, "`1_`"),
            (prefix("a b"), Sqlite, "`a b`"),
            (prefix("o'_"), Sqlite, "`o'_`"),
            (prefix("ö"), Sqlite, "`ö`"),
            (prefix("sqlite_"), Postgres, "`sqlite_`"),
            (prefix(&"p".repeat(25)), MySql, "has 25 bytes, and 24 leave room"),
            (schema(""), Postgres, "``"),
            (schema("a.b"), Postgres, "`a.b`"),
            (schema("a\"b"), MySql, "`a\"b`"),
            (schema("a$1"), Postgres, "`a$1`"),
            (schema(&"s".repeat(64)), Postgres, "1 to 63"),
            (schema(&"s".repeat(65)), MySql, "1 to 64"),
            (schema("main"), Sqlite, "SQLite has attached files"),
        ] {
            let error = names.check(dialect).expect_err("it was taken");
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
        for (names, dialect) in [
            (prefix(""), Sqlite),
            (prefix("_"), Postgres),
            (prefix(&"p".repeat(24)), Postgres),
            (schema(&"s".repeat(63)), Postgres),
            (schema("My-Shop_1"), MySql),
            (TableNames::new(), Sqlite),
        ] {
            assert!(names.check(dialect).is_ok(), "{names}");
        }
    }
}
