//! What stands around handlers of events.

use super::layers_as_a_middleware::{Breaker, Elsewhere, Hang, Open, writing};
use super::*;

/// What a handler of an event says.
#[derive(Debug, DomainEvent)]
struct Followed(u32);

/// Says the number of each try, and does as it is told by it; it notes the event, and where it lies.
fn trying<F>(journal: &'static Journal, outcome: F) -> impl EventHandler<Happened>
where
    F: Fn(u32) -> Option<Result<()>> + Send + Sync + 'static,
{
    let tries = AtomicU32::new(0);
    on_event(move |event: &Happened, cx| {
        let this = tries.fetch_add(1, Ordering::Relaxed);
        journal.note(format!("{event:?} at {event:p}"));
        let outcome = outcome(this);
        Box::pin(async move {
            cx.emit(Followed(this));
            match outcome {
                Some(outcome) => outcome,
                None => pending().await,
            }
        })
    })
}

/// Notes what was said by handlers that succeeded.
fn mediator<S>(events: EventMap<S>, followed: &'static Journal) -> EventMediator
where
    NoMiddleware: EventMiddlewareStack<Followed>,
{
    let events =
        events.with_middleware(NoMiddleware).bind(on_event(move |Followed(number): &Followed, _| {
            followed.note(format!("followed {number}"));
            Box::pin(async { Ok(()) })
        }));
    RequestMediator::new(RequestMap::new(), EventEmitter::new(events)).unwrap().events()
}

#[tokio::test(start_paused = true)]
async fn a_timeout_drops_the_handler_and_what_it_said() {
    let (seen, followed) = (Journal::new(), Journal::new());
    let layer =
        TowerLayer::new(ServiceBuilder::new().timeout(SECOND)).error_kind::<Elapsed>(ErrorKind::Timeout);
    let events = EventMap::new().middleware(layer).bind(trying(seen, |this| (this > 0).then_some(Ok(()))));
    let mediator = mediator(events, followed);
    let error = mediator.emit(Happened(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.downcast_ref::<Elapsed>().is_some());
    assert!(error.to_string().contains("the event `happened`: request timed out"), "{error}");
    mediator.emit(Happened(2)).await.unwrap();
    assert_eq!(followed.entries(), ["followed 1"]);
}

#[tokio::test]
async fn a_retry_calls_the_handler_again_with_the_same_event() {
    let (seen, followed) = (Journal::new(), Journal::new());
    let failing = |this| Some(if this < 2 { Err(Error::handler("not yet")) } else { Ok(()) });
    let events =
        EventMap::new().middleware(TowerLayer::new(RetryLayer::new(Attempts(5)))).bind(trying(seen, failing));
    mediator(events, followed).emit(Happened(7)).await.unwrap();
    let seen = seen.entries();
    assert_eq!(seen.len(), 3);
    assert!(seen[0].starts_with("Happened(7) at 0x") && seen.iter().all(|each| *each == seen[0]), "{seen:?}");
    assert_eq!(followed.entries(), ["followed 2"]);
}

#[tokio::test]
async fn the_error_of_a_handler_is_what_it_was_behind_layers_that_box_it() {
    let refusing = |_| Some(Err(Error::new(ErrorKind::Conflict, "taken").with_retryable(true)));
    let events = EventMap::new()
        .middleware(TowerLayer::new(ServiceBuilder::new().load_shed().timeout(SECOND)))
        .bind(trying(Journal::new(), refusing));
    let error = mediator(events, Journal::new()).emit(Happened(1)).await.unwrap_err();
    assert_eq!((error.kind(), &*error.to_string()), (ErrorKind::Conflict, "taken"));
}

#[tokio::test(start_paused = true)]
async fn a_limit_counts_requests_and_the_handlers_of_events() {
    let busy = Busy::default();
    let limit = TowerLayer::new(ServiceBuilder::new().concurrency_limit(1));
    let of_event = busy.clone();
    let events = EventMap::new().middleware(limit.clone()).bind(on_event(move |_: &Happened, _| {
        let busy = of_event.clone();
        Box::pin(async move {
            busy.work().await;
            Ok(())
        })
    }));
    let requests = RequestMap::new().middleware(limit).bind::<Act>(busy.clone());
    let mediator = RequestMediator::new(requests, EventEmitter::new(events)).unwrap();
    let (events, begun) = (mediator.events(), Instant::now());
    let (one, (two, three)) =
        join(mediator.send(Act(1)), join(events.emit(Happened(2)), events.emit(Happened(3)))).await;
    assert_eq!(one.unwrap(), 1);
    two.unwrap();
    three.unwrap();
    assert_eq!((busy.most(), begun.elapsed()), (1, SECOND * 3));
}

#[tokio::test]
async fn layers_see_the_name_of_the_event_and_the_deadline() {
    let journal = Journal::new();
    let see = move |event: TowerRequest<TowerEvent<Happened>>| {
        let copy = event.clone();
        journal.note(format!("{copy:?}, {}, {}", copy.deadline().is_some(), copy.is_in_transaction()));
        if copy.deadline().is_some() {
            Err(Error::new(ErrorKind::InvalidRequest, "in a hurry"))
        } else {
            Ok(event)
        }
    };
    let layer = || TowerLayer::new(ServiceBuilder::new().filter(see));
    let handler = || trying(Journal::new(), |_| Some(Ok(())));
    let events = EventMap::new().middleware(layer()).bind(handler());
    mediator(events, Journal::new()).emit(Happened(1)).await.unwrap();
    let events = EventMap::new().middleware(Timeout::after(SECOND)).middleware(layer()).bind(handler());
    let error = mediator(events, Journal::new()).emit(Happened(1)).await.unwrap_err();
    assert_eq!((error.kind(), &*error.to_string()), (ErrorKind::InvalidRequest, "in a hurry"));
    let seen = "TowerRequest(TowerEvent<happened>)";
    assert_eq!(journal.entries(), [format!("{seen}, false, false"), format!("{seen}, true, false")]);
}

#[tokio::test]
async fn a_breaker_that_wants_everything_static_works() {
    let seen = Journal::new();
    let breaker = layer_fn(|inner| Breaker { inner, failures: Arc::default(), limit: 2 });
    let events = EventMap::new()
        .middleware(TowerLayer::new(breaker).error_kind::<Open>(ErrorKind::Overloaded))
        .bind(trying(seen, |_| Some(Err(Error::handler("no")))));
    let mediator = mediator(events, Journal::new());
    for _ in 0..2 {
        assert_eq!(mediator.emit(Happened(1)).await.unwrap_err().to_string(), "no");
    }
    assert_eq!(mediator.emit(Happened(1)).await.unwrap_err().kind(), ErrorKind::Overloaded);
    assert_eq!(seen.entries().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_may_call_from_another_task() {
    let (seen, followed) = (Journal::new(), Journal::new());
    let events =
        EventMap::new().middleware(TowerLayer::new(layer_fn(Elsewhere))).bind(trying(seen, |_| Some(Ok(()))));
    let mediator = mediator(events, followed);
    for _ in 0..1_000 {
        mediator.emit(Happened(1)).await.unwrap();
    }
    assert_eq!(followed.entries().len(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_limited_in_turn() {
    let layer = TowerLayer::in_turn(ServiceBuilder::new().rate_limit(2, SECOND));
    let events = EventMap::new().middleware(layer).bind(trying(Journal::new(), |_| Some(Ok(()))));
    let (mediator, begun) = (mediator(events, Journal::new()), Instant::now());
    for seconds in [0, 0, 1, 1, 2] {
        mediator.emit(Happened(1)).await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_was_cut_off_is_not_tried_again() {
    let db = FakeDb::new();
    let each = ServiceBuilder::new().retry(Attempts(3)).timeout(SECOND);
    let events = EventMap::new()
        .middleware(TowerLayer::new(each))
        .bind(on_event(|_: &Happened, cx| Box::pin(async { cx.send(Other).await })));
    let requests = RequestMap::new().middleware(Hang).bind(writing(db));
    let mediator = RequestMediator::new(requests, EventEmitter::new(events)).unwrap();
    let error = mediator.events().emit(Happened(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommitUnknown);
    assert_eq!(db.rows(), ["row"]);
}

#[tokio::test]
async fn an_event_that_was_received_passes_them_too() {
    let seen = Journal::new();
    let tries = AtomicU32::new(0);
    let events = EventMap::new().middleware(TowerLayer::new(RetryLayer::new(Attempts(1)))).subscribe(
        "told",
        on_event(move |Told(number): &Told, cx| {
            let this = tries.fetch_add(1, Ordering::Relaxed);
            seen.note(format!("{number} of {}, try {this}", cx.message().unwrap().topic));
            Box::pin(async move { if this == 0 { Err(Error::handler("not yet")) } else { Ok(()) } })
        }),
    );
    let mediator = RequestMediator::new(RequestMap::new(), EventEmitter::new(events)).unwrap().events();
    let message = Encoder::default().encode(Envelope::new(Told(5)), &Correlation::default()).unwrap();
    mediator.handle(message).await.unwrap();
    assert_eq!(seen.entries(), ["5 of told, try 0", "5 of told, try 1"]);
}
