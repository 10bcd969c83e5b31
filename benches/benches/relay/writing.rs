//! What an event costs in the user's transaction, beside the bare INSERT of the same rows.

use std::time::Instant;

use cqrs::NotificationEvent;
use cqrs::outbox::table::{Dialect, OutboxRecord, Value, inserts};
use diesel::QueryResult;
use diesel::backend::{Backend, DieselReserveSpecialization};
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::serialize::ToSql;
use diesel::sql_types::{Binary, HasSqlType, Integer, Nullable, Text, Untyped};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use serde::Serialize;

use crate::databases::{Connected, Database, Site};
use crate::measure::Times;

const TIMES: usize = 2_000;

#[derive(Serialize, NotificationEvent)]
#[event(topic = "bench", key = key)]
struct Bench {
    key: String,
    text: String,
}

fn events(rows: usize) -> impl Iterator<Item = Bench> + Send {
    (0..rows).map(|nth| Bench { key: format!("key-{nth}"), text: "x".repeat(270) })
}

pub(crate) async fn measure(databases: &[Database]) {
    println!("{TIMES} transactions of each kind, in turns; microseconds without BEGIN and COMMIT, medians\n");
    println!("| database | events | `add_all` | bare INSERT | ratio |");
    println!("|---|---:|---:|---:|---:|");
    for database in databases {
        for rows in [1, 100] {
            let site = database.site().await;
            let (ours, bare) = write(&site, rows).await;
            let [ours, bare] = [ours, bare].map(|times| times.median().as_secs_f64() * 1e6);
            println!("| {} | {rows} | {ours:.0} | {bare:.0} | {:.2} |", database.name(), ours / bare);
        }
    }
}

macro_rules! in_turns {
    ($outbox:expr, $dialect:expr, $begin:expr, $rows:expr) => {{
        let (mut ours, mut bare) = (Times::default(), Times::default());
        let mut conn = $outbox.connection().await.unwrap();
        for nth in 0..TIMES {
            let records = events($rows).map(|event| OutboxRecord::new(event).unwrap());
            let bare_insert = BareInsert::new($dialect, records);
            conn.batch_execute($begin).await.unwrap();
            let began = Instant::now();
            bare_insert.execute(&mut *conn).await.unwrap();
            bare.push(began.elapsed());
            conn.batch_execute("COMMIT").await.unwrap();

            let events: Vec<Bench> = events($rows).collect();
            conn.batch_execute($begin).await.unwrap();
            let began = Instant::now();
            $outbox.add_all(&mut conn, events).await.unwrap();
            ours.push(began.elapsed());
            conn.batch_execute("COMMIT").await.unwrap();
            if nth % 200 == 199 {
                conn.batch_execute("DELETE FROM cqrs_outbox").await.unwrap();
            }
        }
        (ours, bare)
    }};
}

async fn write(site: &Site, rows: usize) -> (Times, Times) {
    match site.outbox() {
        Connected::Postgres(outbox) => in_turns!(outbox, Dialect::Postgres, "BEGIN", rows),
        Connected::MySql(outbox) => in_turns!(outbox, Dialect::MySql, "BEGIN", rows),
        Connected::Sqlite(outbox) => {
            in_turns!(outbox, Dialect::Sqlite, "BEGIN IMMEDIATE", rows)
        }
    }
}

/// The text that the outbox gives to other drivers. It stays prepared, as it does in a program that is meant to be fast.
struct BareInsert {
    /// Before each value, and behind the last.
    texts: Vec<String>,
    values: Vec<Value>,
}

impl BareInsert {
    fn new(dialect: Dialect, records: impl Iterator<Item = OutboxRecord>) -> Self {
        let insert = inserts(dialect, records).next().expect("some rows");
        let mut rest = &insert.sql[..];
        let mut texts = Vec::new();
        for nth in 1..=insert.values.len() {
            let place = if dialect == Dialect::Postgres { format!("${nth}") } else { "?".to_owned() };
            let (before, behind) = rest.split_once(&place).expect("a place");
            texts.push(before.to_owned());
            rest = behind;
        }
        texts.push(rest.to_owned());
        Self { texts, values: insert.values }
    }
}

impl<DB> QueryFragment<DB> for BareInsert
where
    DB: Backend + DieselReserveSpecialization + HasSqlType<Text> + HasSqlType<Binary> + HasSqlType<Integer>,
    String: ToSql<Text, DB>,
    Option<Vec<u8>>: ToSql<Nullable<Binary>, DB>,
    i32: ToSql<Integer, DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        for (text, value) in self.texts.iter().zip(&self.values) {
            out.push_sql(text);
            match value {
                Value::Text(text) => out.push_bind_param::<Text, _>(text)?,
                Value::Bytes(bytes) => out.push_bind_param::<Nullable<Binary>, _>(bytes)?,
                Value::Integer(number) => out.push_bind_param::<Integer, _>(number)?,
            }
        }
        out.push_sql(self.texts.last().expect("what follows the last value"));
        Ok(())
    }
}

impl QueryId for BareInsert {
    type QueryId = ();

    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for BareInsert {
    type SqlType = Untyped;
}
