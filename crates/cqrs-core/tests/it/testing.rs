//! The kit for tests, tested.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use cqrs_core::testing::{FixedClock, FixedIds, TestDatabase, TestMediator, TestMediatorBuilder};
use cqrs_core::*;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::support::{FakeDb, Happened, Told, in_transaction, on_event, on_request};

/// Sends what is within, and says both kinds of events.
#[derive(Clone, Debug, PartialEq, Request)]
#[request(response = u32)]
struct Close {
    room: u32,
}

#[derive(Debug, PartialEq, DomainEvent)]
struct Counted(u32);

/// Scripted by most tests. Not `Clone`.
#[derive(Debug, PartialEq, Request)]
#[request(response = u32)]
struct Count {
    room: u32,
}

#[derive(StreamRequest)]
#[request(item = u32)]
struct CountUp(u32);

#[derive(Debug, Serialize, EcstEvent)]
#[event(topic = "rooms", key = room)]
struct Room {
    room: u32,
    people: u32,
}

fn close() -> impl RequestHandler<Close> {
    on_request(|close: Close, cx| {
        Box::pin(async move {
            let people = cx.send(Count { room: close.room }).await?;
            cx.emit(Happened(people));
            cx.emit(Envelope::new(Told(close.room)).with_header("tenant", "blue"));
            cx.emit(Room { room: close.room, people });
            Ok(people)
        })
    })
}

fn builder() -> TestMediatorBuilder {
    TestMediator::builder().requests(RequestMap::new().bind::<Close>(close()))
}

fn counting() -> TestMediator {
    builder().answer::<Count>(|count| Ok(count.room * 10)).build()
}

/// The text of the panic.
fn failure(assertion: impl FnOnce()) -> String {
    let panicked = std::panic::catch_unwind(AssertUnwindSafe(assertion)).unwrap_err();
    *panicked.downcast::<String>().unwrap()
}

#[tokio::test]
async fn what_is_sent_emitted_and_published_is_recorded() {
    let test = counting();
    assert_eq!(test.send(Close { room: 5 }).await.unwrap(), 50);

    test.sent::<Close>().once();
    test.sent::<Count>().once().matching(|count| count.room == 5).equal_to(&Count { room: 5 });
    test.emitted::<Happened>().once().matching(|happened| happened.0 == 50);
    test.published::<Told>().once().with_key("5").with_header("tenant", "blue").on_topic("told");
    test.published::<Room>().once().equal_to(&Room { room: 5, people: 50 });
    assert_eq!(test.said(), ["happened", "told", "room"]);
    assert_eq!(
        test.journal(),
        [
            "sent Close",
            "sent Count",
            "emitted happened",
            "published told to told with the key \"5\": 5",
            "published room to rooms with the key \"5\": {\"room\":5,\"people\":50}",
        ]
    );
}

