//! Requests that are answered with one item after the other.

use cqrs_core::*;
use futures_util::{Stream, StreamExt, TryStreamExt};

use crate::support::*;

#[derive(StreamRequest)]
#[request(item = u32, name = "count")]
struct CountTo(u32);

#[derive(Request)]
#[request(response = u32)]
struct Sum(u32);

/// Says that each number happened before it gives it, and 100 at the end. 13 is an error; behind it the stream goes on.
struct Counter(&'static Journal);

impl StreamHandler<CountTo> for Counter {
    fn handle(&self, CountTo(last): CountTo, cx: &Context<'_>) -> impl Stream<Item = Result<u32>> + Send {
        async_stream::stream! {
            for number in 1..=last {
                self.0.note(format!("makes {number}"));
                cx.emit(Happened(number));
                tokio::task::yield_now().await;
                yield if number == 13 { Err(Error::handler("unlucky")) } else { Ok(number) };
            }
            cx.emit(Happened(100));
        }
    }
}

fn counting(journal: &'static Journal) -> RequestMediator {
    let requests =
        RequestMap::new().bind_stream::<CountTo>(Counter(journal)).bind(on_request(|Sum(last): Sum, cx| {
            Box::pin(
                async move { cx.stream(CountTo(last)).try_fold(0, async |sum, item| Ok(sum + item)).await },
            )
        }));
    let events = EventMap::new().bind(on_event(move |Happened(number): &Happened, _| {
        journal.note(format!("happened {number}"));
        Box::pin(async { Ok(()) })
    }));
    RequestMediator::new(requests, EventEmitter::new(events)).unwrap()
}

#[tokio::test]
async fn items_come_as_they_are_asked_for_and_events_go_out_before_each() {
    let journal = Journal::new();
    let mediator = counting(journal);
    let mut items = mediator.stream(CountTo(2));
    assert!(journal.entries().is_empty());
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
    assert_eq!(journal.entries(), ["makes 1", "happened 1"]);
    assert_eq!(items.next().await.unwrap().unwrap(), 2);
    assert!(items.next().await.is_none());
    assert_eq!(journal.entries(), ["makes 1", "happened 1", "makes 2", "happened 2", "happened 100"]);
}

#[tokio::test]
async fn a_stream_that_is_dropped_stops_its_handler() {
    let journal = Journal::new();
    let mediator = counting(journal);
    let items: Vec<_> = mediator.stream(CountTo(1000)).take(2).try_collect().await.unwrap();
    assert_eq!(items, [1, 2]);
    assert_eq!(journal.entries(), ["makes 1", "happened 1", "makes 2", "happened 2"]);
}

#[tokio::test]
async fn an_item_that_fails_drops_what_was_said_for_it_and_no_more() {
    let journal = Journal::new();
    let mediator = counting(journal);
    let items: Vec<_> = mediator.stream(CountTo(14)).collect().await;
    assert_eq!(items.iter().filter(|item| item.is_err()).count(), 1);
    assert_eq!(items.len(), 14);
    assert!(!journal.entries().contains(&"happened 13".to_owned()));
    assert!(journal.entries().contains(&"happened 14".to_owned()));
}

#[tokio::test]
async fn an_event_that_cannot_go_out_ends_the_stream_with_its_error() {
    let requests = RequestMap::new().bind_stream::<CountTo>(Counter(Journal::new()));
    let events = EventMap::new().bind(on_event(|Happened(number): &Happened, _| {
        let failed = *number == 2;
        Box::pin(async move { if failed { Err(Error::handler("no")) } else { Ok(()) } })
    }));
    let mediator = RequestMediator::new(requests, EventEmitter::new(events)).unwrap();
    let items: Vec<_> = mediator.stream(CountTo(5)).map_err(|error| error.to_string()).collect().await;
    assert_eq!(items, [Ok(1), Err("no".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_at_its_deadline() {
    #[derive(StreamRequest)]
    #[request(item = u32)]
    struct Slowly;

    struct Slow;

    impl StreamHandler<Slowly> for Slow {
        fn handle(&self, _: Slowly, cx: &Context<'_>) -> impl Stream<Item = Result<u32>> + Send {
            assert!(cx.deadline().is_some());
            async_stream::stream! {
                for number in 1.. {
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    yield if number == 2 { Err(Error::handler("two")) } else { Ok(number) };
                }
            }
        }
    }

    let requests = RequestMap::new().bind_stream::<Slowly>(Slow);
    let mediator = RequestMediator::new(requests, EventEmitter::default()).unwrap();
    let options = SendOptions::default().with_timeout(std::time::Duration::from_millis(3500));
    let items = mediator.stream_with(Slowly, &options).map_err(|error| error.kind());
    // One that does not end gives errors for ever.
    let items: Vec<_> = items.take(20).collect().await;
    assert_eq!(items, [Ok(1), Err(ErrorKind::Handler), Ok(3), Err(ErrorKind::Timeout)]);
}

#[tokio::test]
async fn handlers_read_streams_of_others() {
    assert_eq!(counting(Journal::new()).send(Sum(4)).await.unwrap(), 10);
}

#[tokio::test]
async fn a_stream_without_a_handler_gives_an_error_that_says_what_to_do() {
    let mediator = RequestMediator::new(RequestMap::new(), EventEmitter::default()).unwrap();
    let mut items = mediator.stream(CountTo(1));
    let error = items.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingHandler);
    assert!(error.to_string().contains("`count`: bind one with `RequestMap::bind_stream`"), "{error}");
    assert!(items.next().await.is_none());
}

#[test]
fn two_handlers_of_one_stream_are_found_when_the_mediator_is_made() {
    let requests = RequestMap::new()
        .bind_stream::<CountTo>(Counter(Journal::new()))
        .bind_stream::<CountTo>(Counter(Journal::new()));
    let error = RequestMediator::new(requests, EventEmitter::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("two handlers are bound to the request `count`"), "{error}");
}
