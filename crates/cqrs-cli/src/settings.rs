//! The settings of a relay as arguments and variables.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use cqrs::outbox::{LaterEvents, RelaySettings, Retention, Unordered};

/// A time, such as `10s`, `500ms` or `1m 30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|error| format!("{error}; write a time with its unit, such as 10s, 500ms or 1m 30s"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// What becomes of the later events of a key.
#[derive(Clone, Copy, Debug)]
struct Later(LaterEvents);

impl FromStr for Later {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "wait" => Ok(Self(LaterEvents::Wait)),
            "go-on" => Ok(Self(LaterEvents::GoOn)),
            "follow" => Ok(Self(LaterEvents::Follow)),
            _ => Err("write `wait`, `go-on` or `follow`"),
        }
    }
}

/// Topics whose events have no order.
#[derive(Clone, Debug)]
struct Topics(Unordered);

impl FromStr for Topics {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let topics: Vec<_> = text.split(',').map(str::trim).collect();
        Ok(Self(match &topics[..] {
            [""] => Unordered::Nothing,
            ["*"] => Unordered::Everything,
            topics if topics.iter().any(|topic| topic.is_empty() || *topic == "*") => {
                return Err("write topics with commas between them, or `*` alone for all topics");
            }
            topics => Unordered::Topics(topics.iter().map(|topic| (*topic).to_owned()).collect()),
        }))
    }
}

fn default() -> RelaySettings {
    RelaySettings::default()
}

/// All settings of a relay; what each means in depth, the documentation of `RelaySettings` says.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Settings of the relay")]
pub(crate) struct SettingsArgs {
    /// How long a lease lasts: the groups of a relay that died are free after this time
    #[arg(long, value_name = "TIME", env = "CQRS_RELAY_LEASE", default_value_t = Span(default().lease))]
    lease: Span,
    /// How often leases are renewed
    #[arg(long, value_name = "TIME", env = "CQRS_RELAY_HEARTBEAT_INTERVAL",
        default_value_t = Span(default().heartbeat_interval))]
    heartbeat_interval: Span,
    /// The last part of a lease, in which nothing is published
    #[arg(long, value_name = "TIME", env = "CQRS_RELAY_LEASE_MARGIN", default_value_t = Span(default().lease_margin))]
    lease_margin: Span,
    /// How long without news until the outbox is read all the same
    #[arg(long, value_name = "TIME", env = "CQRS_RELAY_POLL_INTERVAL", default_value_t = Span(default().poll_interval))]
    poll_interval: Span,
    /// How far that interval grows while nothing is found; by default to 5s where the relay listens for what writers notify, and else not at
    /// all
    #[arg(long, value_name = "TIME", env = "CQRS_RELAY_IDLE_POLL_INTERVAL")]
    idle_poll_interval: Option<Span>,
    /// How many events are read at once
    #[arg(long, value_name = "COUNT", env = "CQRS_RELAY_BATCH", default_value_t = default().batch)]
    batch: usize,
    /// How many events are in memory at most
    #[arg(long, value_name = "COUNT", env = "CQRS_RELAY_MAX_ROWS", default_value_t = default().max_rows)]
    max_rows: usize,
    /// How many bytes of events are in memory at most
    #[arg(long, value_name = "BYTES", env = "CQRS_RELAY_MAX_BYTES", default_value_t = default().max_bytes)]
    max_bytes: usize,
    /// How many events are with the broker at the same time
    #[arg(long, value_name = "COUNT", env = "CQRS_RELAY_MAX_IN_FLIGHT", default_value_t = default().max_in_flight)]
    max_in_flight: usize,
    /// How many events of one key are with the broker at the same time, in their order: with more than 1 a key that has a backlog
    /// goes as fast as the broker takes it. Kafka only
    #[arg(long, value_name = "COUNT", env = "CQRS_RELAY_MAX_IN_FLIGHT_PER_KEY",
        default_value_t = default().max_in_flight_per_key)]
    max_in_flight_per_key: usize,
    /// How long one publish may take until its outcome counts as unknown
    #[arg(long, value_name = "TIME", env = "CQRS_RELAY_PUBLISH_TIMEOUT",
        default_value_t = Span(default().publish_timeout))]
    publish_timeout: Span,
    /// How long one call of the database may take
    #[arg(long, value_name = "TIME", env = "CQRS_RELAY_STORE_TIMEOUT", default_value_t = Span(default().store_timeout))]
    store_timeout: Span,
    /// How long a confirmed event waits for others before they are removed from the outbox together
    #[arg(long, value_name = "TIME", env = "CQRS_RELAY_SETTLE_LINGER", default_value_t = Span(default().settle_linger))]
    settle_linger: Span,
    /// How often an event may be refused for a reason of its own before it goes to the dead letters
    #[arg(long, value_name = "COUNT", env = "CQRS_RELAY_MAX_ATTEMPTS", default_value_t = default().max_attempts)]
    max_attempts: u32,
    /// How long a topic may be suspended, because it is unknown, forbidden or takes no message to any queue, until the events for it
    /// are tried once each and go to the dead letters; if not given, they wait until it takes them
    #[arg(long, value_name = "TIME", env = "CQRS_RELAY_DESTINATION_TIMEOUT")]
    destination_timeout: Option<Span>,
    /// What becomes of the later events of a key when one of it goes to the dead letters: `wait` until someone has replayed or
    /// discarded it, `go-on` without it, or `follow` it
    #[arg(long, value_name = "wait|go-on|follow", env = "CQRS_RELAY_LATER_EVENTS", default_value = "wait")]
    later_events: Later,
    /// Topics, with commas between them, whose events are sent without regard to the order of their keys; `*` stands for all
    #[arg(long, value_name = "TOPICS", env = "CQRS_RELAY_UNORDERED", default_value = "")]
    unordered: Topics,
    /// The first wait after a failure; it doubles with each further one
    #[arg(long, value_name = "TIME", env = "CQRS_RELAY_BACKOFF", default_value_t = Span(default().backoff))]
    backoff: Span,
    /// The longest wait after a failure
    #[arg(long, value_name = "TIME", env = "CQRS_RELAY_MAX_BACKOFF", default_value_t = Span(default().max_backoff))]
    max_backoff: Span,
    /// How long what is with the broker may take on a stop, until it is left to the next relay
    #[arg(long, value_name = "TIME", env = "CQRS_RELAY_STOP_GRACE", default_value_t = Span(default().stop_grace))]
    stop_grace: Span,
}

