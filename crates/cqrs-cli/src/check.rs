//! `cqrs outbox check`

use cqrs::without_password;
use cqrs_outbox_diesel::{Drift, DriftKind};
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
            let word = match drift.kind {
                DriftKind::Unseen => "not seen",
                _ if drift.is_serious => "wrong",
                _ => "different",
            };
            print(&format!("\n  {word}: {drift}"))?;
        }
    }
    let serious = drifts.iter().filter(|drift| drift.is_serious).count();
    let unseen = drifts.iter().filter(|drift| drift.kind == DriftKind::Unseen).count();
    match (serious, unseen) {
        (0, 0) => Ok(()),
        (0, _) => Err(Failure::usage(format!(
            "this user may not look at everything ({unseen} parts): check as the user that migrates"
        ))),
        (serious, _) => Err(Failure::tables(format!(
            "the outbox's tables are not as `cqrs outbox migrate` makes them: {serious} of {} differences are serious",
            drifts.len() - unseen
        ))),
    }
}

fn as_json(drift: &Drift) -> serde_json::Value {
    json!({
        "kind": drift.kind.as_str(),
        "object": drift.object,
        "expected": drift.expected,
        "found": drift.found,
        "serious": drift.is_serious,
        "advice": drift.advice,
    })
}
