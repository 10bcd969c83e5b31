//! What the tables are like, in the words of their CREATE statements, which is all that SQLite keeps.

use cqrs_outbox::OrderUnit;
use cqrs_outbox::table::TableNames;
use diesel::sql_types::Text;
use diesel::{QueryResult, QueryableByName, SqliteConnection};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncConnection, RunQueryDsl, SimpleAsyncConnection};

use super::Sqlite;
use crate::drift::{Fact, FactRow, GROUPS, Part, Sequence, groups};
use crate::migration::SQLITE;
use crate::new_rows::BatchSizes;
use crate::on::On;

const OBJECTS: &str = "\
    SELECT type AS kind, tbl_name AS of_table, name, sql FROM sqlite_schema \
    WHERE (tbl_name LIKE 'cqrs_outbox%' OR tbl_name LIKE 'cqrs_inbox%') AND sql IS NOT NULL";

/// Foreign keys have no names here.
const REFERENCES: &str = "\
    SELECT lower(f.\"table\") AS of_table, 'reference' AS part, m.name || '.' || group_concat(f.\"from\") AS name, \
        'FOREIGN KEY (' || group_concat(f.\"from\", ', ') || ') ON DELETE ' || f.on_delete AS definition \
    FROM sqlite_schema m JOIN pragma_foreign_key_list(m.name) f \
    WHERE m.type = 'table' AND (lower(f.\"table\") LIKE 'cqrs_outbox%' OR lower(f.\"table\") LIKE 'cqrs_inbox%') \
    GROUP BY m.name, f.id";

/// A sequence is never behind the ids of its own table.
const SEQUENCES: &str = "\
    SELECT 'cqrs_outbox' AS of_table, \
        max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'cqrs_outbox'), 0), \
            coalesce((SELECT max(id) FROM cqrs_outbox), 0)) AS last, \
        max(coalesce((SELECT max(id) FROM cqrs_outbox_parked), 0), coalesce((SELECT max(id) FROM cqrs_outbox_dead), 0), \
            coalesce((SELECT max(id) FROM cqrs_outbox_sent), 0)) AS highest";

#[derive(QueryableByName)]
struct Object {
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    of_table: String,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    sql: String,
}

type Connection = SyncConnectionWrapper<SqliteConnection>;

pub(super) async fn describe(on: &mut On<'_, Sqlite>) -> QueryResult<Vec<Fact>> {
    let objects: Vec<Object> = on.query(OBJECTS).load(on.conn).await?;
    let mut facts = Vec::new();
    for object in objects {
        let tokens = tokens(&object.sql);
        match &*object.kind {
            "index" => facts.push(Fact::new(&object.of_table, Part::Index, &object.name, joined(&tokens))),
            "trigger" => facts.push(Fact::new(&object.of_table, Part::Trigger, &object.name, object.sql)),
            "table" => facts.extend(parts(&object.of_table, &tokens)),
            _ => {}
        }
    }
    let references: Vec<FactRow> = on.query(REFERENCES).load(on.conn).await?;
    facts.extend(references.into_iter().map(Fact::from));
    facts.extend(groups(on.names, on.query(GROUPS).load(on.conn).await));
    Ok(facts)
}

pub(super) async fn sequences(on: &mut On<'_, Sqlite>) -> QueryResult<Vec<Sequence>> {
    on.query(SEQUENCES).load(on.conn).await
}

/// In memory.
pub(super) async fn describe_fresh(names: &TableNames) -> QueryResult<Vec<Fact>> {
    let failed = |error| diesel::result::Error::QueryBuilderError(Box::new(error));
    let mut memory = Connection::establish(":memory:").await.map_err(failed)?;
    let sizes = BatchSizes::default();
    let on = &mut On::<Sqlite>::new(&mut memory, names, OrderUnit::default(), &sizes);
    for migration in SQLITE {
        let sql = on.sql(migration.sql);
        on.conn.batch_execute(&sql).await?;
    }
    describe(on).await
}

/// What lies between the outer parentheses is a list of columns and constraints; what comes behind, of the whole.
fn parts(table: &str, tokens: &[String]) -> Vec<Fact> {
    let mut facts = Vec::new();
    let (mut depth, mut part) = (0, Vec::new());
    for token in tokens {
        match &**token {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => {}
        }
        let ends = (token == "," && depth == 1) || (token == ")" && depth == 0);
        let begins = token == "(" && depth == 1;
        if begins {
            part.clear();
        } else if ends {
            facts.push(fact(table, &std::mem::take(&mut part)));
        } else {
            part.push(token.clone());
        }
    }
    let whole = [vec!["table".to_owned()], part].concat();
    facts.push(Fact::new(table, Part::Table, "", joined(&whole)));
    facts
}

fn fact(table: &str, part: &[String]) -> Fact {
    let definition = joined(part);
    match part {
        [first, name, ..] if first == "constraint" => Fact::new(table, Part::Constraint, name, definition),
        [first, ..] if ["primary", "unique", "check", "foreign"].contains(&&**first) => {
            Fact::new(table, Part::Constraint, &definition, definition.clone())
        }
        [name, rest @ ..] => Fact::new(table, Part::Column, name, joined(rest)),
        [] => Fact::new(table, Part::Column, "", definition),
    }
}

/// Without comments, blanks, quotes of names and capitals, which tools write as they please.
fn tokens(sql: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = sql.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("--") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else {
            match first {
                '\'' | '"' | '`' => rest[1..].find(first).map_or(rest.len(), |end| end + 2),
                '[' => rest.find(']').map_or(rest.len(), |end| end + 1),
                _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                _ if is_operator(first) => rest.find(|c| !is_operator(c)).unwrap_or(rest.len()),
                _ => first.len_utf8(),
            }
        };
        let (token, behind) = rest.split_at(length);
        match first {
            '\'' => tokens.push(token.to_owned()),
            '"' | '`' | '[' => tokens.push(token[1..token.len().max(2) - 1].to_lowercase()),
            _ if token.starts_with("--") || token.starts_with("/*") => {}
            _ => tokens.push(token.to_lowercase()),
        }
        rest = behind.trim_start();
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '.'
}

fn is_operator(c: char) -> bool {
    "<>=!|&".contains(c)
}

fn joined(tokens: &[String]) -> String {
    let mut text = String::new();
    for token in tokens {
        if !(text.is_empty() || text.ends_with('(') || [")", ","].contains(&&**token)) {
            text.push(' ');
        }
        text.push_str(token);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_and_constraints_are_parts_however_they_are_written() {
        let wanted = [
            (Part::Column, "id", "integer primary key"),
            (Part::Column, "a b", "text default (lower ('X, (Y')) check (a b <> '')"),
            (Part::Constraint, "c", "constraint c check (id > 0)"),
            (Part::Constraint, "unique (id)", "unique (id)"),
            (Part::Table, "", "table without rowid"),
        ];
        let wanted = wanted.map(|(part, name, definition)| Fact::new("t", part, name, definition));
        for sql in [
            "CREATE TABLE t (id INTEGER PRIMARY KEY, -- ours, (or not\n \"a b\" TEXT DEFAULT (lower('X, (Y')) \
             CHECK (\"a b\" <> ''), CONSTRAINT c CHECK (id>0), UNIQUE (id)) WITHOUT ROWID",
            "create table \"t\"(\n`id` integer primary key,[a b] text default(LOWER('X, (Y'))check(`a b`<>'')\n/* , */,\
             constraint \"c\" check(\"id\" > 0), unique(id) ) without rowid",
        ] {
            assert_eq!(parts("t", &tokens(sql)), wanted, "{sql}");
        }
    }
}