impl From<&SettingsArgs> for RelaySettings {
    fn from(args: &SettingsArgs) -> Self {
        let mut settings = Self::default();
        settings.lease = args.lease.0;
        settings.heartbeat_interval = args.heartbeat_interval.0;
        settings.lease_margin = args.lease_margin.0;
        settings.poll_interval = args.poll_interval.0;
        settings.idle_poll_interval = args.idle_poll_interval.map(|span| span.0);
        settings.batch = args.batch;
        settings.max_rows = args.max_rows;
        settings.max_bytes = args.max_bytes;
        settings.max_in_flight = args.max_in_flight;
        settings.max_in_flight_per_key = args.max_in_flight_per_key;
        settings.publish_timeout = args.publish_timeout.0;
        settings.store_timeout = args.store_timeout.0;
        settings.settle_linger = args.settle_linger.0;
        settings.max_attempts = args.max_attempts;
        settings.destination_timeout = args.destination_timeout.map(|span| span.0);
        settings.later_events = args.later_events.0;
        settings.unordered = args.unordered.0.clone();
        settings.backoff = args.backoff.0;
        settings.max_backoff = args.max_backoff.0;
        settings.stop_grace = args.stop_grace.0;
        settings
    }
}

fn keep_requests_for() -> Span {
    Span(Retention::default().requests.unwrap_or_default())
}

/// For how long what is kept for a time only is kept.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What is kept, and for how long")]
pub(crate) struct RetentionArgs {
    /// Keeps what was sent, in the table cqrs_outbox_sent, until someone purges it
    #[arg(long, env = "CQRS_RELAY_KEEP_SENT", value_parser = clap::builder::BoolishValueParser::new())]
    keep_sent: bool,
    /// Keeps what was sent for so long, and purges it then
    #[arg(long, value_name = "TIME", env = "CQRS_RELAY_KEEP_SENT_FOR")]
    keep_sent_for: Option<Span>,
    /// Purges what the inbox knows of messages that were handled longer ago than this: one that comes again after that has
    /// its effect again. Without it, nothing of the inbox is purged
    #[arg(long, value_name = "TIME", env = "CQRS_RELAY_KEEP_INBOX_FOR")]
    keep_inbox_for: Option<Span>,
    /// Purges what was asked for dead letters and done longer ago than this
    #[arg(long, value_name = "TIME", env = "CQRS_RELAY_KEEP_REQUESTS_FOR", default_value_t = keep_requests_for())]
    keep_requests_for: Span,
    /// Whether to purge what has passed its time, and deduplication keys whose window is over; else `cqrs outbox purge` does
    #[arg(long, value_name = "BOOL", env = "CQRS_RELAY_PURGE", default_value_t = true, action = clap::ArgAction::Set)]
    purge: bool,
}

impl RetentionArgs {
    pub(crate) fn keeps_sent(&self) -> bool {
        self.keep_sent || self.keep_sent_for.is_some()
    }

