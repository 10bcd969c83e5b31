//! The tries of one call, and what they leave.

use std::future::{Future, poll_fn};
use std::mem;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};

use futures_util::future::{BoxFuture, Either, select};
use smallvec::SmallVec;

use super::passing::{Inside, Knock, TowerEvent};
use crate::context::{Context, Narrowed, Unsent};
use crate::error::Result;
use crate::event::{Event, EventHandler};
use crate::middleware::Next;
use crate::request::{Reply, Request};
use crate::send_options::{SendOptions, commit_cut_off};

/// What stands further in, to be tried as often as the layers ask for it.
pub(super) trait Tryable<R: Request>: Sync {
    /// `request` or `event`.
    const WHAT: &'static str;

    fn run(&self, request: R, cx: &Context<'_>) -> impl Future<Output = Reply<R>> + Send;
}

/// The handler of a request.
pub(super) struct OfRequest<'a, N>(pub(super) &'a N);

impl<R: Request, N: Next<R>> Tryable<R> for OfRequest<'_, N> {
    const WHAT: &'static str = "request";

    fn run(&self, request: R, cx: &Context<'_>) -> impl Future<Output = Reply<R>> + Send {
        self.0.run(request, cx)
    }
}

/// The handler of an event, with the event: the request that has gone through the layers only stands for it.
pub(super) struct OfEvent<'a, E, N> {
    pub(super) event: &'a E,
    pub(super) next: &'a N,
}

impl<E: Event, N: EventHandler<E>> Tryable<TowerEvent<E>> for OfEvent<'_, E, N> {
    const WHAT: &'static str = "event";

    fn run(&self, _: TowerEvent<E>, cx: &Context<'_>) -> impl Future<Output = Result<()>> + Send {
        self.next.handle(self.event, cx)
    }
}

/// What the tries of one call leave.
pub(super) struct Left<'a> {
    cx: &'a Context<'a>,
    /// What the last try that succeeded has said: a layer may not like its response, and try again.
    said: Mutex<Option<Box<Unsent>>>,
    /// A try was dropped while it committed a transaction, or behind that.
    commit_cut_off: AtomicBool,
}

impl<'a> Left<'a> {
    pub(super) fn by(cx: &'a Context<'a>) -> Self {
        Self { cx, said: Mutex::default(), commit_cut_off: AtomicBool::new(false) }
    }

    pub(super) fn is_commit_cut_off(&self) -> bool {
        self.commit_cut_off.load(Ordering::Relaxed)
    }

    /// Takes what was said to where the middleware stands.
    pub(super) fn succeed(self) {
        if let Some(said) = self.said.into_inner().unwrap_or_else(PoisonError::into_inner) {
            self.cx.extend(said);
        }
    }

    /// Until it is answered, or nobody wants the answer any more.
    async fn answer<R: Request>(&self, Knock { request, mut answer }: Knock<R>, next: &impl Tryable<R>) {
        let tried = pin!(self.try_once(request, next));
        let reply = match select(pin!(answer.closed()), tried).await {
            Either::Left(_) => return,
            Either::Right((reply, _)) => reply,
        };
        // Who asked may be gone this very moment.
        let _ = answer.send(reply);
    }

    async fn try_once<R: Request>(&self, request: R, next: &impl Tryable<R>) -> Reply<R> {
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
            let said = cx.take_own_said();
            // That of the try before is dropped behind the lock: its events are those of users.
            let _before = mem::replace(&mut *self.said.lock().unwrap_or_else(PoisonError::into_inner), said);
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

/// Waits for the layers, and runs the tries that they ask for meanwhile. None of them is left when they have answered.
pub(super) async fn run_within<R: Request, T>(
    layers: impl Future<Output = T> + Send,
    inside: Inside<R>,
    left: &Left<'_>,
    next: &impl Tryable<R>,
) -> T {
    let mut layers = pin!(layers);
    let mut tries = SmallVec::<[BoxFuture<'_, ()>; 1]>::new();
    poll_fn(|task: &mut TaskContext<'_>| {
        loop {
            // First those that go on already, so that one that is not wanted any more has ended before another one begins.
            let before = tries.len();
            tries.retain(|one| one.as_mut().poll(task).is_pending());
            let ended = tries.len() < before;
            if let Poll::Ready(answer) = layers.as_mut().poll(task) {
                return Poll::Ready(answer);
            }
            let knocking = inside.open(task);
            if knocking.is_empty() && !ended {
                return Poll::Pending;
            }
            tries.extend(knocking.into_iter().map(|knock| Box::pin(left.answer(knock, next)) as _));
        }
    })
    .await
}
