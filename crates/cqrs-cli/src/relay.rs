//! `cqrs relay`

use std::sync::Arc;
use std::time::Duration;

use cqrs::app::connect_broker;
use cqrs::outbox::{OutboxRelay, RelaySettings, RelayStats, Relays, Retention};
use cqrs::without_password;
use futures_util::future::join_all;
use serde_json::json;

use crate::database::{self, Connecting};
use crate::failure::Failure;
use crate::settings::{RetentionArgs, SettingsArgs, Span};
use crate::target::{NamedDatabase, NamedDatabases};
use crate::{counted, print};

const EXAMPLES: &str = "\
It says `ready` on standard output when it is at work, and what it has done in the end. SIGTERM or SIGINT tells it to
stop: what is with the broker is finished, and another relay goes on at once. A second one ends it where it stands;
nothing is lost then either, but what was in flight is sent again. While the database or the broker is away, it waits
and says so on standard error. Start as many of them as you like, on as many hosts: they share the work.

With several databases each has a relay of its own here, with its own connections and its own memory (--connections,
--max-rows and --max-bytes are for each), and all share the client of the broker. One that cannot go on, for want of
its tables say, is told and tried again, and the others go on; the program ends when none is left that does. With
--until-empty the others come to their end, and the exit code is of the first one that did not.

  cqrs relay --database postgres://app:secret@db/orders --broker kafka://broker:9092
  cqrs relay --database sqlite://orders.sqlite --broker amqp://guest:guest@localhost --until-empty
  cqrs relay --database orders=postgres://.. --database billing=mysql://.. --broker kafka://broker:9092";

/// The arguments of `cqrs relay`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    databases: NamedDatabases,

    /// The broker: kafka://host:port,..?option=value with librdkafka's options, or
    /// amqp://user:password@host:port/vhost?option=value with heartbeat, confirm_timeout_ms, max_message_bytes,
    /// quorum_queues=true, or topology=FILE: exchanges and queues as JSON, where others have declared them in their way
    #[arg(long, value_name = "URL", env = "CQRS_BROKER_URL", hide_env_values = true)]
    broker: String,

    /// The name by which people know this relay
    #[arg(long, env = "CQRS_RELAY_NAME", default_value_t = default_name())]
    name: String,

    /// Ends when nothing waits any more but what waits for a time or for you: scheduled events, and those that stand aside
    /// behind one that was refused
    #[arg(long)]
    until_empty: bool,

    /// How many connections to each database there are at most; on MySQL the relay has seven of its own instead
    #[arg(long, value_name = "COUNT", env = "CQRS_RELAY_CONNECTIONS", default_value_t = 8,
        value_parser = clap::value_parser!(u32).range(2..))]
    connections: u32,

    /// Listens for the notifications of writers, who ask for them too: an event is found at once, and not with the next
    /// poll. PostgreSQL only; of several databases, for those that are
    #[arg(long, env = "CQRS_RELAY_NOTIFICATIONS", value_parser = clap::builder::BoolishValueParser::new())]
    notifications: bool,

    /// How long Kafka's client waits for more events to send at once (`linger.ms`); 0 unless the broker's URL says
    /// otherwise
    #[arg(long, value_name = "TIME", env = "CQRS_RELAY_LINGER")]
    linger: Option<Span>,

    #[command(flatten)]
    retention: RetentionArgs,

    #[command(flatten)]
    settings: SettingsArgs,
}

fn default_name() -> String {
    format!("{}:{}", gethostname::gethostname().to_string_lossy(), std::process::id())
}

