//! `cqrs outbox order-unit`

use clap::ValueEnum;
use cqrs::without_password;
use cqrs_outbox_diesel::OrderUnit;
use serde_json::json;

use crate::failure::Failure;
use crate::print;
use crate::target::PatientDatabaseArgs;

const AFTER: &str = "\
Without a unit it says which one it is. With `key`, as at first, an event that the broker refuses holds back all others of its key; with
`topic-and-key` only those of its key that go to the same topic, and between topics there is no order.

It can be changed while no relay is at work and nothing stands aside or is a dead letter. Events that wait to be sent do no harm.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// What is to be in order from now on
    #[arg(value_enum)]
    unit: Option<Unit>,

    #[command(flatten)]
    database: PatientDatabaseArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Unit {
    Key,
    // The other one is how `--json` and the tables write it.
    #[value(alias = "topic_and_key")]
    TopicAndKey,
}

impl From<Unit> for OrderUnit {
    fn from(unit: Unit) -> Self {
        match unit {
            Unit::Key => Self::Key,
            Unit::TopicAndKey => Self::TopicAndKey,
        }
    }
}

pub(crate) async fn run(args: Args, json: bool) -> Result<(), Failure> {
    let shown = without_password(&args.database.database.database);
    let database = args.database.open().await?;
    if let Some(unit) = args.unit {
        database.set_order_unit(unit.into()).await?;
    }
    let unit = database.order_unit().await?;
    print(&if json {
        json!({ "database": shown, "order_unit": unit.as_str() }).to_string()
    } else {
        format!("{shown}: {}", for_people(unit))
    })
}

/// What it comes to.
pub(crate) fn for_people(unit: OrderUnit) -> &'static str {
    match unit {
        OrderUnit::TopicAndKey => {
            "topic-and-key: events with the same key are in order on each topic, not between topics"
        }
        _ => "key: events with the same key are in order, whatever the topic",
    }
}
