//! What the tables are like, in the words of `SHOW CREATE TABLE`.

use cqrs_outbox::table::TableNames;
use diesel::sql_types::Text;
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};

use super::MySql;
use super::sql::HIGHEST_ID;
use crate::drift::{Fact, FactRow, GROUPS, Part, Sequence, groups, statements};
use crate::error::is_denied;
use crate::migration::MYSQL;
use crate::on::On;
use crate::statements::{Exists, Number, Statements};

const TABLES: &str = "\
    SELECT table_name AS name FROM information_schema.tables \
    WHERE table_schema = database() AND table_type = 'BASE TABLE' \
        AND (table_name LIKE 'cqrs_outbox%' OR table_name LIKE 'cqrs_inbox%')";

const TRIGGERS: &str = "\
    SELECT event_object_table AS of_table, 'trigger' AS part, trigger_name AS name, \
        concat(action_timing, ' ', event_manipulation, ' FOR EACH ROW ', action_statement) AS definition \
    FROM information_schema.triggers WHERE event_object_schema = database()";

/// Without this privilege there seem to be no triggers.
const SEES_TRIGGERS: &str = "\
    SELECT EXISTS (SELECT 1 FROM information_schema.user_privileges WHERE privilege_type = 'TRIGGER') \
        OR EXISTS (SELECT 1 FROM information_schema.schema_privileges \
            WHERE privilege_type = 'TRIGGER' AND database() LIKE table_schema) \
        OR EXISTS (SELECT 1 FROM information_schema.table_privileges \
            WHERE privilege_type = 'TRIGGER' AND table_schema = database() AND table_name = 'cqrs_outbox') AS found";

const REFERENCES: &str = "\
    SELECT k.referenced_table_name AS of_table, 'reference' AS part, concat(k.table_name, '.', k.constraint_name) AS name, \
        concat('FOREIGN KEY (', group_concat(k.column_name ORDER BY k.ordinal_position SEPARATOR ', '), ') ON DELETE ', \
            r.delete_rule) AS definition \
    FROM information_schema.key_column_usage k JOIN information_schema.referential_constraints r \
        ON r.constraint_schema = k.constraint_schema AND r.constraint_name = k.constraint_name AND r.table_name = k.table_name \
    WHERE k.referenced_table_schema = database() \
        AND (k.referenced_table_name LIKE 'cqrs_outbox%' OR k.referenced_table_name LIKE 'cqrs_inbox%') \
    GROUP BY k.referenced_table_name, k.table_schema, k.table_name, k.constraint_name, r.delete_rule";

const CREATE: &str = "CREATE TABLE IF NOT EXISTS ";

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

#[derive(QueryableByName)]
struct Created {
    #[diesel(sql_type = Text, column_name = "Create Table")]
    sql: String,
}

/// A sequence is never behind the ids of its own table. `SHOW CREATE TABLE` says what it gives next, if that is not the first one;
/// the `information_schema` may say what it gave some time ago.
pub(super) async fn sequences(on: &mut On<'_, MySql>) -> QueryResult<Vec<Sequence>> {
    let highest: Number = on.query(HIGHEST_ID).get_result(on.conn).await?;
    let created: Created = on.query("SHOW CREATE TABLE cqrs_outbox").get_result(on.conn).await?;
    let options = created.sql.lines().find(|line| line.starts_with(')')).unwrap_or_default();
    let next = options.split(' ').find_map(|option| option.strip_prefix("AUTO_INCREMENT=")?.parse().ok());
    let last = Some(next.unwrap_or(1_i64) - 1);
    Ok(vec![Sequence { of_table: on.names.unqualified("cqrs_outbox"), last, highest: highest.value }])
}

pub(super) async fn describe(on: &mut On<'_, MySql>) -> QueryResult<Vec<Fact>> {
    let tables: Vec<Name> = on.query(TABLES).load(on.conn).await?;
    let tables: Vec<String> = tables.into_iter().map(|table| table.name).collect();
    let mut facts = Vec::new();
    for table in created(on.names).filter(|table| !tables.contains(table)) {
        // One that this user has no privileges on seems to be missing.
        let name = on.names.qualified(MySql::SQL, &table);
        let select = sql_query(format!("SELECT 1 FROM {name} WHERE 1 = 0")).execute(on.conn).await;
        if select.is_err_and(|error| is_denied(&error)) {
            facts.push(Fact::unseen(&table, Part::Table));
        }
    }
    facts.extend(describe_tables(on, tables.into_iter()).await?);
    for parts in [TRIGGERS, REFERENCES] {
        let rows: Vec<FactRow> = on.query(parts).load(on.conn).await?;
        facts.extend(rows.into_iter().map(Fact::from));
    }
    if !on.query(SEES_TRIGGERS).get_result::<Exists>(on.conn).await?.found {
        facts.push(Fact::unseen(&on.names.unqualified("cqrs_outbox"), Part::Trigger));
    }
    Ok(facts)
}