#[tokio::test]
async fn what_is_said_before_the_count_narrows_and_behind_it_asserts() {
    let test = counting();
    for room in [5, 6] {
        test.send(Close { room }).await.unwrap();
    }

    let told = || test.published::<Told>();
    told().with_key("5").once().matching(|told| told.0 == 5);
    told().matching(|told| told.0 > 5).once().with_key("6");
    told().with_header("tenant", "red").never();
    told().on_topic("elsewhere").never();
    told().without_key().never();
    told().equal_to(&Told(6)).once();
    told().times(2).with_header("tenant", "blue").inspect(|told| assert!(told.0 < 7));
    assert_eq!(told().times(2).events().iter().map(|told| told.0).collect::<Vec<_>>(), [5, 6]);
    assert_eq!(told().count(), 2);

    assert_eq!(
        failure(|| drop(told().times(2).with_key("5"))).lines().next().unwrap(),
        "`told` with the key \"5\" was to hold for all 2 that were published, and holds for 1"
    );
    assert!(
        failure(|| drop(told().once())).starts_with("`told` was to be published once, and was 2 times\n")
    );
    assert!(failure(|| drop(told().times(2).without_key())).contains("and holds for 0"));
    assert!(
        failure(|| drop(told().times(2).with_header("tenant", "red"))).contains("header tenant: \"red\"")
    );
    assert!(failure(|| drop(told().times(2).on_topic("red"))).contains("on the topic \"red\""));
    assert!(failure(|| drop(told().times(2).matching(|told| told.0 == 5))).contains("and holds for 1"));
    assert!(failure(|| drop(told().times(2).equal_to(&Told(5)))).contains("equal to 5"));
    let counted = || test.sent::<Count>();
    let text = failure(|| drop(counted().times(2).equal_to(&Count { room: 5 })));
    assert!(text.starts_with(
        "`Count` equal to Count { room: 5 } was to hold for all 2 that were sent, and holds for 1"
    ));
    assert!(text.contains("\nnot equal: Count { room: 6 }\n"), "{text}");
    test.events().emit(Counted(7)).await.unwrap();
    test.emitted::<Counted>().once().equal_to(&Counted(7));
    let text = failure(|| drop(test.emitted::<Counted>().equal_to(&Counted(8)).once()));
    assert!(
        text.starts_with(
            "`counted` equal to Counted(8) was to be emitted once, and was never\nnot equal: Counted(7)\n"
        ),
        "{text}"
    );
    assert!(failure(|| told().never()).starts_with("`told` was to be published never, and was 2 times"));
}

#[tokio::test]
async fn a_failed_assertion_shows_what_happened() {
    let test = counting();
    let nothing = failure(|| drop(test.emitted::<Happened>().once()));
    assert_eq!(nothing, "`happened` was to be emitted once, and was never\nnothing happened");

    test.send(Close { room: 5 }).await.unwrap();
    let other = failure(|| drop(test.published::<Told>().with_key("6").once()));
    assert_eq!(
        other,
        "`told` with the key \"6\" was to be published once, and was never\nwhat happened:\n  sent Close\n  sent Count\
         \n  emitted happened\n  published told to told with the key \"5\": 5\
         \n  published room to rooms with the key \"5\": {\"room\":5,\"people\":50}"
    );
}

#[tokio::test]
async fn a_failed_assertion_names_the_line_of_the_test() {
    let test = counting();
    test.send(Close { room: 5 }).await.unwrap();
    let here = Arc::new(Mutex::new(Vec::new()));
    let seen = here.clone();
    let before = Arc::new(std::panic::take_hook());
    let within = before.clone();
    // Other tests panic at the same time, and are to be heard.
    std::panic::set_hook(Box::new(move |panicked| {
        if let Some(at) = panicked.location() {
            seen.lock().unwrap().push((at.file().to_owned(), at.line()));
        }
        within(panicked);
    }));
    let line = line!();
    failure(|| drop(test.published::<Told>().times(2)));
    failure(|| drop(test.published::<Told>().once().with_key("6")));
    failure(|| drop(test.published::<Told>().once().matching(|told| told.0 == 6)));
    failure(|| drop(test.sent::<Close>().once().matching(|close| close.room == 5)));
    failure(|| drop(test.sent::<Count>().once().equal_to(&Count { room: 6 })));
    failure(|| test.published::<Told>().never());
    std::panic::set_hook(Box::new(move |panicked| before(panicked)));
    let seen = here.lock().unwrap();
    for offset in 1..=6 {
        assert!(
            seen.iter().any(|(file, at)| file.ends_with("testing.rs") && *at == line + offset),
            "{offset}: {seen:?}"
        );
    }
}

#[tokio::test]
async fn requests_of_a_handler_are_kept_if_that_is_asked_for() {
    let test = counting();
    test.send(Close { room: 5 }).await.unwrap();
    let problem = failure(|| drop(test.sent::<Close>().once().matching(|_| true)));
    assert!(
        problem.starts_with("`Close` cannot be looked into: it went to a handler and was not kept"),
        "{problem}"
    );

    let test = builder().answer::<Count>(|_| Ok(1)).keep::<Close>().build();
    test.send(Close { room: 5 }).await.unwrap();
    assert_eq!(test.sent::<Close>().once().equal_to(&Close { room: 5 }).cloned(), [Close { room: 5 }]);
}

