use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use tower_service::Service;

use crate::mediator::{Dispatch, RequestHandle, RequestMediator, StaticHandlers, StaticMediator};
use crate::request::{Reply, Request};

/// A mediator as a service of `tower`, to stand within any of its layers: [`RequestMediator::into_service`],
/// [`RequestHandle::into_service`], [`StaticMediator::into_service`], or [`new`](Self::new) for whatever else
/// [sends](Dispatch).
///
/// It is a `Service<R>` for each request `R` that is sent by what it is made of. It is always ready, and cheap to clone.
///
/// ```
/// use std::time::Duration;
/// use cqrs_core::{Context, Error, ErrorKind, EventEmitter, Request, RequestHandler, RequestMap, RequestMediator, Result};
/// use tower::{BoxError, ServiceBuilder, ServiceExt};
///
/// #[derive(Request)]
/// #[request(response = u64)]
/// struct Add(u64, u64);
///
/// struct Adder;
///
/// impl RequestHandler<Add> for Adder {
///     async fn handle(&self, add: Add, _: &Context<'_>) -> Result<u64> {
///         add.0.checked_add(add.1).ok_or_else(|| Error::new(ErrorKind::InvalidRequest, "the sum is too large"))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// let mediator = RequestMediator::new(RequestMap::new().bind::<Add>(Adder), EventEmitter::default())?;
/// let service = ServiceBuilder::new()
///     .load_shed()
///     .concurrency_limit(100)
///     .timeout(Duration::from_secs(5))
///     .service(mediator.into_service());
///
/// assert_eq!(service.clone().oneshot(Add(1, 2)).await?, 3);
///
/// // Some layers box errors. One of ours is had back:
/// let error = service.oneshot(Add(1, u64::MAX)).await.unwrap_err();
/// let error = Error::from_boxed(error).expect("none of tower's");
/// assert_eq!(error.kind(), ErrorKind::InvalidRequest);
/// # Ok(()) }
/// ```
///
/// Any layer can stand here, also one that is written for a single type of request. What layers cannot see from here is what goes on
/// within: a request that is sent by a handler does not pass by them. For that, [`TowerLayer`](crate::TowerLayer) makes a middleware
/// of a layer.
///
/// # Errors
///
/// The service fails as [`RequestMediator::send`] does, with the error of the request.
///
/// # Cancel safety
///
/// Dropping its future, as `tower::timeout` does, is dropping that of the send: the handler stops where it stands. A transaction
/// that was being committed then may be committed, and nothing out there can tell: the error of `tower::timeout` does not say
/// so, those of [`SendOptions`](crate::SendOptions) and [`Timeout`](crate::Timeout) do. Prefer these where somebody tries again.
#[derive(Clone, Debug)]
pub struct MediatorService<D = RequestMediator>(D);

impl<D> MediatorService<D> {
    /// A service that sends by this.
    pub fn new(dispatch: D) -> Self {
        Self(dispatch)
    }

    /// What it sends by.
    pub fn get_ref(&self) -> &D {
        &self.0
    }
}

impl<R: Request, D: Dispatch<R> + Clone + 'static> Service<R> for MediatorService<D> {
    type Response = R::Response;
    type Error = R::Error;
    type Future = MediatorFuture<R>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), R::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> MediatorFuture<R> {
        // A future of tower's owns what it needs.
        let dispatch = self.0.clone();
        MediatorFuture(Box::pin(async move { dispatch.send(request).await }))
    }
}

/// The reply of a [`MediatorService`], to be awaited.
#[must_use = "a request is not handled until its future is awaited"]
pub struct MediatorFuture<R: Request>(Pin<Box<dyn Future<Output = Reply<R>> + Send>>);

impl<R: Request> Future for MediatorFuture<R> {
    type Output = Reply<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Reply<R>> {
        self.0.as_mut().poll(cx)
    }
}

impl<R: Request> fmt::Debug for MediatorFuture<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MediatorFuture<{}>", R::name())
    }
}

impl RequestMediator {
    /// This one as a service of `tower`, for every request; see [`MediatorService`].
    pub fn into_service(self) -> MediatorService {
        MediatorService(self)
    }
}

impl<R: Request> RequestHandle<R> {
    /// This one as a service of `tower`, for its request; see [`MediatorService`].
    pub fn into_service(self) -> MediatorService<Self> {
        MediatorService(self)
    }
}

impl<S, H: StaticHandlers<S>> StaticMediator<H, S> {
    /// This one as a service of `tower`, for the requests that it has handlers for; see [`MediatorService`].
    pub fn into_service(self) -> MediatorService<Self> {
        MediatorService(self)
    }
}
