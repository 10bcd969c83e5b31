//! Middlewares around streaming requests: their order, what is forgotten, and those that come with the crate.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cqrs_core::testing::TestMediator;
use cqrs_core::*;
use futures_util::{FutureExt, Stream, StreamExt};
use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit,
};
use tokio::time::{Instant, sleep};

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

/// Says that each number happened before it gives it, and 100 at the end; it takes a second for each. 13 is an error, at 66 it
/// panics, and at 67 at once.
#[derive(Clone, Debug, StreamRequest)]
#[request(item = u32, name = "count")]
struct Count(Vec<u32>);

/// The same.
#[derive(StreamRequest)]
#[request(item = u32, name = "other")]
struct Other(Vec<u32>);

struct Counting;

impl Counting {
    fn count(numbers: Vec<u32>, cx: &Context<'_>) -> impl Stream<Item = Result<u32>> + Send {
        assert!(!numbers.contains(&67), "at once");
        async_stream::stream! {
            for number in numbers {
                cx.emit(Happened(number));
                sleep(SECOND).await;
                tracing::info!(number);
                match number {
                    13 => yield Err(Error::handler("unlucky")),
                    66 => panic!("the number {number}"),
                    number => yield Ok(number),
                }
            }
            cx.emit(Happened(100));
        }
    }
}

impl StreamHandler<Count> for Counting {
    fn handle(&self, request: Count, cx: &Context<'_>) -> impl Stream<Item = Result<u32>> + Send {
        Self::count(request.0, cx)
    }
}

impl StreamHandler<Other> for Counting {
    fn handle(&self, request: Other, cx: &Context<'_>) -> impl Stream<Item = Result<u32>> + Send {
        Self::count(request.0, cx)
    }
}

fn mediator<S, V>(requests: RequestMap<S, V>, journal: &'static Journal) -> RequestMediator {
    let events = EventMap::new().bind(on_event(move |Happened(number): &Happened, _| {
        journal.note(format!("happened {number}"));
        Box::pin(async { Ok(()) })
    }));
    RequestMediator::new(requests, EventEmitter::new(events)).unwrap()
}

/// The items, errors as their text; not for ever.
async fn all(
    items: Streaming<'_, impl StreamRequest<Item = u32, Error = Error>>,
) -> Vec<Result<u32, String>> {
    items.map(|item| item.map_err(|error| error.to_string())).take(20).collect().await
}

fn err(text: &str) -> Result<u32, String> {
    Err(text.to_owned())
}

/// Notes when a stream begins and ends, and says 50 before it.
struct Note(&'static str, &'static Journal);

impl<R: StreamRequest> StreamMiddleware<R> for Note {
    fn call<N: StreamHandler<R>>(
        &self,
        request: R,
        cx: &Context<'_>,
        next: &N,
    ) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
        async_stream::stream! {
            self.1.note(format!("{} > {}", self.0, R::name()));
            cx.emit(Happened(50));
            for await item in next.handle(request, cx) {
                yield item;
            }
            self.1.note(format!("{} <", self.0));
        }
    }

    fn check(&self, placement: &Placement) -> Result<(), String> {
        if self.0 == "alone" && placement.is_within::<Self>() {
            return Err("it wants to be alone".to_owned());
        }
        Ok(())
    }
}

impl<R: Request> Middleware<R> for Note {
    async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
        self.1.note("around a request");
        next.run(request, cx).await
    }
}

#[tokio::test(start_paused = true)]
async fn they_stand_around_the_streams_that_are_bound_after_them() {
    let journal = Journal::new();
    let requests = RequestMap::new()
        .middleware(Note("request", journal))
        .bind_stream::<Other>(Counting)
        .stream_middleware(Note("outer", journal))
        .stream_middleware(Note("inner", journal))
        .bind_stream::<Count>(Counting);
    let mediator = mediator(requests, journal);
    assert_eq!(all(mediator.stream(Other(vec![1]))).await, [Ok(1)]);
    assert_eq!(journal.entries(), ["happened 1", "happened 100"]);
    journal.clear();
    assert_eq!(all(mediator.stream(Count(vec![2]))).await, [Ok(2)]);
    assert_eq!(
        journal.entries(),
        [
            "outer > count",
            "inner > count",
            "happened 50",
            "happened 50",
            "happened 2",
            "inner <",
            "outer <",
            "happened 100"
        ]
    );
}

