//! `cqrs relay`

use std::sync::Arc;
use std::time::Duration;

use cqrs::app::connect_broker;
use cqrs::outbox::{OutboxRelay, RelaySettings, RelayStats};
use cqrs::without_password;
use serde_json::json;

use crate::database::Connecting;
use crate::failure::Failure;
use crate::print;
use crate::settings::{SettingsArgs, Span};
use crate::target::{DatabaseArgs, connect};

const EXAMPLES: &str = "\
It says `ready` on standard output when it is at work, and what it has done in the end. SIGTERM or SIGINT tells it to
stop: what is with the broker is finished, and another relay goes on at once. A second one ends it where it stands;
nothing is lost then either, but what was in flight is sent again. While the database or the broker is away, it waits
and says so on standard error. Start as many of them as you like, on as many hosts: they share the work.

  cqrs relay --database postgres://app:secret@db/orders --broker kafka://broker:9092
  cqrs relay --database sqlite://orders.sqlite --broker amqp://guest:guest@localhost --until-empty";

/// The arguments of `cqrs relay`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    database: DatabaseArgs,

    /// The broker: kafka://host:port,..?option=value with librdkafka's options, or
    /// amqp://user:password@host:port/vhost?option=value with heartbeat, confirm_timeout_ms, max_message_bytes,
    /// quorum_queues=true, or topology=FILE: exchanges and queues as JSON, where others have declared them in their way
    #[arg(long, value_name = "URL", env = "CQRS_BROKER_URL", hide_env_values = true)]
    broker: String,

    /// The name by which people know this relay
    #[arg(long, env = "CQRS_RELAY_NAME", default_value_t = default_name())]
    name: String,

    /// Ends when nothing waits any more
    #[arg(long)]
    until_empty: bool,

    /// How many connections to the database there are at most; on MySQL the relay has four of its own instead
    #[arg(long, value_name = "COUNT", env = "CQRS_RELAY_CONNECTIONS", default_value_t = 8,
        value_parser = clap::value_parser!(u32).range(2..))]
    connections: u32,

    /// Listens for the notifications of writers, who ask for them too: an event is found at once, and not with the next
    /// poll. PostgreSQL only
    #[arg(long, env = "CQRS_RELAY_NOTIFICATIONS", value_parser = clap::builder::BoolishValueParser::new())]
    notifications: bool,

    /// How long Kafka's client waits for more events to send at once (`linger.ms`); 0 unless the broker's URL says
    /// otherwise
    #[arg(long, value_name = "TIME", env = "CQRS_RELAY_LINGER")]
    linger: Option<Span>,

    /// Keeps what was sent, in the table cqrs_outbox_sent, until someone purges it
    #[arg(long, env = "CQRS_RELAY_KEEP_SENT", value_parser = clap::builder::BoolishValueParser::new())]
    keep_sent: bool,
    /// Keeps what was sent for so long, and purges it then
    #[arg(long, value_name = "TIME", env = "CQRS_RELAY_KEEP_SENT_FOR")]
    keep_sent_for: Option<Span>,

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
    let broker = connect_broker(&broker_url(&args, &settings)?)?;
    let url = &args.database.database;
    let how = Connecting {
        connections: args.connections as usize,
        notifications: args.notifications,
        keep_sent: args.keep_sent || args.keep_sent_for.is_some(),
        create: false,
        names: args.database.names(),
    };
    let database = tokio::select! {
        database = connect(url, &how) => database?,
        () = stop.first() => return Ok(()),
    };
    let relay = OutboxRelay::builder(database.store(), Arc::clone(&broker))
        .name(args.name.clone())
        .settings(settings);
    let relay = relay.build()?;

    let road = format!("{} -> {}", without_password(url), without_password(&args.broker));
    let report = Report { name: args.name, road, json };
    let until_told = async {
        let ready = async {
            report.when_ready(&relay).await;
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
            relay.run_until_empty_or(until_told).await
        } else {
            relay.run_until(until_told).await
        }
    };
    let purging = async {
        match args.keep_sent_for {
            Some(Span(time)) => database.purge_sent_for_ever(time).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = relaying => ended,
        never = purging => match never {},
    };
    // The relay waited for what it had sent, or gave it up: that is still in the outbox, and the next relay's.
    if let Err(error) = broker.close().await {
        tracing::warn!(%error, "the broker was not left in order; what it did not confirm is sent again");
    }
    ended?;
    report.stopped(&relay.stats())?;
    Ok(())
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
    if url.starts_with("memory://") {
        return Err(Failure::usage(
            "a broker in memory is reached by its own process only: name one with kafka:// or amqp://",
        ));
    }
    Ok(url)
}

/// What the relay says of itself on standard output.
struct Report {
    name: String,
    /// From where to where.
    road: String,
    json: bool,
}

impl Report {
    /// Says when the relay is at work: the tables are in order, it knows its groups, and the broker has answered.
    async fn when_ready(&self, relay: &OutboxRelay) {
        relay.started().await;
        let RelayStats { owned_groups, groups, relays, .. } = relay.stats();
        let line = if self.json {
            json!({
                "event": "ready", "relay": self.name, "road": self.road,
                "owned_groups": owned_groups, "groups": groups, "relays": relays,
            })
            .to_string()
        } else {
            format!(
                "ready: relay {}, {}, {owned_groups} of {groups} groups, {relays} relays alive",
                self.name, self.road
            )
        };
        if let Err(failure) = print(&line) {
            tracing::warn!(%failure, "nobody could be told that the relay is ready");
        }
    }

    fn stopped(&self, stats: &RelayStats) -> Result<(), Failure> {
        let RelayStats { published, confirmed, settled, parked, dead_lettered, .. } = stats;
        print(&if self.json {
            json!({
                "event": "stopped", "relay": self.name, "published": published, "confirmed": confirmed,
                "settled": settled, "parked": parked, "dead_lettered": dead_lettered,
            })
            .to_string()
        } else {
            format!(
                "stopped: relay {}, {published} published, {confirmed} confirmed, {settled} settled, {parked} parked, \
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
