//! `cqrs outbox check`

use cqrs::without_password;
use cqrs_outbox_diesel::Drift;
use serde_json::json;

use crate::failure::Failure;
use crate::print;
use crate::target::PatientDatabaseArgs;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    database: PatientDatabaseArgs,
}

pub(crate) async fn run(args: Args, json: bool) -> Result<(), Failure> {
    let shown = without_password(&args.database.database.database);
    let drifts = args.database.connect(false).await?.drift().await?;
    if json {
        let differences: Vec<_> = drifts.iter().map(as_json).collect();
        print(&json!({ "database": shown, "differences": differences }).to_string())?;
    } else if drifts.is_empty() {
        print(&format!("{shown}: the outbox's tables are as `cqrs outbox migrate` makes them"))?;
    } else {
        print(&shown)?;
        for drift in &drifts {
            print(&format!("\n  {}: {drift}", if drift.is_serious { "wrong" } else { "different" }))?;
        }
    }
    match drifts.iter().filter(|drift| drift.is_serious).count() {
        0 => Ok(()),
        serious => Err(Failure::tables(format!(
            "the outbox's tables are not as `cqrs outbox migrate` makes them: {serious} of {} differences are serious",
            drifts.len()
        ))),
    }
}

fn as_json(drift: &Drift) -> serde_json::Value {
    json!({
        "object": drift.object,
        "expected": drift.expected,
        "found": drift.found,
        "serious": drift.is_serious,
        "advice": drift.advice,
    })
}