#[test]
fn one_that_cannot_stand_where_it_does_is_refused_when_the_mediator_is_made() {
    let journal = Journal::new();
    let refused = |requests| {
        RequestMediator::new::<NoMiddleware, _>(requests, EventEmitter::default()).unwrap_err().to_string()
    };
    let note = |name| Note(name, journal);
    let requests = RequestMap::new().stream_middleware(note("first")).stream_middleware(note("alone"));
    assert_eq!(refused(requests.bind_stream::<Count>(Counting)), "the request `count`: it wants to be alone");
    let passing = RequestMap::new()
        .stream_middleware(note("first"))
        .stream_middleware(Except::new(note("alone")).stream::<Count>())
        .bind_stream::<Count>(Counting);
    mediator(passing, journal);
    let closed = RequestMap::new().stream_middleware(ConcurrencyLimit::new(0));
    let text = RequestMediator::new(closed.bind_stream::<Count>(Counting), EventEmitter::default());
    assert!(text.unwrap_err().to_string().contains("lets nothing through"));
    let hasty = RequestMap::new().stream_middleware(Timeout::after(Duration::ZERO));
    let text = RequestMediator::new(hasty.bind_stream::<Count>(Counting), EventEmitter::default());
    assert!(text.unwrap_err().to_string().contains("a `Timeout` of zero fails each handler"));
}

/// Gives 0 in place of an error, and ends behind the first items.
struct Instead(usize);

