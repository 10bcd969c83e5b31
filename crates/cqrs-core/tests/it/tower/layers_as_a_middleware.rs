//! What stands around handlers.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_timeout_drops_the_handler_and_what_it_said() {
    let journal = Journal::new();
    let layer =
        TowerLayer::new(ServiceBuilder::new().timeout(SECOND)).error_kind::<Elapsed>(ErrorKind::Timeout);
    let requests = RequestMap::new().middleware(layer).bind(trying(|this| (this > 0).then_some(Ok(this))));
    let mediator = RequestMediator::new(requests, noting(journal)).unwrap();

    let error = mediator.send(Act(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.is_retryable());
    assert!(error.downcast_ref::<Elapsed>().is_some());
    assert!(error.to_string().ends_with("Act`: request timed out"), "{error}");
    assert_eq!(mediator.send(Act(1)).await.unwrap(), 1);
    assert_eq!(journal.entries(), ["happened 1"]);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_layer_whose_kind_nobody_has_told_is_a_handlers() {
    let requests = RequestMap::new()
        .middleware(TowerLayer::new(ServiceBuilder::new().timeout(SECOND)))
        .bind(trying(|_| None));
    let error = mediator(requests).send(Act(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Handler);
    assert!(!error.is_retryable());
    assert!(error.downcast_ref::<Elapsed>().is_some());
}

#[tokio::test]
async fn the_error_of_a_handler_is_what_it_was_behind_layers_that_box_it() {
    let requests = RequestMap::new()
        .middleware(TowerLayer::new(ServiceBuilder::new().load_shed().timeout(SECOND)))
        .bind(trying(|_| Some(Err(Error::new(ErrorKind::Conflict, "taken").with_retryable(true)))))
        .bind(on_request(|_: Try, _| Box::pin(async { Err(Trouble::Own(7)) })));
    let mediator = mediator(requests);

    let error = mediator.send(Act(1)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.is_retryable(), &*error.to_string()),
        (ErrorKind::Conflict, true, "taken")
    );
    assert_eq!(mediator.send(Try).await.unwrap_err(), Trouble::Own(7));
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_layer_becomes_that_of_the_request() {
    let layer =
        TowerLayer::new(ServiceBuilder::new().timeout(SECOND)).error_kind::<Elapsed>(ErrorKind::Timeout);
    let requests = RequestMap::new().middleware(layer).bind(on_request(|_: Try, _| Box::pin(pending())));
    let error = mediator(requests).send(Try).await.unwrap_err();
    assert_eq!(error, Trouble::Toolkit(ErrorKind::Timeout));
}

#[tokio::test(start_paused = true)]
async fn a_limit_counts_the_requests_of_all_types_that_stand_behind_it() {
    let busy = Busy::default();
    let requests = RequestMap::new()
        .middleware(TowerLayer::new(ServiceBuilder::new().concurrency_limit(1)))
        .bind::<Act>(busy.clone())
        .bind::<Other>(busy.clone());
    let mediator = mediator(requests);

    let begun = Instant::now();
    let (one, two) = join(mediator.send(Act(1)), mediator.send(Other)).await;
    assert_eq!(one.unwrap(), 1);
    two.unwrap();
    assert_eq!(busy.most(), 1);
    assert_eq!(begun.elapsed(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_shared_with_others_counts_all_of_them() {
    let busy = Busy::default();
    let limit = GlobalConcurrencyLimitLayer::new(1);
    let requests = RequestMap::new()
        .bind_with::<Act>(TowerLayer::new(limit.clone()), busy.clone())
        .bind_with::<Other>(TowerLayer::new(limit), busy.clone());
    let mediator = mediator(requests);
    let (one, two) = join(mediator.send(Act(1)), mediator.send(Other)).await;
    one.unwrap();
    two.unwrap();
    assert_eq!(busy.most(), 1);
}

#[tokio::test(start_paused = true)]
async fn load_that_is_shed_does_not_reach_the_handler() {
    let busy = Busy::default();
    let layer = TowerLayer::new(ServiceBuilder::new().load_shed().concurrency_limit(1))
        .error_kind::<Overloaded>(ErrorKind::Overloaded);
    let mediator = mediator(RequestMap::new().middleware(layer).bind::<Act>(busy.clone()));

    let (one, two) = join(mediator.send(Act(1)), mediator.send(Act(2))).await;
    assert_eq!(one.unwrap(), 1);
    let error = two.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert!(error.is_retryable());
    assert_eq!(mediator.send(Act(3)).await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn who_is_dropped_leaves_its_place_at_work_and_waiting() {
    let layer = TowerLayer::new(ServiceBuilder::new().concurrency_limit(1));
    let mediator = mediator(RequestMap::new().middleware(layer).bind::<Act>(Busy::default()));
    {
        let mut at_work = pin!(mediator.send(Act(1)));
        let mut waiting = pin!(mediator.send(Act(2)));
        assert!(poll!(at_work.as_mut()).is_pending());
        assert!(poll!(waiting.as_mut()).is_pending());
    }
    assert_eq!(timeout(2 * SECOND, mediator.send(Act(3))).await.unwrap().unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_request_within_another_needs_a_place_of_its_own() {
    let requests = RequestMap::new()
        .middleware(Timeout::after(SECOND))
        .middleware(TowerLayer::new(ServiceBuilder::new().concurrency_limit(1)))
        .bind(on_request(|_: Other, cx| Box::pin(async { cx.send(Act(1)).await.map(drop) })))
        .bind(trying(|this| Some(Ok(this))));
    assert_eq!(mediator(requests).send(Other).await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_limited_in_turn() {
    let layer = TowerLayer::in_turn(ServiceBuilder::new().rate_limit(2, SECOND));
    let requests = RequestMap::new().middleware(layer).bind(trying(|this| Some(Ok(this))));
    let mediator = mediator(requests);
    let begun = Instant::now();
    for (nth, seconds) in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)] {
        assert_eq!(mediator.send(Act(1)).await.unwrap(), nth);
        assert_eq!(begun.elapsed().as_secs(), seconds);
    }
    // Who does not wait any longer is not in the way of others.
    assert!(mediator.send(Act(1)).await.is_ok());
    assert!(timeout(SECOND / 2, mediator.send(Act(1))).await.is_err());
    assert_eq!(mediator.send(Act(1)).await.unwrap(), 6);
}

#[tokio::test(start_paused = true)]
async fn in_turn_is_let_in_and_not_answered() {
    let busy = Busy::default();
    let layer = TowerLayer::in_turn(ServiceBuilder::new().rate_limit(2, SECOND));
    let mediator = mediator(RequestMap::new().middleware(layer).bind::<Act>(busy.clone()));
    let (one, two) = join(mediator.send(Act(1)), mediator.send(Act(2))).await;
    assert_eq!((one.unwrap(), two.unwrap()), (1, 2));
    assert_eq!(busy.most(), 2);
}

#[tokio::test(start_paused = true)]
async fn load_is_shed_in_turn_too() {
    let layer = TowerLayer::in_turn(ServiceBuilder::new().load_shed().rate_limit(1, SECOND))
        .error_kind::<Overloaded>(ErrorKind::Overloaded);
    let requests = RequestMap::new().middleware(layer).bind(trying(|this| Some(Ok(this))));
    let mediator = mediator(requests);
    assert_eq!(mediator.send(Act(1)).await.unwrap(), 0);
    assert_eq!(mediator.send(Act(1)).await.unwrap_err().kind(), ErrorKind::Overloaded);
    sleep(SECOND).await;
    assert_eq!(mediator.send(Act(1)).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn towers_timeout_does_not_count_the_wait_for_a_place_and_ours_does() {
    let (limit, most) = (GlobalConcurrencyLimitLayer::new(1), SECOND * 3 / 2);
    let theirs = ServiceBuilder::new().timeout(most).layer(limit.clone());
    let requests = RequestMap::new()
        .bind_with::<Act>(TowerLayer::new(theirs), Busy::default())
        .middleware(Timeout::after(most))
        .middleware(TowerLayer::new(limit))
        .bind::<Other>(Busy::default());
    let mediator = mediator(requests);

    let (one, two) = join(mediator.send(Act(1)), mediator.send(Act(2))).await;
    assert_eq!((one.unwrap(), two.unwrap()), (1, 2));
    let (one, two) = join(mediator.send(Other), mediator.send(Other)).await;
    one.unwrap();
    assert_eq!(two.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn an_error_that_a_layer_has_made_one_of_ours_is_kept() {
    let layers = ServiceBuilder::new()
        .map_err(|error: BoxError| Error::new(ErrorKind::Store, "it is slow").with_source(error))
        .timeout(SECOND);
    let requests = RequestMap::new().middleware(TowerLayer::new(layers)).bind(trying(|_| None));
    let error = mediator(requests).send(Act(1)).await.unwrap_err();
    assert_eq!((error.kind(), &*error.to_string()), (ErrorKind::Store, "it is slow"));
}

#[tokio::test]
async fn a_panic_of_the_handler_goes_through_and_a_breaker_hears_of_one_that_was_caught() {
    let breaker = || layer_fn(|inner| Breaker { inner, failures: Arc::default(), limit: 1 });
    let panics = || on_request(|_: Act, _| Box::pin(async { panic!("on purpose") }));
    let outside = RequestMap::new()
        .middleware(CatchPanic)
        .middleware(TowerLayer::new(breaker()).error_kind::<Open>(ErrorKind::Overloaded))
        .bind(panics());
    let inside = RequestMap::new()
        .middleware(TowerLayer::new(breaker()).error_kind::<Open>(ErrorKind::Overloaded))
        .middleware(CatchPanic)
        .bind(panics());
    for (requests, second) in
        [(mediator(outside), ErrorKind::Panic), (mediator(inside), ErrorKind::Overloaded)]
    {
        assert_eq!(requests.send(Act(1)).await.unwrap_err().kind(), ErrorKind::Panic);
        assert_eq!(requests.send(Act(1)).await.unwrap_err().kind(), second);
    }
}

#[tokio::test]
async fn a_retry_drops_what_the_failed_tries_said() {
    let journal = Journal::new();
    let requests = RequestMap::new()
        .middleware(TowerLayer::new(RetryLayer::new(Attempts(5))))
        .bind(trying(|this| Some(if this < 2 { Err(Error::handler("not yet")) } else { Ok(this) })));
    let mediator = RequestMediator::new(requests, noting(journal)).unwrap();
    assert_eq!(mediator.send(Act(1)).await.unwrap(), 2);
    assert_eq!(journal.entries(), ["happened 2"]);
}

#[tokio::test]
async fn what_failed_tries_said_is_dropped_also_when_an_outer_middleware_answers() {
    struct Instead;

    impl Middleware<Act> for Instead {
        async fn call<N: Next<Act>>(&self, act: Act, cx: &Context<'_>, next: &N) -> Result<u32> {
            Ok(next.run(act, cx).await.unwrap_or(99))
        }
    }

    // The handler succeeds, and a layer will not have it.
    let refuse = ServiceBuilder::new()
        .map_result(|_: Result<u32, TowerError<Error>>| Err::<u32, BoxError>("not that one".into()));
    let journal = Journal::new();
    let requests = RequestMap::new()
        .middleware(Instead)
        .middleware(TowerLayer::new(refuse))
        .bind(trying(|this| Some(Ok(this))));
    let mediator = RequestMediator::new(requests, noting(journal)).unwrap();
    assert_eq!(mediator.send(Act(1)).await.unwrap(), 99);
    assert!(journal.entries().is_empty(), "{:?}", journal.entries());
}

#[tokio::test]
async fn of_many_tries_that_succeed_the_last_one_counts() {
    /// Wants a response of at least that.
    #[derive(Clone)]
    struct AtLeast(u32);

    impl<E> Policy<TowerRequest<Act>, u32, E> for AtLeast {
        type Future = Ready<()>;

        fn retry(&mut self, _: &mut TowerRequest<Act>, result: &mut Result<u32, E>) -> Option<Ready<()>> {
            matches!(result, Ok(response) if *response < self.0).then(|| ready(()))
        }

        fn clone_request(&mut self, request: &TowerRequest<Act>) -> Option<TowerRequest<Act>> {
            Some(request.clone())
        }
    }

    let journal = Journal::new();
    let requests = RequestMap::new()
        .middleware(TowerLayer::new(RetryLayer::new(AtLeast(2))))
        .bind(trying(|this| Some(Ok(this))));
    let mediator = RequestMediator::new(requests, noting(journal)).unwrap();
    assert_eq!(mediator.send(Act(1)).await.unwrap(), 2);
    assert_eq!(journal.entries(), ["happened 2"]);
}

#[tokio::test(start_paused = true)]
async fn layers_are_composed_as_tower_has_it() {
    let journal = Journal::new();
    let each = ServiceBuilder::new().retry(Attempts(1)).timeout(SECOND);
    let requests = RequestMap::new()
        .middleware(TowerLayer::new(each).error_kind::<Elapsed>(ErrorKind::Timeout))
        .bind(trying(|this| (this == 1).then_some(Ok(this))));
    let mediator = RequestMediator::new(requests, noting(journal)).unwrap();
    assert_eq!(mediator.send(Act(1)).await.unwrap(), 1);
    assert_eq!(mediator.send(Act(1)).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(journal.entries(), ["happened 1"]);
}

#[tokio::test]
async fn a_policy_sees_the_error_and_where_it_stands() {
    #[derive(Clone)]
    struct OutsideOfTransactions(&'static Journal);

    impl<R: Request + Clone, T> Policy<TowerRequest<R>, T, TowerError<Error>> for OutsideOfTransactions {
        type Future = Ready<()>;

        fn retry(
            &mut self,
            request: &mut TowerRequest<R>,
            result: &mut Result<T, TowerError<Error>>,
        ) -> Option<Ready<()>> {
            let TowerError(error) = result.as_ref().err()?;
            self.0.note(format!("{error}, in a transaction: {}", request.is_in_transaction()));
            (error.is_retryable() && !request.is_in_transaction()).then(|| ready(()))
        }

        fn clone_request(&mut self, request: &TowerRequest<R>) -> Option<TowerRequest<R>> {
            Some(request.clone())
        }
    }

    let (db, journal) = (FakeDb::new(), Journal::new());
    let requests = RequestMap::new()
        .middleware(TowerLayer::new(RetryLayer::new(OutsideOfTransactions(journal))))
        .bind::<Other>(Transactional::new(
            db.unit(),
            in_transaction(|_: Other, _, cx| Box::pin(async move { cx.send(Act(1)).await.map(drop) })),
        ))
        .bind(trying(|this| {
            Some(if this == 0 { Err(Error::handler("no").with_retryable(true)) } else { Ok(this) })
        }));
    let mediator = mediator(requests);
    mediator.send(Other).await.unwrap();
    // The first try failed within the transaction, and so was not repeated there; the whole of it was.
    assert_eq!(journal.entries(), ["no, in a transaction: true", "no, in a transaction: false"]);
    assert_eq!(db.journal().entries(), ["begin", "rollback", "begin", "commit"]);
}

#[tokio::test]
async fn a_filter_refuses_with_an_error_of_ours() {
    let even = |act: TowerRequest<Act>| match act.request.0 % 2 {
        0 => Ok(act),
        _ => Err(Error::new(ErrorKind::InvalidRequest, "odd")),
    };

    let journal = Journal::new();
    let requests = RequestMap::new()
        .bind_with::<Act>(TowerLayer::new(ServiceBuilder::new().filter(even)), trying(|this| Some(Ok(this))));
    let mediator = RequestMediator::new(requests, noting(journal)).unwrap();
    let error = mediator.send(Act(1)).await.unwrap_err();
    assert_eq!((error.kind(), &*error.to_string()), (ErrorKind::InvalidRequest, "odd"));
    assert!(journal.entries().is_empty());
    mediator.send(Act(2)).await.unwrap();
    assert_eq!(journal.entries(), ["happened 0"]);
}

/// Lets nothing through behind so many failures; written as one meets them, with requests and futures for `'static`.
#[derive(Clone)]
pub(super) struct Breaker<S> {
    pub(super) inner: S,
    pub(super) failures: Arc<AtomicU32>,
    pub(super) limit: u32,
}

#[derive(Debug)]
pub(super) struct Open;

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the circuit is open")
    }
}

impl std::error::Error for Open {}

impl<Q, S> Service<Q> for Breaker<S>
where
    Q: Send + 'static,
    S: Service<Q, Error: Into<BoxError> + Send, Response: Send, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        if self.failures.load(Ordering::Relaxed) >= self.limit {
            return Poll::Ready(Err(Open.into()));
        }
        self.inner.poll_ready(task).map_err(Into::into)
    }

    fn call(&mut self, request: Q) -> Self::Future {
        let (reply, failures) = (self.inner.call(request), Arc::clone(&self.failures));
        Box::pin(reply.map_err(move |error| {
            failures.fetch_add(1, Ordering::Relaxed);
            error.into()
        }))
    }
}

#[tokio::test]
async fn a_breaker_that_wants_everything_static_works() {
    let journal = Journal::new();
    let breaker = layer_fn(|inner| Breaker { inner, failures: Arc::default(), limit: 2 });
    let requests = RequestMap::new()
        .middleware(TowerLayer::new(breaker).error_kind::<Open>(ErrorKind::Overloaded))
        .bind(on_request(move |_: Act, _| {
            journal.note("reached");
            Box::pin(async { Err(Error::handler("no")) })
        }));
    let mediator = mediator(requests);
    for _ in 0..2 {
        assert_eq!(mediator.send(Act(1)).await.unwrap_err().to_string(), "no");
    }
    assert_eq!(mediator.send(Act(1)).await.unwrap_err().kind(), ErrorKind::Overloaded);
    assert_eq!(journal.entries(), ["reached", "reached"]);
}

#[tokio::test(start_paused = true)]
async fn a_buffer_takes_one_request_to_its_task_and_the_handler_stays() {
    let layers = ServiceBuilder::new().layer(BufferLayer::<TowerRequest<Act>>::new(8)).rate_limit(1, SECOND);
    let requests = RequestMap::new().bind_with::<Act>(TowerLayer::new(layers), trying(|this| Some(Ok(this))));
    let mediator = mediator(requests);
    let begun = Instant::now();
    for (nth, seconds) in [(0, 0), (1, 1), (2, 2)] {
        assert_eq!(mediator.send(Act(1)).await.unwrap(), nth);
        assert_eq!(begun.elapsed().as_secs(), seconds);
    }
}

/// Calls what is within from a task of its own.
#[derive(Clone)]
pub(super) struct Elsewhere<S>(pub(super) S);

impl<Q, S> Service<Q> for Elsewhere<S>
where
    Q: Send + 'static,
    S: Service<Q, Response: Send, Error: Send, Future: Send> + Clone + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Q) -> Self::Future {
        let reply = tokio::spawn(self.0.clone().oneshot(request));
        Box::pin(async { reply.await.unwrap() })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_may_call_from_another_task() {
    let requests = RequestMap::new()
        .middleware(TowerLayer::new(layer_fn(Elsewhere)))
        .bind(trying(|this| Some(Ok(this))));
    let mediator = mediator(requests);
    for nth in 0..1_000 {
        assert_eq!(mediator.send(Act(1)).await.unwrap(), nth);
    }
}

/// Begins and ends.
struct Stay(u32, &'static Journal);

impl Stay {
    fn begin(this: u32, journal: &'static Journal) -> Self {
        journal.note(format!("begin {this}"));
        Self(this, journal)
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.1.note(format!("end {}", self.0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_try_has_ended_before_the_next_one_begins() {
    let (journal, tries) = (Journal::new(), AtomicU32::new(0));
    let each = ServiceBuilder::new().retry(Attempts(1)).timeout(SECOND);
    let requests = RequestMap::new().middleware(TowerLayer::new(each)).bind(on_request(move |_: Act, _| {
        let this = tries.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let _stay = Stay::begin(this, journal);
            if this == 0 { pending().await } else { Ok(this) }
        })
    }));
    assert_eq!(mediator(requests).send(Act(1)).await.unwrap(), 1);
    assert_eq!(journal.entries(), ["begin 0", "end 0", "begin 1", "end 1"]);
}

/// Tries twice at the same time, and takes the first that answers.
#[derive(Clone)]
struct Hedge<S>(S);

impl<Q: Clone, S: Service<Q, Future: Send + Unpin + 'static>> Service<Q> for Hedge<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(task)
    }

    fn call(&mut self, request: Q) -> Self::Future {
        let both = select(self.0.call(request.clone()), self.0.call(request));
        Box::pin(both.map(|either| either.factor_first().0))
    }
}

#[tokio::test]
async fn of_two_tries_at_the_same_time_the_one_that_is_taken_counts() {
    let journal = Journal::new();
    let requests = RequestMap::new()
        .middleware(TowerLayer::new(layer_fn(Hedge)))
        .bind(trying(|this| (this == 1).then_some(Ok(this))));
    let mediator = RequestMediator::new(requests, noting(journal)).unwrap();
    assert_eq!(mediator.send(Act(1)).await.unwrap(), 1);
    assert_eq!(journal.entries(), ["happened 1"]);
}

#[tokio::test]
async fn who_keeps_a_request_for_later_finds_its_call_over() {
    let (kept, requests) = std::sync::mpsc::channel();
    let handler = Mutex::new(None);
    let keep = layer_fn(|inner: TowerHandler| {
        *handler.lock().unwrap() = Some(inner);
        inner
    });
    let layer = ServiceBuilder::new()
        .filter(move |act: TowerRequest<Act>| {
            kept.send(act.clone()).unwrap();
            if act.request.0 == 0 { Err("not now") } else { Ok(act) }
        })
        .layer(keep);
    let map = RequestMap::new().bind_with::<Act>(TowerLayer::new(layer), trying(|this| Some(Ok(this))));
    let mediator = mediator(map);
    for number in [0, 1] {
        let _ = mediator.send(Act(number)).await;
        let late = requests.recv().unwrap();
        let _and_another = late.clone();
        let handler = handler.lock().unwrap().unwrap();
        let TowerError(error) = handler.oneshot(late).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_send_stops_the_handler_and_what_it_does() {
    let db = FakeDb::new();
    let requests = RequestMap::new()
        .middleware(TowerLayer::new(ServiceBuilder::new().timeout(SECOND)))
        .bind::<Other>(Transactional::new(
            db.unit(),
            in_transaction(|_: Other, tx, _| {
                Box::pin(async move {
                    tx.insert("row");
                    pending().await
                })
            }),
        ));
    let mediator = mediator(requests);
    {
        let mut reply = pin!(mediator.send(Other));
        for _ in 0..3 {
            assert!(poll!(reply.as_mut()).is_pending());
        }
    }
    assert_eq!(db.journal().entries(), ["begin", "insert row", "dropped"]);
}

/// Never answers, when what is within has succeeded.
struct HangOnSuccess;

impl<R: Request> Middleware<R> for HangOnSuccess {
    async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
        match next.run(request, cx).await {
            Err(error) => Err(error),
            Ok(_) => pending().await,
        }
    }
}

/// Never answers, when what is within has.
pub(super) struct Hang;

impl<R: Request> Middleware<R> for Hang {
    async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
        let _reply = next.run(request, cx).await;
        pending().await
    }
}

pub(super) fn writing(db: FakeDb) -> impl RequestHandler<Other> {
    Transactional::new(
        db.unit(),
        in_transaction(|_: Other, tx, _| {
            Box::pin(async move {
                tx.insert("row");
                Ok(())
            })
        }),
    )
}

#[tokio::test(start_paused = true)]
async fn nobody_can_tell_of_a_commit_that_a_layer_has_cut_off() {
    let db = FakeDb::new();
    let layer =
        TowerLayer::new(ServiceBuilder::new().timeout(SECOND)).error_kind::<Elapsed>(ErrorKind::Timeout);
    let requests = RequestMap::new().middleware(layer).middleware(Hang).bind(writing(db));
    let error = mediator(requests).send(Other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommitUnknown);
    assert!(!error.is_retryable());
    assert!(error.downcast_ref::<Elapsed>().is_some());
    assert_eq!(db.rows(), ["row"]);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_was_cut_off_is_not_tried_again() {
    let db = FakeDb::new();
    let each = ServiceBuilder::new().retry(Attempts(3)).timeout(SECOND);
    let requests = RequestMap::new().middleware(TowerLayer::new(each)).middleware(Hang).bind(writing(db));
    let error = mediator(requests).send(Other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommitUnknown);
    assert_eq!(db.rows(), ["row"]);
}

#[tokio::test]
async fn nobody_can_tell_either_if_another_try_has_failed_meanwhile() {
    let db = FakeDb::new();
    let tries = AtomicU32::new(0);
    let handler = in_transaction(move |_: Other, tx: &mut FakeTx, _| {
        let this = tries.fetch_add(1, Ordering::Relaxed);
        tx.insert(format!("try {this}"));
        Box::pin(async move {
            if this == 0 {
                return Ok(());
            }
            // Behind the commit of the first one.
            while db.rows().is_empty() {
                tokio::task::yield_now().await;
            }
            Err(Error::handler("no"))
        })
    });
    let requests = RequestMap::new()
        .middleware(TowerLayer::new(layer_fn(Hedge)))
        .middleware(HangOnSuccess)
        .bind::<Other>(Transactional::new(db.unit(), handler));
    let error = mediator(requests).send(Other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommitUnknown);
    assert_eq!(db.rows(), ["try 0"]);
}

#[tokio::test]
async fn layers_see_the_deadline() {
    let see = |act: TowerRequest<Act>| match act.deadline() {
        Some(_) => Err(Error::new(ErrorKind::InvalidRequest, "in a hurry")),
        None => Ok(act),
    };
    let requests = RequestMap::new()
        .bind_with::<Act>(TowerLayer::new(ServiceBuilder::new().filter(see)), trying(|this| Some(Ok(this))));
    let mediator = mediator(requests);
    mediator.send(Act(1)).await.unwrap();
    let soon = SendOptions::default().with_timeout(SECOND);
    let error = mediator.send_with(Act(1), &soon).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
}

#[tokio::test]
async fn a_static_mediator_has_them_too() {
    mediator! {
        struct Handlers {
            act: Act => Busy,
        }
    }

    tokio::time::pause();
    let requests = RequestMap::new().middleware(TowerLayer::new(ServiceBuilder::new().concurrency_limit(1)));
    let busy = Busy::default();
    let mediator =
        StaticMediator::new(Handlers { act: busy.clone() }, requests, EventEmitter::default()).unwrap();
    let (one, two) = join(mediator.send(Act(1)), mediator.send(Act(2))).await;
    assert_eq!((one.unwrap(), two.unwrap()), (1, 2));
    assert_eq!(busy.most(), 1);
}