    pub(crate) fn retention(&self) -> Retention {
        let mut retention = Retention::for_ever();
        if self.purge {
            retention.expired_dedup = true;
            retention.sent = self.keep_sent_for.map(|time| time.0);
            retention.inbox = self.keep_inbox_for.map(|time| time.0);
            retention.requests = Some(self.keep_requests_for.0);
        }
        retention
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        settings: SettingsArgs,
    }

    /// The names of all settings and their values, as `Debug` gives them, also those that a later version adds.
    fn fields(settings: &RelaySettings) -> Vec<(String, String)> {
        let text = format!("{settings:?}");
        let text = text.strip_prefix("RelaySettings { ").unwrap().strip_suffix(" }").unwrap();
        text.split(", ")
            .map(|field| field.split_once(": ").unwrap())
            .map(|(a, b)| (a.into(), b.into()))
            .collect()
    }

    #[test]
    fn every_setting_has_a_flag_and_a_variable() {
        let command = Only::command();
        for (field, _) in fields(&RelaySettings::default()) {
            let flag = field.replace('_', "-");
            let argument = command.get_arguments().find(|argument| argument.get_long() == Some(&flag));
            let argument = argument.unwrap_or_else(|| panic!("there is no --{flag}"));
            let variable = format!("CQRS_RELAY_{}", field.to_uppercase());
            assert_eq!(argument.get_env().unwrap().to_str().unwrap(), variable);
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let parsed = Only::try_parse_from(["cqrs"]).unwrap();
        assert_eq!(RelaySettings::from(&parsed.settings), RelaySettings::default());
    }

    #[test]
    fn each_flag_sets_its_own_setting() {
        let defaults = fields(&RelaySettings::default());
        for (nth, (field, value)) in defaults.iter().enumerate() {
            let flag = format!("--{}", field.replace('_', "-"));
            let (other, shown) = match value.as_str() {
                "None" => ("777ms", "Some(777ms)"),
                "Wait" => ("follow", "Follow"),
                "Nothing" => ("*", "Everything"),
                value if value.ends_with('s') => ("777ms", "777ms"),
                _ => ("777", "777"),
            };
            let parsed = Only::try_parse_from(["cqrs", &flag, other]).unwrap();
            for (mth, (name, found)) in fields(&RelaySettings::from(&parsed.settings)).iter().enumerate() {
                if mth == nth {
                    assert_eq!(found, shown, "{flag}");
                } else {
                    assert_eq!(found, &defaults[mth].1, "{flag} changed {name}");
                }
            }
        }
    }

    #[test]
    fn topics_and_policies_are_read_as_they_are_written() {
        let parsed =
            Only::try_parse_from(["cqrs", "--unordered", "audit, clicks", "--later-events", "go-on"]);
        let settings = RelaySettings::from(&parsed.unwrap().settings);
        assert_eq!(settings.unordered, Unordered::Topics(["audit", "clicks"].map(str::to_owned).into()));
        assert_eq!(settings.later_events, LaterEvents::GoOn);
        for (flag, value, advice) in [
            ("--unordered", "audit,,clicks", "commas between them"),
            ("--unordered", "audit,*", "`*` alone"),
            ("--later-events", "goon", "write `wait`, `go-on` or `follow`"),
        ] {
            let error = Only::try_parse_from(["cqrs", flag, value]).unwrap_err().to_string();
            assert!(error.contains(flag) && error.contains(advice), "{error}");
        }
    }

    #[test]
    fn a_time_without_a_unit_is_told_what_to_write() {
        let error = Only::try_parse_from(["cqrs", "--lease", "10"]).unwrap_err().to_string();
        assert!(error.contains("--lease") && error.contains("such as 10s"), "{error}");
    }

    #[derive(Debug, Parser)]
    struct OnlyRetention {
        #[command(flatten)]
        retention: RetentionArgs,
    }

    #[test]
    fn what_is_purged_is_what_is_asked_for() {
        let retention = |arguments: &[&str]| {
            let parsed = OnlyRetention::try_parse_from([&["cqrs"], arguments].concat()).unwrap();
            (parsed.retention.keeps_sent(), parsed.retention.retention())
        };
        let day = Duration::from_secs(24 * 3_600);
        assert_eq!(retention(&[]), (false, Retention::default()));
        assert_eq!(retention(&["--keep-sent"]), (true, Retention::default()));
        assert_eq!(retention(&["--keep-sent-for", "1day"]), (true, Retention::default().sent(day)));
        assert_eq!(retention(&["--keep-inbox-for", "1day"]), (false, Retention::default().inbox(day)));
        assert_eq!(retention(&["--keep-requests-for", "1day"]), (false, Retention::default().requests(day)));
        assert_eq!(
            retention(&["--purge", "false", "--keep-sent-for", "1day"]),
            (true, Retention::for_ever())
        );
    }
}
