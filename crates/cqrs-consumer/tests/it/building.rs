use std::sync::Arc;
use std::time::Duration;

use cqrs_consumer::{Consumer, RetryPolicy};
use cqrs_core::{ErrorKind, EventMap};

use crate::support::{Script, consumer, mediator, on};

#[test]
fn says_everything_that_is_wrong_at_once() {
    let error = Consumer::builder(Arc::new(Script::new()), "")
        .events(mediator(EventMap::new()))
        .concurrency(0)
        .prefetch(0)
        .handler_timeout(Duration::ZERO)
        .retry(RetryPolicy::default().with_max_attempts(0))
        .dead_letter_topic("")
        .build()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let text = error.to_string();
    for part in [
        "group",
        "topics",
        "`concurrency`",
        "`prefetch`",
        "`handler_timeout`",
        "`with_max_attempts`",
        "dead-letter",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn events_are_needed_and_dead_letters_must_not_come_back() {
    let without = Consumer::builder(Arc::new(Script::new()), "billing").build().unwrap_err();
    assert!(without.to_string().contains(".events("), "{without}");
    let loops = consumer(&Script::new(), on(|_| async { Ok(()) })).dead_letter_topic("rooms").build();
    assert!(loops.unwrap_err().to_string().contains("rooms"));
}
