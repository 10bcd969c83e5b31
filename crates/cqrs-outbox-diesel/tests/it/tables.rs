//! The page about the tables says what a migration makes.

use std::collections::BTreeMap;

use crate::backend::{Db, PlainSql, Site};
use crate::harness::{OnEach, Test, tests};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        tests!(tables<D> { every_column_is_documented_as_it_is })
    }
}

const PAGE: &str = include_str!("../../TABLES.md");

/// By table and column: its type, and whether a writer gives it, where the page says that.
type Columns = BTreeMap<(String, String), (String, Option<String>)>;

/// What the page says of a database, whose types stand in this column of its tables.
fn documented(database: usize) -> Columns {
    let mut columns = Columns::new();
    for section in PAGE.split("\n# `").skip(1) {
        let (table, section) = section.split_once('`').unwrap();
        let writable = section.contains("| write |");
        if let Some((_, base)) =
            section.split_once("has the columns of\n`").or(section.split_once("has the columns of `"))
        {
            let (base, rest) = base.split_once('`').unwrap();
            let left_out = rest.strip_prefix(" but for `").and_then(|rest| rest.split_once('`'));
            let taken: Vec<_> = columns
                .iter()
                .filter(|((of, name), _)| of == base && left_out.is_none_or(|(left_out, _)| name != left_out))
                .map(|((_, name), (kind, _))| (name.clone(), kind.clone()))
                .collect();
            assert!(!taken.is_empty(), "{base}");
            columns.extend(taken.into_iter().map(|(name, kind)| ((table.to_owned(), name), (kind, None))));
        }
        for line in section.lines().filter(|line| line.starts_with("| `")) {
            // A cell of code may hold a bar, but none of these does.
            let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
            let (name, kind) = (cells[1], cells[database + 1]);
            if !kind.is_empty() {
                let write = writable.then(|| cells[5].to_owned());
                columns.insert((table.to_owned(), name.to_owned()), (kind.to_owned(), write));
            }
        }
    }
    columns
}

/// What is there: `table column type write`.
const POSTGRES: &str = "\
    SELECT concat_ws(' ', c.relname, a.attname, replace(format_type(atttypid, atttypmod), 'timestamp with time zone', 'timestamptz'), \
        CASE WHEN attgenerated <> '' THEN 'never' WHEN attnotnull AND NOT atthasdef AND attidentity = '' THEN 'must' ELSE 'may' END) AS value \
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped \
    WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'";

const MYSQL: &str = "\
    SELECT concat_ws(' ', table_name, column_name, column_type, \
        CASE WHEN coalesce(generation_expression, '') <> '' THEN 'never' \
            WHEN is_nullable = 'NO' AND column_default IS NULL AND extra NOT LIKE '%auto_increment%' THEN 'must' \
            ELSE 'may' END) AS value \
    FROM information_schema.columns WHERE table_schema = database()";

const SQLITE: &str = "\
    SELECT concat_ws(' ', t.name, c.name, c.type, \
        CASE WHEN hidden <> 0 THEN 'never' WHEN \"notnull\" AND dflt_value IS NULL THEN 'must' ELSE 'may' END) AS value \
    FROM sqlite_schema t JOIN pragma_table_xinfo(t.name) c WHERE t.type = 'table' AND t.name LIKE 'cqrs%'";

async fn every_column_is_documented_as_it_is<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let (query, database) = match D::NAME {
        "postgres" => (POSTGRES, 1),
        "mysql" => (MYSQL, 2),
        _ => (SQLITE, 3),
    };
    let mut documented = documented(database);
    assert!(documented.len() > 100, "{documented:?}");
    for column in outbox.values(query).await {
        let [table, name, kind, write] = column.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{column}")
        };
        // MariaDB has display widths, which mean nothing but for this one.
        let kind = match kind.split_once('(') {
            _ if kind == "tinyint(1)" => "boolean",
            Some((integer, _)) if integer.ends_with("int") => integer,
            _ => kind,
        };
        let said = documented.remove(&(table.to_owned(), name.to_owned()));
        let (said_kind, said_write) = said.unwrap_or_else(|| panic!("{table}.{name} is not documented"));
        assert_eq!(said_kind, kind, "{table}.{name}");
        assert!(said_write.is_none_or(|said| said == write), "{table}.{name} is {write}");
    }
    assert!(documented.is_empty(), "documented, and not there: {documented:?}");
}
