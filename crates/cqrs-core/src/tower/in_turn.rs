use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use tokio::sync::Mutex;
use tower_service::Service;

/// One service for many, who wait for their turn to be let in, in the order in which they came:
/// [`TowerLayer::in_turn`](crate::TowerLayer::in_turn).
pub struct TowerInTurn<S>(Arc<Mutex<S>>);

impl<S> TowerInTurn<S> {
    pub(super) fn new(service: S) -> Self {
        Self(Arc::new(Mutex::new(service)))
    }
}

impl<Q, S> Service<Q> for TowerInTurn<S>
where
    Q: Send + 'static,
    S: Service<Q, Error: Send, Future: Send> + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Q) -> Self::Future {
        let service = Arc::clone(&self.0);
        Box::pin(async move {
            let called = {
                let mut service = service.lock().await;
                poll_fn(|task| service.poll_ready(task)).await?;
                service.call(request)
                // The next one's turn comes when this one is let in, not when it is answered.
            };
            called.await
        })
    }
}

impl<S> Clone for TowerInTurn<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: fmt::Debug> fmt::Debug for TowerInTurn<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TowerInTurn").field(&self.0).finish()
    }
}
