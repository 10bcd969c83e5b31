//! What a URL says besides where the broker is.

use std::time::Duration;

use url::Url;

use crate::config::Config;
use crate::topology::{QUEUE_TYPE, SINGLE_ACTIVE_CONSUMER, Topology};

/// Those that are for the connection, and read by whoever parses the rest of the URL.
const CONNECTION: [&str; 5] =
    ["auth_mechanism", "channel_max", "connection_timeout", "frame_max", "heartbeat"];

const OURS: [&str; 5] =
    ["confirm_timeout_ms", "max_message_bytes", "quorum_queues", "single_active_consumer", "topology"];

/// Applies the options of the URL, or says everything that is wrong with them.
pub(crate) fn apply(url: &Url, config: &mut Config) -> Result<(), Vec<String>> {
    let mut problems = Vec::new();
    let mut options: Vec<_> = url.query_pairs().collect();
    // The others are about what it says.
    options.sort_by_key(|(name, _)| name != "topology");
    for (name, value) in options {
        let applied = match &*name {
            "topology" => topology(&value).map(|topology| config.topology = topology),
            "confirm_timeout_ms" => number(&value)
                .and_then(|millis| u64::try_from(millis).ok().filter(|millis| *millis > 0))
                .map(|millis| config.confirm_timeout = Duration::from_millis(millis))
                .ok_or_else(|| "is no number of milliseconds above 0".to_owned()),
            "max_message_bytes" => number(&value)
                .map(|bytes| config.max_message_bytes = bytes)
                .ok_or_else(|| "is no number of bytes".to_owned()),
            "quorum_queues" => flag(&value)
                .map(|quorum| config.topology.set_argument(QUEUE_TYPE, quorum.then_some("quorum".into()))),
            "single_active_consumer" => flag(&value).map(|single| {
                config.topology.set_argument(SINGLE_ACTIVE_CONSUMER, single.then_some(true.into()));
            }),
            "auth_mechanism" => Ok(()),
            known if CONNECTION.contains(&known) => {
                number(&value).map(drop).ok_or_else(|| "is no number".to_owned())
            }
            // It may be a part of a password with a question mark in it.
            _ => {
                problems.push(format!(
                    "it has an option that is none of `{}`",
                    [&OURS[..], &CONNECTION[..]].concat().join("`, `")
                ));
                continue;
            }
        };
        if let Err(problem) = applied {
            problems.push(format!("`{name}` {problem}"));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn number(value: &str) -> Option<usize> {
    value.parse().ok()
}

fn flag(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| "is neither `true` nor `false`".to_owned())
}

fn topology(path: &str) -> Result<Topology, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("`{path}` cannot be read: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("`{path}` is not the JSON of a topology: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(query: &str) -> String {
        Config::from_url(&format!("amqp://me:hunter2@h?{query}")).err().unwrap().to_string()
    }

    #[test]
    fn a_url_says_what_the_builder_would() {
        let url = "amqp://h/v?quorum_queues=true&confirm_timeout_ms=1500&max_message_bytes=10&heartbeat=3\
                   &single_active_consumer=true";
        let config = Config::from_url(url).unwrap();
        assert_eq!(config.confirm_timeout, Duration::from_millis(1_500));
        assert_eq!(config.max_message_bytes, 10);
        let arguments = &config.topology.queue.arguments;
        assert_eq!(arguments[QUEUE_TYPE], "quorum");
        assert_eq!(arguments[SINGLE_ACTIVE_CONSUMER], true);
    }

    #[test]
    fn a_topology_is_read_from_a_file_and_the_other_options_go_on_top() {
        let folder = std::env::temp_dir().join(format!("cqrs-amqp-options-{}", std::process::id()));
        std::fs::write(&folder, r#"{ "exchange": { "name": "events" }, "queue": { "name": "q" } }"#).unwrap();
        let url = format!("amqp://h?quorum_queues=true&topology={}", folder.display());
        let topology = Config::from_url(&url).unwrap().topology;
        std::fs::write(&folder, r#"{ "exchanges": {} }"#).unwrap();
        let complaint = complaint(&format!("topology={}", folder.display()));
        std::fs::remove_file(&folder).unwrap();
        assert_eq!((&*topology.exchange.name, &*topology.queue.name), ("events", "q"));
        assert_eq!(topology.queue.arguments[QUEUE_TYPE], "quorum");
        assert!(complaint.contains("`exchanges`"), "{complaint}");
        assert!(complaint.contains(&folder.display().to_string()), "{complaint}");
    }

    #[test]
    fn what_is_wrong_is_told_all_at_once_and_without_the_password() {
        let complaint = complaint(
            "heartbeat=soon&quorum_queues=yes&confirm_timeout_ms=0&max_message_bytes=-1&topology=/no/such/file&confirm=5&x=hunter2",
        );
        for part in [
            "`heartbeat` is no number",
            "`quorum_queues` is neither",
            "`confirm_timeout_ms` is no number",
            "`max_message_bytes` is no number",
            "`/no/such/file` cannot be read",
            "`heartbeat`",
            "amqp://me:***@h",
        ] {
            assert!(complaint.contains(part), "{part}: {complaint}");
        }
        assert!(!complaint.contains("hunter2"), "{complaint}");
    }
}