#[tokio::test]
async fn what_a_failed_handler_said_is_not_recorded() {
    let fails = on_request(|_: Count, cx| {
        cx.emit(Happened(1));
        cx.emit(Told(1));
        Box::pin(async { Err(Error::handler("no")) })
    });
    let test = TestMediator::builder().requests(RequestMap::new().bind::<Count>(fails)).build();
    test.send(Count { room: 1 }).await.unwrap_err();
    test.sent::<Count>().once();
    assert!(test.said().is_empty());
}

#[tokio::test]
async fn events_that_lead_to_events_are_recorded_in_their_order() {
    let events = EventMap::new().bind(on_event(|happened: &Happened, cx| {
        if happened.0 > 0 {
            cx.emit(Happened(happened.0 - 1));
            cx.emit(Told(happened.0));
        }
        Box::pin(async { Ok(()) })
    }));
    let test = TestMediator::builder().events(events).build();
    test.emit(Happened(2)).await.unwrap();
    assert_eq!(test.said(), ["happened", "happened", "told", "happened", "told"]);
    let mut numbers = Vec::new();
    test.emitted::<Happened>().times(3).inspect(|happened| numbers.push(happened.0));
    assert_eq!(numbers, [2, 1, 0]);
}

#[tokio::test]
async fn a_script_stands_in_place_of_a_handler_and_its_middlewares() {
    struct Refuse;
    impl<R: Request> Middleware<R> for Refuse {
        async fn call<N: Next<R>>(&self, _: R, _: &Context<'_>, _: &N) -> Reply<R> {
            Err(Error::handler("refused").into())
        }
    }
    let real = || RequestMap::new().middleware(Refuse).bind::<Close>(close());
    let test = TestMediator::builder().requests(real()).build();
    test.send(Close { room: 1 }).await.unwrap_err();
    test.sent::<Close>().once();

    let test = TestMediator::builder().requests(real()).answer::<Close>(|_| Ok(3)).build();
    assert_eq!(test.send(Close { room: 1 }).await.unwrap(), 3);
    test.sent::<Close>().once().equal_to(&Close { room: 1 });
}

#[tokio::test]
async fn a_retry_does_not_count_again() {
    #[derive(Clone, Request)]
    #[request(retry)]
    struct Flaky;
    let tries = Arc::new(AtomicU32::new(0));
    let counted = tries.clone();
    let flaky = on_request(move |_: Flaky, cx| {
        cx.emit(Told(counted.load(Ordering::Relaxed)));
        let failed = counted.fetch_add(1, Ordering::Relaxed) < 2;
        let error = || Error::new(ErrorKind::Store, "later").with_retryable(true);
        Box::pin(async move { if failed { Err(error()) } else { Ok(()) } })
    });
    let policy = RetryPolicy::default().with_first_delay(Duration::from_millis(1));
    let requests = RequestMap::new().middleware(Retry::new(policy)).bind::<Flaky>(flaky);
    let test = TestMediator::builder().requests(requests).build();
    test.send(Flaky).await.unwrap();
    assert_eq!(tries.load(Ordering::Relaxed), 3);
    test.sent::<Flaky>().once();
    test.published::<Told>().once().equal_to(&Told(2));
}

#[tokio::test]
async fn answers_in_turn_come_once_each() {
    let test = TestMediator::builder()
        .answer_in_turn::<Count>([Ok(1), Err(Error::handler("the second")), Ok(3)])
        .build();
    assert_eq!(test.send(Count { room: 1 }).await.unwrap(), 1);
    assert_eq!(test.send(Count { room: 1 }).await.unwrap_err().to_string(), "the second");
    assert_eq!(test.send(Count { room: 1 }).await.unwrap(), 3);
    let spent = test.send(Count { room: 1 }).await.unwrap_err();
    assert_eq!(spent.kind(), ErrorKind::MissingHandler);
    assert_eq!(spent.to_string(), "the test has 3 answers to the request `Count`, and it was sent once more");
    test.sent::<Count>().times(4).matching(|count| count.room == 1);
}

