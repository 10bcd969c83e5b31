//! What librdkafka says, and what of it is for whom.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

use crate::error::{code, is_refusal};

/// Takes what librdkafka logs to `tracing`, and remembers why the cluster refused us: of that it tells nobody who
/// waits for an answer, only the logs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    refusal: Arc<Mutex<Option<String>>>,
}

impl Log {
    /// Why the login was refused the last time, if it was.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It has been accepted since.
    pub(crate) fn accepted(&self) {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl ClientContext for Log {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // It is logged, too.
        tracing::debug!(target: "librdkafka", %error, "{reason}");
        if is_refusal(code(&error)) {
            *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
    }
}

pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, line: &str) {
    // The user's settings are for producer and consumers alike; that half of them suits only one is no news.
    let expected = facility == "CONFWARN" && line.contains("property and will be ignored by this")
        // And that a session is what it is, and ends as it should.
        || line.contains("enable.gapless.guarantee") || line.contains("ap-less");
    match level {
        _ if expected => tracing::debug!(target: "librdkafka", facility, "{line}"),
        // Each of its clients says so.
        RDKafkaLogLevel::Notice if has_more_partitions(line) && !is_repeated(line) => tracing::warn!(
            target: "librdkafka", facility,
            "{line}: most keys go to another partition from now on, where their events may pass those before that are not \
             handled yet; drain a topic before it gets more partitions"
        ),
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
            if !is_repeated_but_for_numbers(line) =>
        {
            tracing::error!(target: "librdkafka", facility, "{line}");
        }
        RDKafkaLogLevel::Warning if !is_repeated_but_for_numbers(line) => {
            tracing::warn!(target: "librdkafka", facility, "{line}");
        }
        // What is repeated, what is for who asked for it by `debug`, and what else there is of a notice, which is no news to others.
        _ => tracing::debug!(target: "librdkafka", facility, "{line}"),
    }
}

/// Whether it says that a topic has more partitions than before. One that goes away has none for a while.
fn has_more_partitions(line: &str) -> bool {
    let counts =
        line.split_once(" partition count changed from ").and_then(|(_, counts)| counts.split_once(" to "));
    let count = |text: &str| text.trim().parse::<u32>().ok();
    counts
        .and_then(|(before, now)| Some((count(before)?, count(now)?)))
        .is_some_and(|(before, now)| 0 < before && before < now)
}

/// While a cluster is away, a client says so many times a second.
fn is_repeated_but_for_numbers(line: &str) -> bool {
    is_repeated(&line.chars().filter(|letter| !letter.is_ascii_digit()).collect::<String>())
}

/// Whether this is what was said last, not long ago.
fn is_repeated(said: &str) -> bool {
    const SILENCE: Duration = Duration::from_secs(10);
    static LAST: Mutex<Option<(String, Instant)>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.as_ref().is_some_and(|(before, at)| before == said && at.elapsed() < SILENCE) {
        return true;
    }
    *last = Some((said.to_owned(), Instant::now()));
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_with_more_partitions_is_told_from_one_that_goes_away() {
        let said = |counts: &str| format!("Topic rooms partition count changed from {counts}");
        assert!(has_more_partitions(&said("2 to 3")));
        assert!(has_more_partitions(&said("9 to 12")));
        for other in ["3 to 0", "0 to 3", "3 to 2", "3 to 3", "x to 3", "3"] {
            assert!(!has_more_partitions(&said(other)), "{other}");
        }
        assert!(!has_more_partitions("Broker changed from 1 to 2"));
    }
}