impl<R: StreamRequest<Item = u32>> StreamMiddleware<R> for Instead {
    fn call<N: StreamHandler<R>>(
        &self,
        request: R,
        cx: &Context<'_>,
        next: &N,
    ) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
        next.handle(request, cx).map(|item| Ok(item.unwrap_or(0))).take(self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_said_for_an_item_that_failed_is_forgotten_whatever_is_given_instead() {
    let journal = Journal::new();
    let requests = RequestMap::new().stream_middleware(Instead(3)).bind_stream::<Count>(Counting);
    let mediator = mediator(requests, journal);
    assert_eq!(all(mediator.stream(Count(vec![1, 13, 3, 4]))).await, [Ok(1), Ok(0), Ok(3)]);
    assert_eq!(journal.entries(), ["happened 1", "happened 3"]);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_ends_the_stream_and_drops_what_was_said_for_the_item() {
    let journal = Journal::new();
    let requests =
        RequestMap::new().stream_middleware(Timeout::after(SECOND * 7 / 2)).bind_stream::<Count>(Counting);
    let (mediator, began) = (mediator(requests, journal), Instant::now());
    let items = all(mediator.stream(Count(vec![1, 13, 3, 4, 5]))).await;
    let late = err("the time for `count` is up behind 2 of its items: who asks again gets these again");
    assert_eq!(items, [Ok(1), err("unlucky"), Ok(3), late]);
    assert_eq!(began.elapsed(), SECOND * 7 / 2);
    assert_eq!(journal.entries(), ["happened 1", "happened 3"]);
    journal.clear();
    assert_eq!(all(mediator.stream(Count(vec![1, 2]))).await, [Ok(1), Ok(2)]);
    assert_eq!(journal.entries(), ["happened 1", "happened 2", "happened 100"]);
}

/// The kind of the error at which a stream ends, and whether it may be tried again, where the reader takes so long for each item.
async fn end(
    mut items: Streaming<'_, impl StreamRequest<Item = u32, Error = Error>>,
    reading: Duration,
) -> (ErrorKind, bool) {
    loop {
        if let Err(error) = items.next().await.unwrap() {
            assert!(error.is_out_of_time());
            assert!(items.next().await.is_none());
            return (error.kind(), error.is_retryable());
        }
        sleep(reading).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_time_may_be_tried_again_if_it_has_given_nothing() {
    let limited = |limit| {
        let requests = RequestMap::new().stream_middleware(Timeout::after(limit));
        mediator(requests.bind_stream::<Count>(Counting), Journal::new())
    };
    let unlimited = mediator(RequestMap::new().bind_stream::<Count>(Counting), Journal::new());
    let numbers = || Count(vec![1, 2, 3]);
    for (limit, reading, retryable) in [
        (SECOND / 2, Duration::ZERO, true),
        (SECOND * 3 / 2, Duration::ZERO, false),
        // The reader has been at work, and not the handler.
        (SECOND * 3 / 2, SECOND, false),
    ] {
        let expected = (ErrorKind::Timeout, retryable);
        assert_eq!(end(limited(limit).stream(numbers()), reading).await, expected);
        let options = SendOptions::default().with_timeout(limit);
        assert_eq!(end(unlimited.stream_with(numbers(), &options), reading).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn events_of_an_item_that_go_out_too_long_are_told_as_these_and_those_that_are_out_are_not() {
    let events = EventMap::new().bind(on_event(|Happened(number): &Happened, _| {
        let slow = SECOND * if *number == 3 { 60 } else { 0 };
        Box::pin(async move {
            sleep(slow).await;
            Ok(())
        })
    }));
    let requests = RequestMap::new().bind_stream::<Count>(Counting);
    let mediator = RequestMediator::new(requests, EventEmitter::new(events)).unwrap();
    let options = SendOptions::default().with_timeout(SECOND * 7 / 2);
    let mut all = self::all(mediator.stream_with(Count(vec![1, 2, 4, 5]), &options)).await;
    let text = all.pop().unwrap().unwrap_err();
    assert!(text.starts_with("the time for `count` is up behind 3 of its items"), "{text}");
    let options = SendOptions::default().with_timeout(SECOND * 7 / 2);
    let mut all = self::all(mediator.stream_with(Count(vec![1, 3, 4]), &options)).await;
    let text = all.pop().unwrap().unwrap_err();
    assert!(text.starts_with("the time for `count` is up while events go out"), "{text}");
    assert_eq!(all, [Ok(1)]);
}

#[tokio::test]
async fn a_handler_sees_the_time_that_its_stream_has() {
    struct Deadline;

    impl StreamHandler<Count> for Deadline {
        fn handle(&self, _: Count, cx: &Context<'_>) -> impl Stream<Item = Result<u32>> + Send {
            futures_util::stream::iter(cx.deadline().map(|_| Ok(1)))
        }
    }

    let requests = RequestMap::new().bind_stream::<Count>(Deadline);
    assert_eq!(all(mediator(requests, Journal::new()).stream(Count(vec![]))).await, []);
    let requests = RequestMap::new().stream_middleware(Timeout::after(SECOND)).bind_stream::<Count>(Deadline);
    assert_eq!(all(mediator(requests, Journal::new()).stream(Count(vec![]))).await, [Ok(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_an_error_at_the_end_of_the_stream() {
    let journal = Journal::new();
    let requests = RequestMap::new().stream_middleware(CatchPanic).bind_stream::<Count>(Counting);
    let mediator = mediator(requests, journal);
    let items = all(mediator.stream(Count(vec![1, 66, 3]))).await;
    assert_eq!(items, [Ok(1), err("the handler of `count` panicked: the number 66")]);
    assert_eq!(journal.entries(), ["happened 1"]);
    // One that panics before it gives a stream, and a middleware that does.
    let error = mediator.stream(Count(vec![67])).next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panic);
    assert_eq!(error.to_string(), "the handler of `count` panicked: at once");

    struct Panics;

    impl<R: StreamRequest> StreamMiddleware<R> for Panics {
        fn call<N: StreamHandler<R>>(
            &self,
            request: R,
            cx: &Context<'_>,
            next: &N,
        ) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
            assert!(cx.message().is_some(), "around it");
            next.handle(request, cx)
        }
    }

    let requests = RequestMap::new().stream_middleware(CatchPanic).stream_middleware(Panics);
    let mediator = self::mediator(requests.bind_stream::<Count>(Counting), journal);
    let items = all(mediator.stream(Count(vec![1]))).await;
    assert_eq!(items, [err("the handler of `count` panicked: around it")]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_has_its_place_until_it_ends_or_is_dropped() {
    struct CountTwice;

    impl StreamHandler<Other> for CountTwice {
        fn handle(&self, request: Other, cx: &Context<'_>) -> impl Stream<Item = Result<u32>> + Send {
            cx.stream(Count(request.0.clone())).chain(cx.stream(Count(request.0)))
        }
    }

    let journal = Journal::new();
    let requests = RequestMap::new()
        .stream_middleware(ConcurrencyLimit::new(1).with_max_waiting(0))
        .bind_stream::<Count>(Counting)
        .bind_stream::<Other>(CountTwice);
    let mediator = mediator(requests, journal);
    let refused = [err("`count`: 1 are at work, and 0 wait already")];
    let mut first = mediator.stream(Count(vec![1, 2]));
    first.next().await.unwrap().unwrap();
    // Nobody works on it just now, and it has its place.
    assert_eq!(all(mediator.stream(Count(vec![3]))).await, refused);
    drop(first);
    let mut second = mediator.stream(Count(vec![3]));
    second.next().await.unwrap().unwrap();
    assert_eq!(all(mediator.stream(Count(vec![4]))).await, refused);
    assert!(second.next().await.is_none());
    // Those within one use its place.
    assert_eq!(all(mediator.stream(Other(vec![5]))).await, [Ok(5), Ok(5)]);
    assert_eq!(
        journal.entries(),
        [
            "happened 1",
            "happened 3",
            "happened 100",
            "happened 5",
            "happened 100",
            "happened 5",
            "happened 100"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_waits_for_a_place() {
    let requests =
        RequestMap::new().stream_middleware(ConcurrencyLimit::new(1)).bind_stream::<Count>(Counting);
    let mediator = mediator(requests, Journal::new());
    let mut first = mediator.stream(Count(vec![1]));
    first.next().await.unwrap().unwrap();
    let mut waits = mediator.stream(Count(vec![2]));
    assert!(waits.next().now_or_never().is_none());
    drop(first);
    assert_eq!(waits.next().await.unwrap().unwrap(), 2);
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn tracing_puts_the_work_on_items_into_a_span_and_tells_of_the_first_error_and_the_end() {
    let log = Log::default();
    let writer = log.clone();
    let format = tracing_subscriber::fmt().with_ansi(false).without_time().with_target(false);
    let format = format.with_max_level(tracing::Level::DEBUG).with_writer(move || writer.clone());
    // While there is one only, what another thread hits first is taken for unwanted, here too, because that thread has none.
    let _other = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let _listening = tracing::subscriber::set_default(format.finish());
    let requests = RequestMap::new()
        .stream_middleware(Tracing)
        .bind_stream::<Other>(Counting)
        .with_stream_middleware(NoMiddleware)
        .stream_middleware(Tracing::with_payload())
        .bind_stream::<Count>(Counting);
    let mediator = mediator(requests, Journal::new());
    let mut items = mediator.stream(Other(vec![1, 13, 13]));
    while let Some(item) = items.next().await {
        tracing::info!(is_ok = item.is_ok(), "outside");
    }
    all(mediator.stream(Count(vec![2, 3]))).await;
    // Nobody reads further than the first error, or than wanted.
    mediator.stream(Count(vec![13, 4])).next().await.unwrap().unwrap_err();
    mediator.stream(Count(vec![5, 6])).next().await.unwrap().unwrap();
    // One that is not asked for anything is not handled.
    drop(mediator.stream(Count(vec![7])));
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(
        log.lines().map(str::trim).collect::<Vec<_>>(),
        [
            r#"INFO stream{name="other"}: number=1"#,
            "INFO outside is_ok=true",
            r#"INFO stream{name="other"}: number=13"#,
            r#"WARN stream{name="other"}: failed what="stream" name="other" error="unlucky""#,
            "INFO outside is_ok=false",
            r#"INFO stream{name="other"}: number=13"#,
            "INFO outside is_ok=false",
            r#"DEBUG stream{name="other"}: done items=1 errors=2"#,
            r#"INFO stream{name="count" payload=Count([2, 3])}: number=2"#,
            r#"INFO stream{name="count" payload=Count([2, 3])}: number=3"#,
            r#"DEBUG stream{name="count" payload=Count([2, 3])}: done items=2 errors=0"#,
            r#"INFO stream{name="count" payload=Count([13, 4])}: number=13"#,
            r#"WARN stream{name="count" payload=Count([13, 4])}: failed what="stream" name="count" error="unlucky""#,
            r#"DEBUG stream{name="count" payload=Count([13, 4])}: dropped before its end items=0 errors=1"#,
            r#"INFO stream{name="count" payload=Count([5, 6])}: number=5"#,
            r#"DEBUG stream{name="count" payload=Count([5, 6])}: dropped before its end items=1 errors=0"#,
        ]
    );
}

/// What the recorder of the `metrics` crate was told on this thread.
struct Told(&'static Journal);

struct Meter(String, &'static Journal);

impl CounterFn for Meter {
    fn increment(&self, value: u64) {
        self.1.note(format!("{} +{value}", self.0));
    }

    fn absolute(&self, value: u64) {
        self.1.note(format!("{} ={value}", self.0));
    }
}

impl HistogramFn for Meter {
    fn record(&self, _: f64) {
        self.1.note(self.0.clone());
    }
}

impl Told {
    fn meter(&self, key: &Key) -> Arc<Meter> {
        let labels: String = key.labels().map(|label| format!(" {}", label.value())).collect();
        Arc::new(Meter(format!("{}{labels}", key.name()), self.0))
    }
}

impl metrics::Recorder for Told {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.meter(key))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.meter(key))
    }
}

#[tokio::test(start_paused = true)]
async fn metrics_count_streams_and_items() {
    let journal = Journal::new();
    let told = Told(journal);
    let _listening = metrics::set_default_local_recorder(&told);
    let requests = RequestMap::new().stream_middleware(Metrics).bind_stream::<Count>(Counting);
    let mediator = mediator(requests, Journal::new());
    let item = "cqrs_stream_items_total count +1";
    let end =
        |outcome| [format!("cqrs_streams_total count {outcome} +1"), "cqrs_stream_seconds count".to_owned()];
    let mut expected = vec![item.to_owned(), item.to_owned()];
    all(mediator.stream(Count(vec![1, 2]))).await;
    expected.extend(end("ok"));
    all(mediator.stream(Count(vec![13]))).await;
    expected.extend(end("error"));
    // Most read no further than the first error.
    mediator.stream(Count(vec![13, 4])).next().await.unwrap().unwrap_err();
    expected.extend(end("error"));
    mediator.stream(Count(vec![1, 2])).next().await.unwrap().unwrap();
    expected.push(item.to_owned());
    expected.extend(end("dropped"));
    assert_eq!(journal.entries(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_stream_can_pass_by_a_middleware() {
    let requests = RequestMap::new()
        .stream_middleware(Except::new(Timeout::after(SECOND / 2)).stream::<Other>())
        .bind_stream::<Count>(Counting)
        .bind_stream::<Other>(Counting);
    let mediator = mediator(requests, Journal::new());
    assert_eq!(all(mediator.stream(Other(vec![1]))).await, [Ok(1)]);
    assert_eq!(all(mediator.stream(Count(vec![1]))).await, [err("the time for `count` is up")]);
}

#[tokio::test(start_paused = true)]
async fn a_mediator_of_a_test_and_a_static_one_have_them_too() {
    mediator! {
        struct NoHandlers {}
    }

    let requests =
        || RequestMap::new().stream_middleware(Timeout::after(SECOND / 2)).bind_stream::<Count>(Counting);
    let late = [err("the time for `count` is up")];
    let test = TestMediator::builder().requests(requests()).build();
    assert_eq!(all(test.stream(Count(vec![1]))).await, late);
    test.streamed::<Count>().once();
    let mediator = StaticMediator::new(NoHandlers {}, requests(), EventEmitter::default()).unwrap();
    assert_eq!(all(mediator.requests().stream(Count(vec![1]))).await, late);
}

/// Is refused if a number is 0.
#[derive(StreamRequest)]
#[request(item = u32, name = "checked", validate)]
struct Checked(Vec<u32>);

impl Validate for Checked {
    fn validate(&self) -> Result<(), ValidationErrors> {
        ValidationErrors::new().unless(!self.0.contains(&0), "numbers", "none is 0").into_result()
    }
}

impl StreamHandler<Checked> for Counting {
    fn handle(&self, request: Checked, cx: &Context<'_>) -> impl Stream<Item = Result<u32>> + Send {
        Self::count(request.0, cx)
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_stream_says_of_itself_refuses_it_before_its_handler() {
    let journal = Journal::new();
    let requests = RequestMap::new()
        .stream_middleware(Validation)
        .stream_middleware(Note("inner", journal))
        .bind_stream::<Checked>(Counting)
        .bind_stream::<Other>(Counting);
    let mediator = mediator(requests, journal);
    let mut items = mediator.stream(Checked(vec![1, 0]));
    let error = items.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert_eq!(error.to_string(), "the request `checked` was refused: numbers: none is 0");
    assert!(error.downcast_ref::<ValidationErrors>().is_some());
    assert!(items.next().await.is_none());
    assert!(journal.entries().is_empty());
    assert_eq!(all(mediator.stream(Checked(vec![1, 2]))).await, [Ok(1), Ok(2)]);
    // One that says nothing of the kind.
    assert_eq!(all(mediator.stream(Other(vec![0]))).await, [Ok(0)]);
}

#[test]
fn a_stream_that_says_something_of_itself_is_refused_where_nobody_asks() {
    let refused = |requests: RequestMap<_, _>| {
        RequestMediator::new::<Stacked<NoMiddleware, Validation>, _>(requests, EventEmitter::default())
            .unwrap_err()
            .to_string()
    };
    // That of the requests that are answered once does not stand around it.
    let requests = RequestMap::new().middleware(Validation);
    assert_eq!(
        refused(requests.bind_stream::<Checked>(Counting)),
        "the request `checked`: it says what is wrong with it (`#[request(validate)]`), and nobody asks: add \
         `.stream_middleware(Validation)` before it is bound"
    );
    let requests = RequestMap::new()
        .middleware(Validation)
        .stream_middleware(Except::new(Validation).stream::<Checked>())
        .bind_stream::<Checked>(Counting);
    assert!(
        RequestMediator::new(requests, EventEmitter::default())
            .unwrap_err()
            .to_string()
            .contains("nobody asks")
    );
}

/// Fails as often as it is told, says a number before that, and gives two numbers then; a third one is an error that may be tried
/// again. Notes what begins and ends.
#[derive(Clone, StreamRequest)]
#[request(item = u32, name = "flaky", retry)]
struct Flaky;

/// The same, but it is not to be sent again.
#[derive(StreamRequest)]
#[request(item = u32, name = "once")]
struct Once;

struct Fails {
    times: AtomicU32,
    journal: &'static Journal,
    retryable: bool,
}

impl Fails {
    fn times(times: u32, journal: &'static Journal) -> Self {
        Self { times: AtomicU32::new(times), journal, retryable: true }
    }

    fn flaky(&self, cx: &Context<'_>) -> impl Stream<Item = Result<u32>> + Send {
        let error = || Error::handler("not yet").with_retryable(self.retryable);
        async_stream::stream! {
            let _stay = Stay::begin(self.journal);
            cx.emit(Happened(0));
            if self.times.load(Ordering::Relaxed) > 0 {
                self.times.fetch_sub(1, Ordering::Relaxed);
                yield Err(error());
            }
            cx.emit(Happened(1));
            yield Ok(1);
            cx.emit(Happened(2));
            yield Ok(2);
            yield Err(error());
        }
    }
}

impl StreamHandler<Flaky> for Fails {
    fn handle(&self, _: Flaky, cx: &Context<'_>) -> impl Stream<Item = Result<u32>> + Send {
        self.flaky(cx)
    }
}

impl StreamHandler<Once> for Fails {
    fn handle(&self, _: Once, cx: &Context<'_>) -> impl Stream<Item = Result<u32>> + Send {
        self.flaky(cx)
    }
}

/// Notes when it begins and ends, and how long that took.
struct Stay(&'static Journal, Instant);

impl Stay {
    fn begin(journal: &'static Journal) -> Self {
        journal.note("begin");
        Self(journal, Instant::now())
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.note(format!("end behind {} s", self.1.elapsed().as_secs()));
    }
}

fn three_times() -> Retry {
    Retry::new(RetryPolicy::default().with_max_attempts(3).with_first_delay(SECOND).with_jitter(0.0))
}

#[tokio::test(start_paused = true)]
async fn a_stream_begins_anew_before_its_first_item_and_what_a_failed_try_said_is_dropped() {
    let journal = Journal::new();
    let requests = RequestMap::new()
        .stream_middleware(three_times())
        .stream_middleware(Note("within", journal))
        .bind_stream::<Flaky>(Fails::times(2, journal));
    let (mediator, began) = (mediator(requests, journal), Instant::now());
    // Behind the first item the error goes through.
    assert_eq!(all(mediator.stream(Flaky)).await, [Ok(1), Ok(2), err("not yet")]);
    assert_eq!(began.elapsed(), SECOND * 3);
    let tried = ["within > flaky", "begin", "end behind 0 s"];
    let mut expected = [tried, tried].concat();
    expected.extend(["within > flaky", "begin", "happened 50", "happened 0", "happened 1", "happened 2"]);
    expected.extend(["end behind 0 s", "within <"]);
    assert_eq!(journal.entries(), expected);
}

#[tokio::test(start_paused = true)]
async fn the_last_try_of_a_stream_gives_what_it_gives() {
    let journal = Journal::new();
    let requests =
        RequestMap::new().stream_middleware(three_times()).bind_stream::<Flaky>(Fails::times(3, journal));
    let mediator = mediator(requests, journal);
    assert_eq!(all(mediator.stream(Flaky)).await, [err("not yet"), Ok(1), Ok(2), err("not yet")]);
    assert_eq!(journal.entries().iter().filter(|entry| *entry == "begin").count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_stream_does_not_begin_anew_where_that_is_not_wanted() {
    let once = [err("not yet"), Ok(1), Ok(2), err("not yet")];
    let (journal, began) = (Journal::new(), Instant::now());
    let requests = || RequestMap::new().stream_middleware(three_times());
    // It may not be sent again.
    let silent = mediator(requests().bind_stream::<Once>(Fails::times(1, journal)), journal);
    assert_eq!(all(silent.stream(Once)).await, once);
    // Its error says that it would not help.
    let handler = Fails { retryable: false, ..Fails::times(1, journal) };
    let hopeless = mediator(requests().bind_stream::<Flaky>(handler), journal);
    assert_eq!(all(hopeless.stream(Flaky)).await, once);
    // There is no time for the wait.
    let hasty = mediator(requests().bind_stream::<Flaky>(Fails::times(1, journal)), journal);
    let options = SendOptions::default().with_timeout(SECOND / 2);
    assert_eq!(all(hasty.stream_with(Flaky, &options)).await, once);
    assert_eq!(began.elapsed(), Duration::ZERO);
    // It is called off while it waits: there is nothing left to go on with.
    let cancelled = mediator(requests().bind_stream::<Flaky>(Fails::times(1, journal)), journal);
    let token = CancellationToken::new();
    let options = SendOptions::default().with_cancellation(token.clone());
    let mut items = cancelled.stream_with(Flaky, &options);
    assert!(items.next().now_or_never().is_none());
    token.cancel();
    assert_eq!(all(items).await, once[..1]);
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(journal.entries().iter().filter(|entry| *entry == "begin").count(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_stream_within_a_transaction_does_not_begin_anew() {
    #[derive(Request)]
    #[request(response = Vec<Result<u32, String>>)]
    struct Read;

    let (db, journal) = (FakeDb::new(), Journal::new());
    let requests = RequestMap::new()
        .stream_middleware(three_times())
        .bind_stream::<Flaky>(Fails::times(1, journal))
        .bind::<Read>(Transactional::new(
            db.unit(),
            in_transaction(|_: Read, _, cx| Box::pin(async { Ok(all(cx.stream(Flaky)).await) })),
        ));
    let mediator = mediator(requests, journal);
    assert_eq!(mediator.send(Read).await.unwrap(), [err("not yet"), Ok(1), Ok(2), err("not yet")]);
    assert_eq!(journal.entries()[..2], ["begin", "end behind 0 s"]);
}

#[tokio::test(start_paused = true)]
async fn a_try_of_a_stream_that_gives_nothing_in_time_is_one_that_failed() {
    struct Slow(AtomicU32);

    impl StreamHandler<Flaky> for Slow {
        fn handle(&self, _: Flaky, _: &Context<'_>) -> impl Stream<Item = Result<u32>> + Send {
            let try_ = self.0.fetch_add(1, Ordering::Relaxed);
            async_stream::stream! {
                sleep(SECOND * if try_ == 0 { 9 } else { 1 }).await;
                yield Ok(try_);
                sleep(SECOND * 9).await;
                yield Ok(try_);
            }
        }
    }

    let requests = RequestMap::new()
        .stream_middleware(three_times())
        .stream_middleware(Timeout::after(SECOND * 2))
        .bind_stream::<Flaky>(Slow(AtomicU32::new(0)));
    let (mediator, began) = (mediator(requests, Journal::new()), Instant::now());
    let late = err("the time for `flaky` is up behind 1 of its items: who asks again gets these again");
    assert_eq!(all(mediator.stream(Flaky)).await, [Ok(1), late]);
    assert_eq!(began.elapsed(), SECOND * 5);
}

#[test]
fn a_retry_of_a_stream_within_another_one_is_refused() {
    let refused = |requests: RequestMap<_, _>| {
        RequestMediator::new::<NoMiddleware, _>(requests, EventEmitter::default()).unwrap_err().to_string()
    };
    let requests = RequestMap::new().stream_middleware(three_times());
    let text = refused(requests.stream_middleware(three_times()).bind_stream::<Count>(Counting));
    assert!(text.starts_with("the request `count`: a `Retry` stands within another one"), "{text}");
    let never = Retry::new(RetryPolicy::default().with_max_attempts(0));
    let requests = RequestMap::new().stream_middleware(never).bind_stream::<Count>(Counting);
    let text = RequestMediator::new(requests, EventEmitter::default()).unwrap_err().to_string();
    assert!(text.contains("attempts is 0"), "{text}");
}