#[tokio::test]
async fn a_request_whose_answer_panics_is_kept() {
    let test = TestMediator::builder()
        .requests(RequestMap::new().middleware(CatchPanic).bind::<Close>(close()))
        .answer::<Count>(|count| panic!("room {}?", count.room))
        .answer_stream::<CountUp, Vec<_>>(|up| panic!("up to {}?", up.0))
        .build();
    let error = test.send(Close { room: 5 }).await.unwrap_err();
    assert_eq!(error.to_string(), "the handler of `Close` panicked: room 5?");
    test.sent::<Count>().once().matching(|count| count.room == 5);

    let mut items = test.stream(CountUp(7));
    assert!(AssertUnwindSafe(items.next()).catch_unwind().await.is_err());
    test.streamed::<CountUp>().once().matching(|up| up.0 == 7);
}

#[tokio::test]
async fn streams_are_scripted_and_recorded() {
    struct Up;
    impl StreamHandler<CountUp> for Up {
        fn handle(
            &self,
            CountUp(last): CountUp,
            cx: &Context<'_>,
        ) -> impl futures_util::Stream<Item = Result<u32>> + Send {
            cx.emit(Told(last));
            futures_util::stream::iter((1..=last).map(Ok))
        }
    }
    let scripted = TestMediator::builder()
        .answer_stream::<CountUp, _>(|up| [Ok(up.0), Err(Error::handler("broken"))])
        .build();
    let items: Vec<_> = scripted.stream(CountUp(7)).collect().await;
    assert!(matches!(items[..], [Ok(7), Err(_)]));
    scripted.streamed::<CountUp>().once().matching(|up| up.0 == 7);

    let real = TestMediator::builder().requests(RequestMap::new().bind_stream::<CountUp>(Up)).build();
    let unread = real.stream(CountUp(2));
    real.streamed::<CountUp>().never();
    drop(unread);
    assert_eq!(real.stream(CountUp(2)).try_collect::<Vec<_>>().await.unwrap(), [1, 2]);
    real.streamed::<CountUp>().once();
    real.published::<Told>().once().with_key("2");
}

#[tokio::test]
async fn whole_messages_can_be_compared() {
    let test = counting();
    test.send(Close { room: 5 }).await.unwrap();
    test.clock().advance(Duration::from_secs(60));
    test.send(Close { room: 5 }).await.unwrap();

    let messages = test.published::<Told>().times(2).messages();
    let midnight: DateTime<Utc> = "2000-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(messages[0].timestamp, Some(midnight));
    assert_eq!(messages[1].timestamp, Some(midnight + Duration::from_secs(60)));
    assert_eq!(messages[0].id, Some(FixedIds::nth(1).into()));
    // The second is that of the room.
    assert_eq!(messages[1].id, Some(FixedIds::nth(3).into()));

    let again = counting();
    again.send(Close { room: 5 }).await.unwrap();
    assert_eq!(again.published::<Told>().once().messages()[0], messages[0]);
}

#[tokio::test]
async fn an_encoder_with_a_clock_and_ids_keeps_them() {
    let clock = FixedClock::new(DateTime::UNIX_EPOCH);
    let encoder = Encoder::default().with_clock(clock.source()).with_ids(Uuid::now_v7);
    let test = TestMediator::builder().emitter(EventEmitter::default().with_encoder(encoder)).build();
    test.emit(Told(1)).await.unwrap();
    clock.set("2026-01-02T03:04:05.123456789Z".parse().unwrap());
    test.emit(Told(2)).await.unwrap();
    let messages = test.published::<Told>().times(2).messages();
    assert_eq!(messages[0].timestamp, Some(DateTime::UNIX_EPOCH));
    // Microseconds, as on the wire.
    assert_eq!(messages[1].timestamp.unwrap().to_rfc3339(), "2026-01-02T03:04:05.123456+00:00");
    assert_eq!(messages[0].id.as_ref().unwrap().to_uuid().unwrap().get_version_num(), 7);

    // And those of the test are shared with whoever has them.
    let (clock, ids) = (FixedClock::new(DateTime::UNIX_EPOCH), FixedIds::default());
    let test = TestMediator::builder().clock(&clock).ids(&ids).build();
    ids.give();
    clock.advance(Duration::MAX);
    assert_eq!(clock.now(), DateTime::<Utc>::MAX_UTC);
    clock.set(DateTime::UNIX_EPOCH);
    test.emit(Told(1)).await.unwrap();
    let message = test.published::<Told>().once().messages().remove(0);
    assert_eq!((message.timestamp, message.id), (Some(clock.now()), Some(FixedIds::nth(2).into())));
}

