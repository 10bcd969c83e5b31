//! What a writer asks an outbox for, on its way there; and where there is no outbox.

use std::sync::Arc;
use std::time::Duration;

use cqrs_core::*;
use uuid::Uuid;

use crate::support::*;

#[derive(Request)]
struct Close;

const HOUR: Duration = Duration::from_secs(3_600);

fn once(number: u32) -> Envelope<Told> {
    Envelope::new(Told(number)).with_dedup_key("once", HOUR)
}

fn tomorrow() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now() + HOUR * 24
}

fn encode(event: impl IntoMessage) -> Result<Outgoing> {
    event.into_outgoing(&Encoder::default(), &Correlation::default())
}

fn refused<T>(result: Result<T>, kind: ErrorKind, parts: &[&str]) {
    let error = result.err().expect("it was not refused");
    assert_eq!(error.kind(), kind, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn an_envelope_keeps_what_it_asks_for_beside_the_message() {
    let at = tomorrow();
    let plain = encode(Told(1)).unwrap();
    assert!(plain.options.is_empty());
    let all = encode(once(1).with_key("k").with_key_version(7).deliver_at(at)).unwrap();
    assert_eq!(all.options.dedup, Some(Dedup::new("once", HOUR)));
    assert_eq!(all.options.key_version, Some(7));
    assert_eq!(all.options.deliver, Some(Deliver::At(at)));
    assert_eq!(
        all.message.headers.iter().count(),
        plain.message.headers.iter().count(),
        "a broker carries none of it"
    );
    // The last word counts.
    let later = encode(Envelope::new(Told(1)).deliver_at(at).deliver_after(HOUR)).unwrap();
    assert_eq!(later.options.deliver, Some(Deliver::After(HOUR)));
}

#[test]
fn a_message_made_by_hand_can_ask_too() {
    let mut message = Message::new("told", "1");
    message.name = "told".to_owned();
    let mut outgoing = Outgoing::from(message);
    outgoing.options.key_version = Some(1);
    refused(encode(outgoing.clone()), ErrorKind::InvalidEvent, &["`told`", "no key"]);
    outgoing.message.key = Some("k".into());
    let made = encode(outgoing.clone()).unwrap();
    assert_eq!(made.options, outgoing.options);
    assert!(made.message.id.is_some(), "it was not finished");
    refused(
        IntoMessage::into_message(outgoing, &Encoder::default(), &Correlation::default()),
        ErrorKind::NoTarget,
        &["a version of its key"],
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    let invalid = ErrorKind::InvalidEvent;
    refused(encode(Envelope::new(Told(1)).without_key().with_key_version(1)), invalid, &["`told`", "no key"]);
    let window = |window| encode(Envelope::new(Told(1)).with_dedup_key("k", window));
    refused(window(Duration::ZERO), invalid, &["`told`", "empty window"]);
    refused(window(Duration::MAX), invalid, &["`told`", "100 years"]);
    refused(encode(Envelope::new(Told(1)).deliver_after(Duration::MAX)), invalid, &["100 years"]);
    let far = "+10000-01-01T00:00:00Z".parse().unwrap();
    refused(encode(Envelope::new(Told(1)).deliver_at(far)), invalid, &["9999"]);
    window(HOUR * 24 * 365 * 99).unwrap();
}

#[tokio::test]
async fn what_a_transactional_handler_asks_for_reaches_the_outbox() {
    let db = FakeDb::new();
    let before_commit = BeforeCommit::new().bind(before_the_commit(|_: &Happened, _, cx| {
        cx.emit(once(2).deliver_after(HOUR));
        Box::pin(async { Ok(()) })
    }));
    let handler = in_transaction(|_: Close, _, cx| {
        cx.emit(Happened(1));
        cx.emit(once(1));
        cx.emit(Told(3));
        Box::pin(async { Ok(()) })
    });
    let requests = RequestMap::new().bind::<Close>(Transactional::new(db.unit_with(before_commit), handler));
    // The direct target is not theirs.
    let broker = Arc::new(Recorder::default());
    let emitter = EventEmitter::default().direct(broker.clone());
    RequestMediator::new(requests, emitter).unwrap().send(Close).await.unwrap();
    let asked = |dedup, deliver| {
        let mut options = WriteOptions::default();
        (options.dedup, options.deliver) = (dedup, deliver);
        options
    };
    let once = Some(Dedup::new("once", HOUR));
    let outgoing: Vec<(String, WriteOptions)> = db
        .outgoing()
        .into_iter()
        .map(|outgoing| (payloads(&[outgoing.message]).remove(0), outgoing.options))
        .collect();
    assert_eq!(
        outgoing,
        [
            ("1".to_owned(), asked(once.clone(), None)),
            ("3".to_owned(), asked(None, None)),
            ("2".to_owned(), asked(once, Some(Deliver::After(HOUR)))),
        ]
    );
    assert!(broker.payloads().is_empty());
}

#[tokio::test]
async fn what_only_an_outbox_can_do_is_refused_on_the_way_to_a_broker() {
    let wishes: [fn() -> Envelope<Told>; 3] = [
        || once(1),
        || Envelope::new(Told(1)).with_key("k").with_key_version(1),
        || Envelope::new(Told(1)).deliver_at(tomorrow()),
    ];
    let words = ["a deduplication key", "a version of its key", "a time of delivery"];
    for (wish, word) in wishes.into_iter().zip(words) {
        let broker = Arc::new(Recorder::default());
        let requests = RequestMap::new().bind(on_request(move |_: Close, cx| {
            cx.emit(Told(0));
            cx.emit(wish());
            Box::pin(async { Ok(()) })
        }));
        let emitter = EventEmitter::default().direct(broker.clone());
        let sent = RequestMediator::new(requests, emitter).unwrap().send(Close).await;
        refused(sent, ErrorKind::NoTarget, &["`told`", word, "only an outbox"]);
        assert!(broker.payloads().is_empty(), "one refused event refuses all");
        refused(Encoder::default().encode(wish(), &Correlation::default()), ErrorKind::NoTarget, &[word]);
    }
}

#[tokio::test]
async fn what_a_transaction_does_not_have_is_refused() {
    let mut tx = FakeDb::new().begin().await.unwrap();
    refused(tx.lock_key(b"k").await, ErrorKind::Configuration, &["locks"]);
    refused(tx.cancel(Uuid::nil()).await, ErrorKind::Configuration, &["scheduled"]);
    refused(tx.reschedule(Uuid::nil(), tomorrow()).await, ErrorKind::Configuration, &["scheduled"]);
}

#[test]
fn a_conflict_says_which_versions() {
    let error = VersionConflict::new("room\x00", 3, 5).into_error();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Conflict, true));
    assert_eq!(
        error.downcast_ref::<VersionConflict>().map(|conflict| (conflict.wanted, conflict.stored)),
        Some((3, 5))
    );
    for part in ["version 3", "version 5", "room\\x00"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}