pub(crate) async fn run(args: Args, json: bool) -> Result<(), Failure> {
    let mut stop = Signals::listen()?;
    let settings = RelaySettings::from(&args.settings);
    // Wrong settings are told before anything is waited for.
    settings.validate()?;
    let retention = args.retention.retention();
    validate(&retention)?;
    let databases = args.databases.parse()?;
    let broker = connect_broker(&broker_url(&args, &settings)?)?;
    let any_notifies = databases.iter().any(|database| database::notifies(&database.url));
    let mut relays = Vec::new();
    for NamedDatabase { name, url, installation_id, .. } in &databases {
        let how = Connecting {
            connections: args.connections as usize,
            // Where none can, that is an error.
            notifications: args.notifications && (database::notifies(url) || !any_notifies),
            keep_sent: args.retention.keeps_sent(),
            create: false,
            // One that is away keeps no other one waiting.
            lazily: true,
            names: args.databases.names(),
            installation_id: *installation_id,
        };
        let store = database::connect(url, &how).await?.store();
        let relay = OutboxRelay::builder(store, Arc::clone(&broker));
        relays.push(relay.name(args.name.clone()).database(name).settings(settings.clone()).build()?);
    }
    let relays = Relays::new(relays)?;
    let shown = databases.iter().map(NamedDatabase::shown);
    let broker_shown = without_password(&args.broker);
    let roads: Vec<_> = shown.map(|database| format!("{database} -> {broker_shown}")).collect();
    let report = Report { name: args.name, json };
    let until_told = async {
        let ready = async {
            let ready = relays.iter().zip(&roads).map(|(relay, road)| report.when_ready(relay, road));
            join_all(ready).await;
            std::future::pending().await
        };
        tokio::select! {
            biased;
            () = stop.first() => {}
            () = ready => {}
        }
    };
    let relaying = async {
        if args.until_empty {
            relays.run_until_empty_or(until_told).await
        } else {
            relays.run_until(until_told).await
        }
    };
    let ended = tokio::select! {
        ended = relaying => ended,
        never = relays.purge_for_ever(&retention) => match never {},
    };
    // The relays waited for what they had sent, or gave it up: that is still in the outbox, and the next relay's.
    if let Err(error) = broker.close().await {
        tracing::warn!(%error, "the broker was not left in order; what it did not confirm is sent again");
    }
    // What one has done that was at work is worth a word, also if it has failed.
    let told = report.all_stopped(
        relays.iter().zip(&roads).filter(|(relay, _)| ended.is_ok() || relay.stats().relays > 0),
    );
    ended?;
    told
}

/// Checks each time, and names the flag of one that is wrong: the library knows its own names only.
fn validate(retention: &Retention) -> Result<(), Failure> {
    let of = Retention::for_ever;
    let problems: Vec<_> = [
        ("--keep-sent-for", retention.sent.map(|time| of().sent(time))),
        ("--keep-inbox-for", retention.inbox.map(|time| of().inbox(time))),
        ("--keep-requests-for", retention.requests.map(|time| of().requests(time))),
    ]
    .into_iter()
    .filter_map(|(flag, time)| Some(format!("{flag}: {}", time?.validate().err()?)))
    .collect();
    if problems.is_empty() { Ok(retention.validate()?) } else { Err(Failure::usage(problems.join("; "))) }
}

/// The broker's URL, with what has a flag of its own, and with what follows from the relay's settings unless the URL says
/// it: that the client gives a message up before the relay sends it again.
fn broker_url(args: &Args, settings: &RelaySettings) -> Result<String, Failure> {
    let mut url = args.broker.clone();
    let kafka = url.starts_with("kafka://");
    let mut set = |option: &str, value: Duration| {
        let separator = if url.contains('?') { '&' } else { '?' };
        url = format!("{url}{separator}{option}={}", value.as_millis());
    };
    match args.linger {
        None => {}
        Some(Span(linger)) if kafka => set("linger.ms", linger),
        Some(_) => {
            return Err(Failure::usage("--linger is a setting of Kafka's client, and the broker is another"));
        }
    }
    let says = |option: &str| args.broker.contains(option);
    // A millisecond at least: Kafka takes 0 for no limit.
    let give_up = (settings.publish_timeout * 6 / 7).max(Duration::from_millis(1));
    if kafka && !says("message.timeout.ms=") && !says("delivery.timeout.ms=") {
        set("message.timeout.ms", give_up);
    }
    if args.broker.starts_with("amqp://") && !says("confirm_timeout_ms=") {
        set("confirm_timeout_ms", give_up);
    }
    let shown = match url.split_once("://") {
        Some(("kafka" | "amqp" | "amqps", _)) => return Ok(url),
        Some(("memory", _)) => {
            return Err(Failure::usage(
                "a broker in memory is reached by its own process only: name one with kafka:// or amqp://",
            ));
        }
        Some(_) => format!("`{}`", without_password(&args.broker)),
        // Not a word of it: what is no URL may still have a password in it.
        None => "what is given".to_owned(),
    };
    // Not what the library says, which knows one that is of no use here.
    Err(Failure::usage(format!("{shown} is no broker's URL: it begins with `kafka://` or `amqp://`")))
}

/// What the relay says of itself on standard output.
struct Report {
    name: String,
    json: bool,
}

