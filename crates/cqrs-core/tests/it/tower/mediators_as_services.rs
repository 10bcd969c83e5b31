//! What stands around mediators.

use super::*;

fn assert_service<R: Request, S>(service: S) -> S
where
    S: Service<R, Response = R::Response, Error = R::Error, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static,
{
    service
}

#[tokio::test]
async fn a_mediator_serves_every_request_and_a_handle_its_own() {
    let requests = RequestMap::new()
        .bind(trying(|this| Some(Ok(this))))
        .bind(on_request(|_: Try, _| Box::pin(async { Err(Trouble::Own(7)) })));
    let mediator = mediator(requests);
    let service = assert_service::<Try, _>(assert_service::<Act, _>(mediator.clone().into_service()));
    assert_eq!(service.clone().oneshot(Act(1)).await.unwrap(), 0);
    assert_eq!(service.clone().oneshot(Try).await.unwrap_err(), Trouble::Own(7));
    let error = service.oneshot(Other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingHandler);

    let handle = assert_service::<Act, _>(mediator.handle_of::<Act>().unwrap().into_service());
    drop(mediator);
    let reply = tokio::spawn(handle.oneshot(Act(1)));
    assert_eq!(reply.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn a_static_mediator_and_what_else_sends_are_services_too() {
    mediator! {
        struct Handlers {
            act: Act => Add,
        }
    }

    struct Add;

    impl RequestHandler<Act> for Add {
        async fn handle(&self, act: Act, _: &Context<'_>) -> Result<u32> {
            Ok(act.0 + 1)
        }
    }

    let mediator =
        StaticMediator::new(Handlers { act: Add }, RequestMap::new(), EventEmitter::default()).unwrap();
    let service = assert_service::<Act, _>(mediator.clone().into_service());
    assert_eq!(service.oneshot(Act(1)).await.unwrap(), 2);
    let service = assert_service::<Act, _>(MediatorService::new(Arc::new(mediator)));
    assert_eq!(service.oneshot(Act(2)).await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn limits_shedding_and_timeouts_stand_around_it() {
    let busy = Busy::default();
    let requests =
        RequestMap::new().bind::<Act>(busy.clone()).bind(on_request(|_: Other, _| Box::pin(pending())));
    let service = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(1)
        .timeout(2 * SECOND)
        .service(mediator(requests).into_service());

    let (one, two) = join(service.clone().oneshot(Act(1)), service.clone().oneshot(Act(2))).await;
    assert_eq!(one.unwrap(), 1);
    assert!(two.unwrap_err().is::<Overloaded>());
    assert!(service.clone().oneshot(Other).await.unwrap_err().is::<Elapsed>());
    assert_eq!(service.oneshot(Act(3)).await.unwrap(), 3);
}

#[tokio::test]
async fn an_error_that_was_boxed_on_the_way_is_had_back() {
    let requests = RequestMap::new()
        .bind(trying(|_| Some(Err(Error::new(ErrorKind::Conflict, "taken").with_retryable(true)))));
    let service = ServiceBuilder::new().timeout(SECOND).service(mediator(requests).into_service());
    let error = Error::from_boxed(service.oneshot(Act(1)).await.unwrap_err()).unwrap();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Conflict, true));
}

#[tokio::test(start_paused = true)]
async fn what_wants_static_requests_and_keeps_a_state_stands_around_it() {
    let requests = RequestMap::new().bind(trying(|this| Some(Ok(this))));
    let service = ServiceBuilder::new()
        .layer(BufferLayer::new(8))
        .rate_limit(1, SECOND)
        .service(mediator(requests).into_service());
    let begun = Instant::now();
    for seconds in 0..3 {
        service.clone().oneshot(Act(1)).await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), seconds);
    }
}

#[tokio::test]
async fn dropping_the_future_stops_the_handler() {
    let journal = Journal::new();
    let db = FakeDb::new();
    let requests = RequestMap::new().bind::<Other>(Transactional::new(
        db.unit(),
        in_transaction(|_: Other, tx, cx| {
            Box::pin(async move {
                tx.insert("row");
                cx.emit(Happened(1));
                pending().await
            })
        }),
    ));
    let mut service = RequestMediator::new(requests, noting(journal)).unwrap().into_service();
    {
        let mut reply = pin!(service.call(Other));
        for _ in 0..3 {
            assert!(poll!(reply.as_mut()).is_pending());
        }
    }
    assert_eq!(db.journal().entries(), ["begin", "insert row", "dropped"]);
    assert!(journal.entries().is_empty());
}