#[test]
fn a_message_made_by_hand_gets_what_it_lacks_from_the_encoder() {
    let encoder = Encoder::default().with_clock(|| DateTime::UNIX_EPOCH).with_ids(|| FixedIds::nth(7));
    let mut message = Message::new("rooms", "{}");
    message.name = "room_closed".to_owned();
    let finished = encoder.finish(message.clone(), &Correlation::default()).unwrap();
    assert_eq!(
        (finished.timestamp, finished.id),
        (Some(DateTime::UNIX_EPOCH), Some(FixedIds::nth(7).into()))
    );

    (message.timestamp, message.id) = (Some(DateTime::<Utc>::MIN_UTC), Some("mine".into()));
    let finished = encoder.finish(message.clone(), &Correlation::default()).unwrap();
    assert_eq!((finished.timestamp, finished.id), (message.timestamp, message.id));
}

#[tokio::test]
async fn a_received_event_goes_to_its_subscribers() {
    let events = EventMap::new().subscribe::<Told>(
        "told",
        on_event(|told: &Told, cx| {
            cx.emit(Happened(told.0));
            let tenant = cx.message().and_then(|message| message.headers.get_str("tenant")).unwrap_or("none");
            cx.emit(Envelope::new(Told(told.0 + 1)).with_header("tenant", tenant.to_owned()));
            Box::pin(async { Ok(()) })
        }),
    );
    let test = TestMediator::builder().events(events).build();
    let dispatched = test.receive(Envelope::new(Told(1)).with_header("tenant", "blue")).await.unwrap();
    assert_eq!(dispatched.handled, 1);
    test.emitted::<Happened>().once();
    // What was received was not published.
    let messages =
        test.published::<Told>().once().equal_to(&Told(2)).with_header("tenant", "blue").messages();
    assert_eq!(messages[0].headers.get_str("causation-id"), Some(&*FixedIds::nth(1).to_string()));
    assert!(test.receive(Envelope::new(Told(1)).with_topic("elsewhere")).await.unwrap().is_unhandled());
}

#[tokio::test]
async fn what_any_transaction_commits_is_recorded() {
    let database = FakeDb::new();
    let unit = database.unit();
    let closes = in_transaction(|close: Close, tx, cx| {
        tx.insert("closed");
        cx.emit(Happened(1));
        cx.emit(Envelope::new(Told(close.room)).deliver_after(Duration::from_secs(9)));
        Box::pin(
            async move { if close.room == 13 { Err(Error::handler("unlucky")) } else { Ok(close.room) } },
        )
    });
    let requests = RequestMap::new().bind::<Close>(Transactional::new(unit, closes));
    let test = TestMediator::builder().requests(requests).without_direct().build();

    database.fail("commit", ErrorKind::Transaction);
    test.send(Close { room: 5 }).await.unwrap_err();
    test.send(Close { room: 13 }).await.unwrap_err();
    assert!(test.said().is_empty());

    test.send(Close { room: 5 }).await.unwrap();
    let outgoing = test.published::<Told>().once().with_key("5").outgoing();
    assert_eq!(outgoing, database.outgoing());
    assert_eq!(outgoing[0].options.deliver, Some(Deliver::After(Duration::from_secs(9))));
    assert_eq!(test.said(), ["told", "happened"]);
}

