//! What layers of a middleware see: requests that carry the way to their handler, so that a service need not hold it, and
//! lives longer than a call.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};

use tower_service::Service;

use super::error::TowerError;
use crate::context::{Context, Narrowed, SaidList};
use crate::middleware::Next;
use crate::request::{Reply, Request};
use crate::send_options::{SendOptions, commit_cut_off};

/// A request on its way through the layers of a [`TowerLayer`](crate::TowerLayer). It can be cloned if the request can, so a retry
/// may send it again.
pub struct TowerRequest<'a, R: Request> {
    /// The request itself.
    pub request: R,
    way: &'a Way<'a, R>,
}

impl<'a, R: Request> TowerRequest<'a, R> {
    pub(super) fn new(request: R, way: &'a Way<'a, R>) -> Self {
        Self { request, way }
    }

    /// What the handler would have at hand: whether it would stand in a transaction, its deadline, its scope.
    pub fn context(&self) -> &'a Context<'a> {
        self.way.cx
    }
}

impl<R: Request + Clone> Clone for TowerRequest<'_, R> {
    fn clone(&self) -> Self {
        Self { request: self.request.clone(), way: self.way }
    }
}

impl<R: Request + fmt::Debug> fmt::Debug for TowerRequest<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TowerRequest").field(&self.request).finish()
    }
}

/// The innermost service of a [`TowerLayer`](crate::TowerLayer): it takes each request to its handler, and is always ready.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TowerHandler;

impl<'a, R: Request> Service<TowerRequest<'a, R>> for TowerHandler
where
    R::Error: fmt::Debug + fmt::Display + Sync,
{
    type Response = R::Response;
    type Error = TowerError<R::Error>;
    type Future = TowerHandling<'a, R>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, TowerRequest { request, way }: TowerRequest<'a, R>) -> TowerHandling<'a, R> {
        TowerHandling(way.next.run(request, way))
    }
}

/// The reply of a [`TowerHandler`], to be awaited.
#[must_use = "a request is not handled until its future is awaited"]
pub struct TowerHandling<'a, R: Request>(BoxReply<'a, R>);

type BoxReply<'a, R> = Pin<Box<dyn Future<Output = Reply<R>> + Send + 'a>>;

impl<R: Request> Future for TowerHandling<'_, R> {
    type Output = Result<R::Response, TowerError<R::Error>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map_err(TowerError)
    }
}

impl<R: Request> fmt::Debug for TowerHandling<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TowerHandling<{}>", R::name())
    }
}

/// The way of one call to its handler, and what its tries have left.
pub(super) struct Way<'a, R: Request> {
    cx: &'a Context<'a>,
    next: &'a dyn AnyNext<R>,
    /// What the last try that succeeded has said: a layer may not like its response, and try again.
    said: Mutex<SaidList>,
    /// A try was dropped while it committed a transaction, or behind that.
    commit_cut_off: AtomicBool,
}

impl<'a, R: Request> Way<'a, R> {
    pub(super) fn new<N: Next<R>>(cx: &'a Context<'a>, next: &'a N) -> Self {
        Self { cx, next, said: Mutex::default(), commit_cut_off: AtomicBool::new(false) }
    }

    pub(super) fn is_commit_cut_off(&self) -> bool {
        self.commit_cut_off.load(Ordering::Relaxed)
    }

    /// Takes what was said to where the middleware stands.
    pub(super) fn succeed(&self) {
        let said = std::mem::take(&mut *self.said.lock().unwrap_or_else(PoisonError::into_inner));
        if !said.is_empty() {
            self.cx.extend(said);
        }
    }

    async fn try_once<N: Next<R>>(&self, request: R, next: &N) -> Reply<R> {
        if self.is_commit_cut_off() {
            // Once more might be twice.
            return Err(commit_cut_off(R::name()).into());
        }
        let options = SendOptions::default();
        let narrowed = Narrowed::new(Some(self.cx), &options);
        let mut cx = self.cx.narrowed(&narrowed);
        let mut watch = Watch { narrowed: &narrowed, cut_off: Some(&self.commit_cut_off) };
        let reply = next.run(request, &cx).await;
        watch.cut_off = None;
        drop(watch);
        if reply.is_ok() {
            *self.said.lock().unwrap_or_else(PoisonError::into_inner) = cx.take_own_said();
        }
        reply
    }
}

/// Sees it when a try is dropped that has begun to commit.
struct Watch<'a> {
    narrowed: &'a Narrowed<'a>,
    cut_off: Option<&'a AtomicBool>,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if let Some(cut_off) = self.cut_off
            && self.narrowed.has_commit_begun()
        {
            cut_off.store(true, Ordering::Relaxed);
        }
    }
}

/// What the middleware stands in front of, without its type: that of a layer's request must not depend on it.
trait AnyNext<R: Request>: Send + Sync {
    fn run<'a>(&'a self, request: R, way: &'a Way<'a, R>) -> BoxReply<'a, R>;
}

impl<R: Request, N: Next<R>> AnyNext<R> for N {
    fn run<'a>(&'a self, request: R, way: &'a Way<'a, R>) -> BoxReply<'a, R> {
        Box::pin(way.try_once(request, self))
    }
}