/// The names of the tables that the migrations make.
fn created(names: &TableNames) -> impl Iterator<Item = String> {
    let all = MYSQL.iter().flat_map(|migration| statements(migration.sql));
    all.filter_map(|statement| Some(names.unqualified(statement.strip_prefix(CREATE)?.split(' ').next()?)))
}

/// On temporary tables of the same names, which on this connection hide the others until it is closed.
pub(super) async fn describe_fresh(on: &mut On<'_, MySql>) -> QueryResult<Vec<Fact>> {
    let all: Vec<String> = MYSQL.iter().flat_map(|migration| statements(migration.sql)).collect();
    let (creates, others): (Vec<_>, Vec<_>) = all.iter().partition(|statement| statement.starts_with(CREATE));
    // All tables first: nothing is to be written to one that is not temporary.
    for create in &creates {
        let sql = on.sql(create.replacen(CREATE, "CREATE TEMPORARY TABLE ", 1));
        on.conn.batch_execute(&sql).await?;
    }
    for other in others {
        let sql = on.sql(other.clone());
        on.conn.batch_execute(&sql).await?;
    }
    describe_tables(on, created(on.names)).await
}

async fn describe_tables(
    on: &mut On<'_, MySql>,
    tables: impl Iterator<Item = String>,
) -> QueryResult<Vec<Fact>> {
    let mut facts = Vec::new();
    for table in tables {
        let name = on.names.qualified(MySql::SQL, &table);
        let created = sql_query(format!("SHOW CREATE TABLE {name}")).get_result::<Created>(on.conn).await;
        match created {
            Ok(created) => facts.extend(parts(&table, &created.sql)),
            Err(error) if is_denied(&error) => facts.push(Fact::unseen(&table, Part::Table)),
            Err(error) => return Err(error),
        }
    }
    facts.extend(groups(on.names, on.query(GROUPS).load(on.conn).await));
    Ok(facts)
}

/// A line is a part. The last lines say what the table as a whole is like.
fn parts(table: &str, sql: &str) -> Vec<Fact> {
    let mut lines = sql.lines().skip(1).map(str::trim);
    let mut facts = Vec::new();
    for line in lines.by_ref() {
        if let Some(options) = line.strip_prefix(')') {
            // The next id is no part of what the table is like.
            let options = options.split(' ').filter(|option| !option.starts_with("AUTO_INCREMENT="));
            facts.push(Fact::new(table, Part::Table, "", options.collect::<Vec<_>>().join(" ").trim()));
            break;
        }
        let line = line.strip_suffix(',').unwrap_or(line);
        let name = line.split('`').nth(1).unwrap_or_default();
        facts.push(if line.starts_with('`') {
            Fact::new(table, Part::Column, name, line[name.len() + 2..].trim())
        } else if line.starts_with("CONSTRAINT") || line.starts_with("CHECK") {
            Fact::new(table, Part::Constraint, name, line)
        } else if line.starts_with("PRIMARY KEY") {
            Fact::new(table, Part::Index, "PRIMARY", line)
        } else {
            Fact::new(table, Part::Index, name, line)
        });
    }
    if let (Some(whole), rest @ [_, ..]) = (facts.last_mut(), &*lines.collect::<Vec<_>>()) {
        let definition = whole.definition.take().unwrap_or_default();
        whole.definition = Some(format!("{definition} {}", rest.join(" ")));
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_part() {
        let sql = "CREATE TABLE `t` (\n  `id` bigint(20) NOT NULL AUTO_INCREMENT,\n  `a b` text DEFAULT NULL,\n  \
            PRIMARY KEY (`id`),\n  KEY `k` (`id`),\n  CONSTRAINT `c` CHECK (`id` > 0)\n) ENGINE=InnoDB \
            AUTO_INCREMENT=7 DEFAULT CHARSET=utf8mb4\n/*!50100 PARTITION BY HASH (`id`) */";
        let wanted = [
            (Part::Column, "id", "bigint(20) NOT NULL AUTO_INCREMENT"),
            (Part::Column, "a b", "text DEFAULT NULL"),
            (Part::Index, "PRIMARY", "PRIMARY KEY (`id`)"),
            (Part::Index, "k", "KEY `k` (`id`)"),
            (Part::Constraint, "c", "CONSTRAINT `c` CHECK (`id` > 0)"),
            (Part::Table, "", "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 /*!50100 PARTITION BY HASH (`id`) */"),
        ];
        let wanted = wanted.map(|(part, name, definition)| Fact::new("t", part, name, definition));
        assert_eq!(parts("t", sql), wanted);
    }
}