#[tokio::test]
async fn a_duplicate_that_an_outbox_leaves_out_is_not_published() {
    struct Dedups;
    struct DedupTx;
    impl Database for Dedups {
        type Tx = DedupTx;
    }
    #[async_trait::async_trait]
    impl BeginTransaction<Dedups> for Dedups {
        async fn begin(&self) -> Result<DedupTx> {
            Ok(DedupTx)
        }
        fn encoder(&self) -> &Encoder {
            unreachable!("the emitter has one")
        }
    }
    impl Transaction for DedupTx {
        async fn write(&mut self, messages: Vec<Outgoing>) -> Result<Added> {
            let mut added = Added::all(&messages);
            added.events[1].outcome = AddOutcome::Duplicate;
            Ok(added)
        }
        async fn commit(self) -> Result<()> {
            Ok(())
        }
        async fn rollback(self) -> Result<()> {
            Ok(())
        }
    }
    struct Thrice;
    impl TransactionalHandler<Close, Dedups> for Thrice {
        async fn handle(&self, _: Close, _: &mut DedupTx, cx: &Context<'_>) -> Result<u32> {
            (1..=3).for_each(|number| cx.emit(Told(number)));
            Ok(0)
        }
    }
    let unit = UnitOfWork::new(Arc::new(Dedups), BeforeCommit::new());
    let requests = RequestMap::new().bind::<Close>(Transactional::new(unit, Thrice));
    let test = TestMediator::builder().requests(requests).build();
    test.send(Close { room: 1 }).await.unwrap();
    let numbers: Vec<u32> = test.published::<Told>().times(2).events().iter().map(|told| told.0).collect();
    assert_eq!(numbers, [1, 3]);
}

#[tokio::test]
async fn a_test_database_counts_how_transactions_ended() {
    struct Tell;
    impl<D: Database> TransactionalHandler<Count, D> for Tell {
        async fn handle(&self, count: Count, tx: &mut D::Tx, cx: &Context<'_>) -> Result<u32> {
            tx.lock_key(b"key").await?;
            cx.emit(Told(count.room));
            cx.emit(Happened(count.room));
            if count.room == 13 { Err(Error::handler("unlucky")) } else { Ok(0) }
        }
    }
    struct TellBefore;
    impl<D: Database> TransactionalEventHandler<Happened, D> for TellBefore {
        async fn handle(&self, _: &Happened, _: &mut D::Tx, cx: &Context<'_>) -> Result<()> {
            cx.emit(Told(0));
            Ok(())
        }
    }
    let database = TestDatabase::default();
    let unit = database.unit_with(BeforeCommit::new().bind::<Happened>(TellBefore));
    let requests = RequestMap::new().bind::<Count>(Transactional::new(unit, Tell));
    let test = TestMediator::builder().requests(requests).build();

    test.send(Count { room: 13 }).await.unwrap_err();
    assert_eq!((database.commits(), database.rollbacks()), (0, 1));
    database.fail_commit(Error::new(ErrorKind::CommitUnknown, "cut off"));
    assert_eq!(test.send(Count { room: 1 }).await.unwrap_err().kind(), ErrorKind::CommitUnknown);
    assert_eq!((database.commits(), database.rollbacks()), (0, 2));
    assert!(test.said().is_empty());

    test.send(Count { room: 1 }).await.unwrap();
    assert_eq!((database.commits(), database.rollbacks()), (1, 2));
    assert_eq!(test.said(), ["told", "told", "happened"]);
}

#[tokio::test]
async fn without_a_direct_target_events_are_refused_as_in_the_application() {
    let test = builder().answer::<Count>(|_| Ok(1)).without_direct().build();
    assert_eq!(test.send(Close { room: 5 }).await.unwrap_err().kind(), ErrorKind::NoTarget);
    assert!(test.said().is_empty());
}

#[tokio::test]
async fn a_broker_of_the_test_is_kept_and_what_it_refuses_is_not_published() {
    let broker = crate::support::Recorder { refused: ["told"].into(), ..Default::default() };
    let broker = Arc::new(broker);
    let test =
        builder().emitter(EventEmitter::default().direct(broker.clone())).answer::<Count>(|_| Ok(1)).build();
    test.send(Close { room: 5 }).await.unwrap_err();
    test.published::<Told>().never();
    assert_eq!(test.published::<Room>().once().messages(), broker.messages());
}

