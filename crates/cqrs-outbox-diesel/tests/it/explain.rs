//! What a statement of PostgreSQL's visits, from its plan.

use cqrs_core::Error;
use cqrs_outbox_diesel::{Outbox, Pg};
use diesel_async::SimpleAsyncConnection;
use serde_json::Value;
use uuid::Uuid;

use crate::backend::Db;
use crate::events::statements_with;

/// The last statement of this process with all of these in it, and its parameters, as diesel prints them; but for those that
/// a trial looks at, such as this one.
pub(crate) fn last_statement(parts: &[&str]) -> (String, String) {
    let recorded = statements_with(parts).into_iter().rfind(|one| {
        one.contains("-- binds:") && !one.starts_with("EXPLAIN") && !one.contains("PREPARE one AS")
    });
    let recorded = recorded.unwrap_or_else(|| panic!("no statement has {parts:?} in it"));
    let (text, binds) = recorded.split_once("-- binds:").unwrap();
    (text.trim().to_owned(), binds.trim().to_owned())
}

/// Numbers, lists of numbers and UUIDs.
pub(crate) fn parameters(binds: &str) -> Vec<Value> {
    let quoted = |part: &str| match part.trim_matches(['[', ']']) {
        uuid if Uuid::try_parse(uuid).is_ok() => part.replace(uuid, &format!("\"{uuid}\"")),
        _ => part.to_owned(),
    };
    let json = binds.split(", ").map(quoted).collect::<Vec<_>>().join(", ");
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {binds}"))
}

/// A value as a literal of SQL.
fn literal(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(Value::to_string).collect();
            format!("'{{{}}}'", items.join(","))
        }
        Value::String(text) => format!("'{text}'"),
        other => other.to_string(),
    }
}

/// A plan that was carried out, and rolled back.
#[derive(Debug)]
pub(crate) struct Plan(Value);

/// A part of a plan that looks into a table.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) table: String,
    pub(crate) index: Option<String>,
    /// Rows that it found, and those that it had to look at and leave out.
    pub(crate) rows: f64,
}

impl Plan {
    /// Of a statement with these parameters: as it is planned for them, or for any.
    pub(crate) async fn of(outbox: &Outbox<Pg>, generic: bool, text: &str, values: &[Value]) -> Self {
        let mode = if generic { "force_generic_plan" } else { "force_custom_plan" };
        let values = match &*values.iter().map(literal).collect::<Vec<_>>().join(", ") {
            "" => String::new(),
            values => format!("({values})"),
        };
        let mut plan = None;
        let rolled_back = outbox
            .transaction(async |tx| {
                // EXPLAIN has a column of another name, so it is asked for by a function.
                tx.batch_execute(&format!(
                    "SET LOCAL plan_cache_mode = {mode}; \
                     CREATE FUNCTION explained(statement text) RETURNS SETOF json LANGUAGE plpgsql AS \
                     $$ BEGIN RETURN QUERY EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ' || statement; END $$; \
                     PREPARE one AS {text}"
                ))
                .await?;
                let explain = format!("SELECT explained::text AS value FROM explained($$EXECUTE one{values}$$)");
                plan = Pg::values(tx, &explain).await?.pop();
                // It outlives the transaction; what the outbox has prepared on this connection stays.
                tx.batch_execute("DEALLOCATE one").await?;
                Err::<(), _>(Error::handler("rolled back"))
            })
            .await;
        let plan = plan.unwrap_or_else(|| panic!("{rolled_back:?}: {text}"));
        Self(serde_json::from_str::<Value>(&plan).unwrap()[0]["Plan"].take())
    }

    /// Pages that were looked at, once for each time.
    pub(crate) fn buffers(&self) -> u64 {
        let blocks = |name: &str| self.0[name].as_u64().unwrap_or(0);
        blocks("Shared Hit Blocks") + blocks("Shared Read Blocks")
    }

    pub(crate) fn visits(&self) -> Vec<Visit> {
        let mut visits = Vec::new();
        collect(&self.0, &mut visits);
        visits
    }
}

fn collect(node: &Value, visits: &mut Vec<Visit>) {
    let text = |name: &str| node[name].as_str().map(str::to_owned);
    let node_type = text("Node Type").unwrap_or_default();
    let looks = node_type.ends_with("Scan") && node_type != "Bitmap Index Scan";
    if let (Some(table), true) = (text("Relation Name"), looks) {
        let number = |name: &str| node[name].as_f64().unwrap_or(0.0);
        let each = number("Actual Rows")
            + number("Rows Removed by Filter")
            + number("Rows Removed by Index Recheck")
            + number("Rows Removed by Join Filter");
        // The index of a bitmap stands in the node below.
        let index = text("Index Name").or_else(|| node["Plans"][0]["Index Name"].as_str().map(str::to_owned));
        visits.push(Visit { table, index, rows: each * number("Actual Loops") });
    }
    node["Plans"].as_array().into_iter().flatten().for_each(|plan| collect(plan, visits));
}
