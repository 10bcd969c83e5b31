//! Integration events that go straight to a broker, and the ids they carry.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cqrs_core::codec::header;
use cqrs_core::*;
use serde::Serialize;
use uuid::Uuid;

use crate::support::*;

#[derive(Request)]
struct Act;

#[derive(Request)]
struct ActInside;

#[derive(Serialize, NotificationEvent)]
#[event(topic = "told")]
struct Unlucky;

/// Says `told`, `unlucky`, `told`.
fn unlucky_in_the_middle(broker: Recorder) -> (RequestMediator, Arc<Recorder>) {
    let broker = Arc::new(broker);
    let requests = RequestMap::new().bind(on_request(|_: Act, cx| {
        Box::pin(async move {
            cx.emit(Told(1));
            cx.emit(Unlucky);
            cx.emit(Told(2));
            Ok(())
        })
    }));
    let emitter = EventEmitter::default().direct(broker.clone()).with_confirm_timeout(Duration::from_secs(5));
    (RequestMediator::new(requests, emitter).unwrap(), broker)
}

#[tokio::test]
async fn a_message_that_is_refused_does_not_keep_the_others() {
    let (mediator, broker) =
        unlucky_in_the_middle(Recorder { refused: HashSet::from(["unlucky"]), ..Recorder::default() });
    let error = mediator.send(Act).await.unwrap_err();
    assert_eq!((error.kind(), error.class()), (ErrorKind::Broker, Some(ErrorClass::Destination)));
    let failures = error.downcast_ref::<DirectPublishError>().unwrap();
    let names: Vec<_> = failures.published.iter().map(|event| (&*event.name, &*event.topic)).collect();
    assert_eq!(names, [("told", "told"), ("told", "told")]);
    let (event, cause) = &failures.failed[0];
    assert_eq!((&*event.name, cause.class()), ("unlucky", ErrorClass::Destination));
    let id = event.id.as_ref().unwrap();
    assert_eq!(
        error.to_string(),
        format!(
            "1 of 3 events did not go out to the broker: `unlucky` {id}: nobody takes `unlucky` (destination)"
        )
    );
    assert_eq!(broker.payloads(), ["1", "2"]);
}