#[tokio::test]
async fn what_was_sent_to_prepare_is_forgotten() {
    let test = counting();
    test.send(Close { room: 5 }).await.unwrap();
    test.forget();
    assert!(test.journal().is_empty());
    test.clone().send(Close { room: 6 }).await.unwrap();
    test.published::<Told>().once().with_key("6");
}

#[tokio::test]
async fn all_ways_to_the_mediator_are_recorded() {
    async fn close(mediator: &impl Dispatch<Close>) -> Result<u32> {
        mediator.send(Close { room: 5 }).await
    }
    let test = counting();
    close(&test).await.unwrap();
    close(test.requests()).await.unwrap();
    close(&test.requests().handle_of::<Close>().unwrap()).await.unwrap();
    test.send_with(Close { room: 5 }, &SendOptions::default()).await.unwrap();
    test.events().emit(Happened(1)).await.unwrap();
    test.sent::<Close>().times(4);
    test.sent::<Count>().times(4);
    test.emitted::<Happened>().times(5);

    // Not before somebody waits for it.
    let reply = test.send(Close { room: 5 });
    test.sent::<Close>().times(4);
    reply.await.unwrap();
    test.sent::<Close>().times(5);
}

#[tokio::test]
async fn what_goes_along_with_a_request_reaches_a_recorded_handler() {
    let looks = on_request(|_: Count, cx| {
        Box::pin(async move {
            cx.emit(Told(1));
            assert!(cx.deadline().is_some());
            assert_eq!(cx.scope().get::<u32>().as_deref(), Some(&7));
            Ok(0)
        })
    });
    let test = TestMediator::builder().requests(RequestMap::new().bind::<Count>(looks)).build();
    let scope = Scope::default();
    scope.set(7_u32);
    let options = SendOptions::default()
        .with_timeout(Duration::from_secs(60))
        .with_scope(scope)
        .with_correlation(Correlation::new("conversation"));
    test.send_with(Count { room: 1 }, &options).await.unwrap();
    test.published::<Told>().once().with_header("correlation-id", "conversation");
}

#[test]
fn all_that_is_wrong_with_a_test_is_said_at_once() {
    let twice = || RequestMap::new().bind::<Close>(close()).bind::<Close>(close());
    let built = failure(|| {
        let builder = TestMediator::builder().requests(twice()).requests(twice());
        builder.answer::<Count>(|_| Ok(1)).answer_in_turn::<Count>([]).build();
    });
    assert_eq!(
        built,
        "the mediator of the test cannot be built: `requests` was called twice: bind all handlers to one map\n\
         the request `Count` is answered twice: say all of it in one closure\n\
         two handlers are bound to the request `Close`: a request has exactly one, remove the second"
    );
    let built = failure(|| {
        TestMediator::builder().events(EventMap::new()).emitter(EventEmitter::default()).build();
    });
    assert!(
        built.ends_with("`events` or `emitter` was called twice: an emitter has the map of events"),
        "{built}"
    );
}

#[tokio::test]
async fn a_request_without_handler_and_script_is_an_error() {
    let test = builder().build();
    let error = test.send(Close { room: 5 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingHandler);
    test.sent::<Count>().never();
}

#[tokio::test]
async fn a_payload_of_another_type_is_said() {
    #[derive(Debug, Serialize, Deserialize, NotificationEvent)]
    #[event(name = "told", topic = "told")]
    struct AlsoTold {
        text: String,
    }
    let test = TestMediator::builder().build();
    test.emit(Told(5)).await.unwrap();
    let problem = failure(|| drop(test.published::<AlsoTold>().once().events()));
    assert!(problem.starts_with("`told` cannot be looked into: the payload of `told`"), "{problem}");
    assert!(
        failure(|| drop(test.published::<AlsoTold>().matching(|_| true))).contains("cannot be looked into")
    );
}
