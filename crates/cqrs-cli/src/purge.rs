//! `cqrs outbox purge`

use cqrs::without_password;
use serde_json::json;

use crate::failure::Failure;
use crate::print;
use crate::settings::Span;
use crate::target::PatientDatabaseArgs;

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub(crate) struct Args {
    #[command(flatten)]
    database: PatientDatabaseArgs,

    /// What was sent longer ago than this, where it was kept
    #[arg(long, value_name = "TIME", group = "what")]
    sent_older_than: Option<Span>,
    /// What the inbox knows of messages that were handled longer ago than this: one that comes again after that has its
    /// effect again
    #[arg(long, value_name = "TIME", group = "what")]
    inbox_older_than: Option<Span>,
    /// What was asked for dead letters and done longer ago than this
    #[arg(long, value_name = "TIME", group = "what")]
    requests_older_than: Option<Span>,
    /// Deduplication keys whose window is over
    #[arg(long, group = "what")]
    expired_dedup: bool,
    /// So many with each transaction
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    chunk: u32,
}

pub(crate) async fn run(args: Args, json: bool) -> Result<(), Failure> {
    let shown = without_password(&args.database.database.database);
    let database = args.database.open().await?;
    let chunk = args.chunk as usize;
    let mut said = json!({ "database": shown });
    let mut lines = vec![shown];
    let mut say = |name: &str, what: &str, count: u64| {
        said[name] = count.into();
        lines.push(format!("  {what:<14} {count} removed"));
    };
    if let Some(Span(age)) = args.sent_older_than {
        say("sent", "sent", database.purge_sent(age, chunk).await?);
    }
    if let Some(Span(age)) = args.inbox_older_than {
        say("inbox", "inbox", database.purge_inbox(age, chunk).await?);
    }
    if let Some(Span(age)) = args.requests_older_than {
        say("requests", "requests", database.purge_requests(age, chunk).await?);
    }
    if args.expired_dedup {
        say("expired_dedup", "expired keys", database.purge_dedup(chunk).await?);
    }
    print(&if json { said.to_string() } else { lines.join("\n") })
}
