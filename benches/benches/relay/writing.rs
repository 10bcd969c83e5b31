//! What an event costs in the user's transaction, beside the bare INSERT of the same rows.

use std::time::Instant;

use cqrs::NotificationEvent;
use cqrs::outbox::table::{Dialect, OutboxRecord, Value, inserts};
use diesel::sql_query;
use diesel::sql_types::{Binary, Integer, Nullable, Text};
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
    ($outbox:expr, $backend:ty, $dialect:expr, $begin:expr, $rows:expr) => {{
        let (mut ours, mut bare) = (Times::default(), Times::default());
        let mut conn = $outbox.connection().await.unwrap();
        for nth in 0..TIMES {
            let records = events($rows).map(|event| OutboxRecord::new(event).unwrap());
            let insert = inserts($dialect, records).next().expect("some rows");
            conn.batch_execute($begin).await.unwrap();
            let began = Instant::now();
            let query = sql_query(insert.sql).into_boxed::<$backend>();
            let query = insert.values.into_iter().fold(query, |query, value| match value {
                Value::Text(text) => query.bind::<Text, _>(text),
                Value::Bytes(bytes) => query.bind::<Nullable<Binary>, _>(bytes),
                Value::Integer(number) => query.bind::<Integer, _>(number),
            });
            query.execute(&mut *conn).await.unwrap();
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
        Connected::Postgres(outbox) => in_turns!(outbox, diesel::pg::Pg, Dialect::Postgres, "BEGIN", rows),
        Connected::MySql(outbox) => in_turns!(outbox, diesel::mysql::Mysql, Dialect::MySql, "BEGIN", rows),
        Connected::Sqlite(outbox) => {
            in_turns!(outbox, diesel::sqlite::Sqlite, Dialect::Sqlite, "BEGIN IMMEDIATE", rows)
        }
    }
}
