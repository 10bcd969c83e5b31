use std::panic::{AssertUnwindSafe, catch_unwind};

use chrono::{DateTime, SecondsFormat, Utc};
use cqrs_core::codec::header as wire;
use cqrs_core::{Encoder, Error, Message};

/// The names of the headers that a dead letter has in addition to those of the message.
pub mod header {
    /// Why it is dead: the error with its causes, cut to [`MAX_REASON_BYTES`].
    pub const REASON: &str = "cqrs-dead-letter-reason";
    /// The name of the event; missing if it cannot be read.
    pub const EVENT: &str = "cqrs-dead-letter-event";
    /// The group whose handlers failed.
    pub const GROUP: &str = "cqrs-dead-letter-group";
    /// How often it was tried since it was last delivered, a decimal number.
    pub const ATTEMPTS: &str = "cqrs-dead-letter-attempts";
    /// The topic it came from.
    pub const TOPIC: &str = "cqrs-dead-letter-topic";
    /// When the last attempt had failed: RFC 3339, UTC, microseconds.
    pub const FAILED_AT: &str = "cqrs-dead-letter-failed-at";

    /// The longest reason, in bytes: a large message stays within the broker's limit.
    pub const MAX_REASON_BYTES: usize = 512;
}

/// Makes dead letters.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    template: String,
    group: String,
}

impl DeadLetters {
    pub(crate) const DEFAULT_TOPIC: &str = "{topic}.dead-letters";

    pub(crate) fn new(template: String, group: String) -> Self {
        Self { template, group }
    }

    /// What is wrong with the template for these topics.
    pub(crate) fn problems(&self, topics: &[String]) -> Vec<String> {
        if self.template.is_empty() {
            return vec![
                "the dead-letter topic is empty: name one, such as `{topic}.dead-letters`".to_owned(),
            ];
        }
        if self.topic("").contains(['{', '}']) {
            return vec![format!(
                "the dead-letter topic is `{}`, and the only placeholder is `{{topic}}`: write that, or no braces",
                self.template
            )];
        }
        let loops = topics.iter().filter(|topic| self.topic(topic) == **topic);
        loops.map(|topic| format!("the dead letters of the topic `{topic}` would go back to it: choose another dead-letter topic")).collect()
    }

    /// The dead letter of a message: the message unchanged but for its topic and the headers that are added. Those that
    /// an earlier death left are replaced.
    pub(crate) fn make(
        &self,
        message: &Message,
        event: Option<String>,
        attempts: u32,
        error: &Error,
        at: DateTime<Utc>,
    ) -> Message {
        let mut letter = message.clone();
        letter.topic = self.topic(&message.topic);
        let headers = &mut letter.headers;
        headers.set(header::REASON, cut(format!("{error:#}"), header::MAX_REASON_BYTES));
        match event {
            Some(name) => headers.set(header::EVENT, name),
            None => headers.remove(header::EVENT),
        }
        headers.set(header::GROUP, self.group.clone());
        headers.set(header::ATTEMPTS, attempts.to_string());
        headers.set(header::TOPIC, message.topic.clone());
        headers.set(header::FAILED_AT, at.to_rfc3339_opts(SecondsFormat::Micros, true));
        letter
    }

    fn topic(&self, topic: &str) -> String {
        self.template.replace("{topic}", topic)
    }
}

/// The event's name, which most formats have in the payload only.
pub(crate) fn event_of(message: &Message, encoder: &Encoder) -> Option<String> {
    // What is to be buried may be a message that a codec panics at.
    let decoded = catch_unwind(AssertUnwindSafe(|| encoder.decode(message.clone())));
    let read = decoded.ok().and_then(Result::ok).map(|message| message.name);
    read.filter(|name| !name.is_empty()).or_else(|| event_name(message).map(str::to_owned))
}

/// The event's name, as far as it is known without the codec.
pub(crate) fn event_name(message: &Message) -> Option<&str> {
    Some(message.name.as_str())
        .filter(|name| !name.is_empty())
        .or_else(|| message.headers.get_str(wire::NAME))
}

fn cut(mut text: String, max_bytes: usize) -> String {
    let end = (0..=max_bytes.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or(0));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters(template: &str) -> DeadLetters {
        DeadLetters::new(template.into(), "billing".into())
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        assert_eq!(cut("abc".into(), 3), "abc");
        assert_eq!(cut("abcd".into(), 3), "abc");
        assert_eq!(cut("abä".into(), 3), "ab");
        assert_eq!(cut("ä".into(), 1), "");
    }

    #[test]
    fn a_template_that_leads_back_is_a_mistake() {
        let topics = ["rooms".to_owned(), "dead".to_owned()];
        assert!(letters(DeadLetters::DEFAULT_TOPIC).problems(&topics).is_empty());
        assert_eq!(letters("{topic}").problems(&topics).len(), 2);
        assert_eq!(letters("dead").problems(&topics).len(), 1);
        assert_eq!(letters("").problems(&topics).len(), 1);
    }

    #[test]
    fn another_placeholder_is_a_mistake() {
        for template in ["{tpoic}.dead", "{topic}.{group}", "{topic.dead", "{{topic}}", "topic}"] {
            let problems = letters(template).problems(&["rooms".to_owned()]);
            let [problem] = &problems[..] else { panic!("{template}: {problems:?}") };
            assert!(problem.contains("the only placeholder is `{topic}`: write"), "{problem}");
            assert!(problem.contains(&format!("`{template}`")), "{problem}");
        }
        assert!(letters("dead.{topic}.{topic}").problems(&["rooms".to_owned()]).is_empty());
    }

    #[test]
    fn a_letter_is_the_message_with_headers() {
        let mut message = Message::new("rooms", "{}");
        message.id = Some("1".into());
        message.key = Some("k".into());
        message.headers.append(wire::NAME, "room_closed");
        message.headers.append(header::ATTEMPTS, "3");
        let error = Error::handler("no room").with_retryable(true);
        let mut letter = letters("dead.{topic}").make(
            &message,
            Some("room_closed".into()),
            10,
            &error,
            DateTime::UNIX_EPOCH,
        );

        assert_eq!(letter.topic, "dead.rooms");
        for (name, value) in [
            (header::REASON, "no room"),
            (header::EVENT, "room_closed"),
            (header::GROUP, "billing"),
            (header::ATTEMPTS, "10"),
            (header::TOPIC, "rooms"),
            (header::FAILED_AT, "1970-01-01T00:00:00.000000Z"),
        ] {
            assert_eq!(letter.headers.get_str(name), Some(value));
            letter.headers.remove(name);
        }
        message.headers.remove(header::ATTEMPTS);
        letter.topic = "rooms".into();
        assert_eq!(letter, message);
    }
}