impl Report {
    /// Says when the relay is at work: the tables are in order, it knows its groups, and the broker has answered.
    async fn when_ready(&self, relay: &OutboxRelay, road: &str) {
        relay.started().await;
        let RelayStats { owned_groups, groups, relays, .. } = relay.stats();
        let line = if self.json {
            json!({
                "event": "ready", "relay": self.name, "database": relay.database(), "road": road,
                "owned_groups": owned_groups, "groups": groups, "relays": relays,
            })
            .to_string()
        } else {
            format!(
                "ready: relay {}, {road}, {owned_groups} of {groups} groups, {} alive",
                self.name,
                counted(relays, "relay")
            )
        };
        if let Err(failure) = print(&line) {
            tracing::warn!(%failure, "nobody could be told that the relay is ready");
        }
    }

    fn all_stopped<'a>(
        &self,
        mut relays: impl Iterator<Item = (&'a OutboxRelay, &'a String)>,
    ) -> Result<(), Failure> {
        relays.try_for_each(|(relay, road)| self.stopped(relay, road))
    }

    fn stopped(&self, relay: &OutboxRelay, road: &str) -> Result<(), Failure> {
        let RelayStats { published, confirmed, settled, parked, dead_lettered, .. } = relay.stats();
        print(&if self.json {
            json!({
                "event": "stopped", "relay": self.name, "database": relay.database(), "road": road,
                "published": published, "confirmed": confirmed,
                "settled": settled, "parked": parked, "dead_lettered": dead_lettered,
            })
            .to_string()
        } else {
            format!(
                "stopped: relay {}, {road}, {published} published, {confirmed} confirmed, {settled} settled, {parked} parked, \
                 {dead_lettered} dead letters",
                self.name
            )
        })
    }
}

/// The signals that tell a process to stop.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            terminate: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?,
        })
    }

    /// Resolves with the next one. From then on another one ends the process.
    async fn first(&mut self) {
        self.next().await;
        tracing::info!("told to stop");
        if let Ok(mut second) = Self::listen() {
            tokio::spawn(async move {
                second.next().await;
                std::process::exit(130);
            });
        }
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        // An error means that there are no signals here: it runs until it is killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    fn url(broker: &str, more: &[&str]) -> String {
        let arguments = [&["cqrs", "--database", "sqlite://x", "--broker", broker], more].concat();
        let args = Only::parse_from(arguments).args;
        broker_url(&args, &RelaySettings::from(&args.settings)).unwrap()
    }

    #[test]
    fn a_time_that_cannot_be_kept_to_is_told_by_its_flag() {
        let validated = |arguments: &[&str]| {
            let broker = ["cqrs", "--database", "sqlite://x", "--broker", "amqp://h"];
            validate(&Only::parse_from([&broker, arguments].concat()).args.retention.retention())
        };
        validated(&[]).unwrap();
        validated(&["--keep-inbox-for", "1day", "--keep-sent-for", "0s"]).unwrap();
        let told = validated(&["--keep-inbox-for", "0s", "--keep-requests-for", "200years"]).unwrap_err();
        let told = told.to_string();
        assert!(told.starts_with("--keep-inbox-for: ") && told.ends_with(": lower it"), "{told}");
        assert!(told.contains("; --keep-requests-for: "), "{told}");
        let told = validated(&["--keep-sent-for", "101years"]).unwrap_err().to_string();
        assert!(told.starts_with("--keep-sent-for: "), "{told}");
    }

    #[test]
    fn the_client_gives_a_message_up_before_the_relay_does() {
        assert_eq!(url("kafka://h", &[]), "kafka://h?message.timeout.ms=6000");
        assert_eq!(
            url("amqp://h?heartbeat=3", &["--publish-timeout", "700ms"]),
            "amqp://h?heartbeat=3&confirm_timeout_ms=600"
        );
        assert_eq!(
            url("kafka://h", &["--publish-timeout", "7s", "--linger", "5ms"]),
            "kafka://h?linger.ms=5&message.timeout.ms=6000"
        );
    }

    #[test]
    fn what_the_url_says_stands() {
        for url_that_says in [
            "kafka://h?message.timeout.ms=1000",
            "kafka://h?delivery.timeout.ms=1000",
            "amqp://h?confirm_timeout_ms=1000",
        ] {
            assert_eq!(url(url_that_says, &[]), url_that_says);
        }
    }
}