#[tokio::test]
async fn a_message_that_is_not_confirmed_does_not_keep_the_others() {
    let (mediator, broker) =
        unlucky_in_the_middle(Recorder { unconfirmed: HashSet::from(["unlucky"]), ..Recorder::default() });
    let error = mediator.send(Act).await.unwrap_err();
    assert_eq!((error.kind(), error.class()), (ErrorKind::Broker, Some(ErrorClass::Unknown)));
    assert_eq!(broker.payloads(), ["1", "null", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_confirm_that_never_comes_is_an_error_in_time() {
    let (mediator, broker) =
        unlucky_in_the_middle(Recorder { mute: HashSet::from(["unlucky"]), ..Recorder::default() });
    let began = tokio::time::Instant::now();
    let error = mediator.send(Act).await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 5);
    assert_eq!((error.kind(), error.class()), (ErrorKind::Broker, Some(ErrorClass::Unknown)));
    // The request has been carried out: it is not to be sent again.
    assert!(!error.is_retryable());
    assert!(error.to_string().ends_with(": the broker did not confirm within 5s (unknown)"), "{error}");
    assert_eq!(broker.payloads(), ["1", "null", "2"]);
}

#[tokio::test(start_paused = true)]
async fn all_confirms_together_have_one_time() {
    let broker = Recorder { mute: HashSet::from(["unlucky", "told"]), ..Recorder::default() };
    let (mediator, _) = unlucky_in_the_middle(broker);
    let began = tokio::time::Instant::now();
    let error = mediator.send(Act).await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 5);
    assert_eq!(error.downcast_ref::<DirectPublishError>().unwrap().failed.len(), 3);
}

#[tokio::test]
async fn messages_of_ones_own_making_can_be_said() {
    let (broker, db) = (Recorder::new(), FakeDb::new());
    fn by_hand(text: &'static str) -> Message {
        let mut message = Message::new("told", text);
        message.name = "by_hand".into();
        message
    }
    let requests = RequestMap::new()
        .bind(on_request(|_: Act, cx| {
            Box::pin(async move {
                cx.emit(by_hand("raw"));
                cx.emit(Outgoing::from(by_hand("outgoing")));
                cx.send(ActInside).await
            })
        }))
        .bind::<ActInside>(Transactional::new(
            db.unit(),
            in_transaction(|_: ActInside, _, cx| {
                Box::pin(async move {
                    cx.emit(by_hand("kept"));
                    Ok(())
                })
            }),
        ));
    let mediator = RequestMediator::new(requests, EventEmitter::default().direct(broker.clone())).unwrap();
    mediator.send(Act).await.unwrap();
    assert_eq!(broker.payloads(), ["raw", "outgoing"]);
    assert_eq!(payloads(&db.outbox()), ["kept"]);
}

/// A request that sends another one, and both say something; a domain event's handler does so, too.
fn conversation(broker: &Arc<Recorder>) -> RequestMediator {
    conversation_with(broker, |emitter| emitter)
}

fn conversation_with(
    broker: &Arc<Recorder>,
    settings: impl FnOnce(EventEmitter) -> EventEmitter,
) -> RequestMediator {
    let requests = RequestMap::new()
        .bind(on_request(|_: Act, cx| {
            Box::pin(async move {
                cx.send(ActInside).await?;
                cx.emit(Told(2));
                cx.emit(Happened(3));
                Ok(())
            })
        }))
        .bind(on_request(|_: ActInside, cx| {
            Box::pin(async move {
                cx.emit(Told(1));
                Ok(())
            })
        }));
    let events = EventMap::new()
        .bind(on_event(|Happened(number): &Happened, cx| {
            Box::pin(async move {
                cx.emit(Told(*number));
                Ok(())
            })
        }))
        .subscribe("told", on_event(|_: &Told, cx| Box::pin(async move { cx.send(Act).await })));
    RequestMediator::new(requests, settings(EventEmitter::new(events).direct(broker.clone()))).unwrap()
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.headers.get_str(name)
}

#[tokio::test]
async fn what_is_said_carries_the_ids_of_its_conversation() {
    let broker = Recorder::new();
    let mut correlation = Correlation::new("conversation-1");
    correlation.traceparent = Some("00-1-2-01".into());
    conversation(&broker).send_correlated(Act, &correlation).await.unwrap();
    assert_eq!(broker.payloads(), ["1", "2", "3"]);
    for message in broker.messages() {
        assert_eq!(header(&message, header::CORRELATION_ID), Some("conversation-1"));
        assert_eq!(header(&message, header::CAUSATION_ID), None);
        assert_eq!(header(&message, header::TRACEPARENT), Some("00-1-2-01"));
    }
}

#[tokio::test]
async fn what_is_said_because_of_a_message_has_it_as_the_cause() {
    let broker = Recorder::new();
    let mut received = Message::new("told", "7");
    received.headers = [
        (header::ID, "message-7"),
        (header::NAME, "told"),
        (header::CORRELATION_ID, "conversation-1"),
        (header::TRACEPARENT, "00-1-2-01"),
    ]
    .into_iter()
    .collect();
    conversation(&broker).events().handle(received).await.unwrap();
    assert_eq!(broker.payloads(), ["1", "2", "3"]);
    for message in broker.messages() {
        assert_eq!(header(&message, header::CORRELATION_ID), Some("conversation-1"));
        assert_eq!(header(&message, header::CAUSATION_ID), Some("message-7"));
        assert_eq!(header(&message, header::TRACEPARENT), Some("00-1-2-01"));
    }
}

#[tokio::test]
async fn a_message_without_a_conversation_begins_one() {
    let broker = Recorder::new();
    let mut received = Message::new("told", "7");
    received.name = "told".into();
    received.id = Some("message-7".into());
    conversation(&broker).events().handle(received).await.unwrap();
    for message in broker.messages() {
        assert_eq!(header(&message, header::CORRELATION_ID), Some("message-7"));
        assert_eq!(header(&message, header::CAUSATION_ID), Some("message-7"));
    }
}

#[tokio::test]
async fn without_a_conversation_there_are_no_ids() {
    let broker = Recorder::new();
    conversation(&broker).send(Act).await.unwrap();
    for message in broker.messages() {
        assert_eq!(header(&message, header::CORRELATION_ID), None);
        assert_eq!(header(&message, header::CAUSATION_ID), None);
    }
}

/// The correlation ids of what was said, each once, in its order.
fn conversations(broker: &Recorder) -> Vec<Option<String>> {
    let messages = broker.messages();
    let mut ids: Vec<_> =
        messages.iter().map(|message| header(message, header::CORRELATION_ID).map(str::to_owned)).collect();
    ids.dedup();
    ids
}

#[tokio::test]
async fn the_emitter_gives_a_conversation_to_what_has_none_if_it_is_told_to() {
    let broker = Recorder::new();
    let mediator = conversation_with(&broker, EventEmitter::with_correlation_ids);
    mediator.send(Act).await.unwrap();
    mediator.send(Act).await.unwrap();
    mediator.events().emit(Happened(4)).await.unwrap();
    assert_eq!(broker.payloads(), ["1", "2", "3", "1", "2", "3", "4"]);
    let ids = conversations(&broker);
    assert_eq!(ids.iter().flatten().collect::<HashSet<_>>().len(), 3, "{ids:?}");

    // One that has an id, and one that has all but that.
    let broker = Recorder::new();
    let mediator = conversation_with(&broker, EventEmitter::with_correlation_ids);
    mediator.send_correlated(Act, &Correlation::new("mine")).await.unwrap();
    assert_eq!(conversations(&broker), [Some("mine".to_owned())]);
    let broker = Recorder::new();
    let mediator = conversation_with(&broker, EventEmitter::with_correlation_ids);
    let mut traced = Correlation::default();
    traced.traceparent = Some("00-1-2-01".into());
    mediator.send_with(Act, &SendOptions::default().with_correlation(traced)).await.unwrap();
    assert!(matches!(&conversations(&broker)[..], [Some(_)]));
    assert_eq!(header(&broker.messages()[2], header::TRACEPARENT), Some("00-1-2-01"));
}

#[tokio::test]
async fn handlers_of_a_message_without_an_id_share_the_conversation_that_it_is_given() {
    let broker = Recorder::new();
    let say = || {
        on_event(|_: &Told, cx| {
            Box::pin(async move {
                cx.emit(Told(1));
                Ok(())
            })
        })
    };
    let events = EventMap::new().subscribe("told", say()).subscribe("told", say());
    let emitter = EventEmitter::new(events).direct(broker.clone()).with_correlation_ids();
    let mut received = Message::new("told", "7");
    received.name = "told".into();
    EventMediator::new(emitter).unwrap().handle(received).await.unwrap();
    assert_eq!(broker.messages().len(), 2);
    assert!(matches!(&conversations(&broker)[..], [Some(_)]));
}

#[tokio::test]
async fn an_id_of_a_conversation_is_made_when_it_is_wanted_and_then_once() {
    let (broker, made) = (Recorder::new(), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&made);
    let encoder = Encoder::default().with_ids(move || {
        count.fetch_add(1, Ordering::Relaxed);
        Uuid::now_v7()
    });
    let requests = RequestMap::new()
        .bind(on_request(|_: Act, cx| {
            Box::pin(async move {
                let _ = (format!("{cx:?}"), cx.scope());
                cx.emit(Happened(1));
                Ok(())
            })
        }))
        .middleware(Timeout::after(Duration::from_secs(5)))
        .bind(on_request(|_: ActInside, cx| {
            Box::pin(async move {
                let id = cx.correlation().correlation_id;
                cx.scope().set(7);
                cx.emit(Envelope::new(Told(1)).with_id(Uuid::nil()));
                assert_eq!((cx.correlation().correlation_id, id.is_some()), (id, true));
                Ok(())
            })
        }));
    let events = EventMap::new().bind(on_event(|_: &Happened, _| Box::pin(async { Ok(()) })));
    let emitter =
        EventEmitter::new(events).direct(broker.clone()).with_encoder(encoder).with_correlation_ids();
    let mediator = RequestMediator::new(requests, emitter).unwrap();
    mediator.send(Act).await.unwrap();
    assert_eq!(made.load(Ordering::Relaxed), 0);
    mediator.send(ActInside).await.unwrap();
    assert_eq!(made.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_handler_may_set_the_ids_by_hand() {
    let broker = Recorder::new();
    let requests = RequestMap::new().bind(on_request(|_: Act, cx| {
        Box::pin(async move {
            assert_eq!(cx.correlation().correlation_id.as_deref(), Some("conversation-1"));
            cx.emit(Envelope::new(Told(1)).with_header(header::CORRELATION_ID, "mine"));
            Ok(())
        })
    }));
    let mediator = RequestMediator::new(requests, EventEmitter::default().direct(broker.clone())).unwrap();
    mediator.send_correlated(Act, &Correlation::new("conversation-1")).await.unwrap();
    let said = broker.messages();
    let ids: Vec<_> = said[0].headers.iter().filter(|(name, _)| *name == header::CORRELATION_ID).collect();
    assert_eq!(ids, [(header::CORRELATION_ID, &Bytes::from("mine"))]);
}
