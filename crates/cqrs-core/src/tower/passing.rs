//! What layers of a middleware see. Services live longer than a call, and so do their requests, while a handler borrows from its
//! call: so a request only carries a way back, and the handler is run where the call is.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tower_service::Service;

use super::error::TowerError;
use crate::context::Context;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::request::{Reply, Request};

/// A request on its way through the layers of a [`TowerLayer`](crate::TowerLayer), or an event, as a [`TowerEvent`]. It can be cloned
/// if the request can, so a retry may send it again.
pub struct TowerRequest<R: Request> {
    /// The request itself; a [`TowerEvent`] in place of an event.
    pub request: R,
    door: Arc<Door<R>>,
}

impl<R: Request> TowerRequest<R> {
    pub(super) fn new(request: R, cx: &Context<'_>) -> (Self, Inside<R>) {
        let door = Arc::new(Door {
            knocking: Mutex::new(Some(SmallVec::new())),
            inside: AtomicWaker::new(),
            is_in_transaction: cx.is_in_transaction(),
            deadline: cx.deadline(),
        });
        (Self { request, door: Arc::clone(&door) }, Inside(door))
    }

    /// Whether the middleware stands within a transaction, where nothing should be tried again: the database may have given it up
    /// already ([`Context::is_in_transaction`]).
    pub fn is_in_transaction(&self) -> bool {
        self.door.is_in_transaction
    }

    /// By when the request has to be answered ([`Context::deadline`]).
    pub fn deadline(&self) -> Option<Instant> {
        self.door.deadline
    }
}

impl<R: Request + Clone> Clone for TowerRequest<R> {
    fn clone(&self) -> Self {
        Self { request: self.request.clone(), door: Arc::clone(&self.door) }
    }
}

impl<R: Request + fmt::Debug> fmt::Debug for TowerRequest<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TowerRequest").field(&self.request).finish()
    }
}

/// What stands for an event of type `E` in the [`TowerRequest`] that layers around its handlers see: its
/// [name](TowerEvent::name), and no more. The event itself is borrowed, and layers may keep what they get. It can always be cloned;
/// whatever layers make of it, the handler gets the event that was said.
///
/// It is a [`Request`], so that layers which are generic over requests serve events, too; nobody handles it as one.
pub struct TowerEvent<E>(PhantomData<fn() -> E>);

impl<E: Event> TowerEvent<E> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

// Nobody who forgot to derive `Request` wants to hear of it.
#[diagnostic::do_not_recommend]
impl<E: Event> Request for TowerEvent<E> {
    type Response = ();
    type Error = Error;

    fn name() -> &'static str {
        E::NAME
    }
}

impl<E> Clone for TowerEvent<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for TowerEvent<E> {}

impl<E: Event> fmt::Debug for TowerEvent<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TowerEvent<{}>", E::NAME)
    }
}

/// The innermost service of a [`TowerLayer`](crate::TowerLayer): it takes each request to its handler, and is always ready.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TowerHandler;

impl<R> Service<TowerRequest<R>> for TowerHandler
where
    R: Request<Error: fmt::Debug + fmt::Display + Sync>,
{
    type Response = R::Response;
    type Error = TowerError<R::Error>;
    type Future = TowerHandling<R>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, TowerRequest { request, door }: TowerRequest<R>) -> TowerHandling<R> {
        let (answer, reply) = oneshot::channel();
        door.knock(Knock { request, answer });
        TowerHandling(reply)
    }
}

/// The reply of a [`TowerHandler`], to be awaited. Dropping it stops the handler.
#[must_use = "dropping it stops the handler"]
pub struct TowerHandling<R: Request>(oneshot::Receiver<Reply<R>>);

impl<R: Request> Future for TowerHandling<R> {
    type Output = Result<R::Response, TowerError<R::Error>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let reply = ready!(Pin::new(&mut self.0).poll(cx)).unwrap_or_else(|_| {
            let message = format!("`{}` was given up before its handler was reached", R::name());
            Err(Error::new(ErrorKind::Cancelled, message).into())
        });
        Poll::Ready(reply.map_err(TowerError))
    }
}

impl<R: Request> fmt::Debug for TowerHandling<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TowerHandling<{}>", R::name())
    }
}

/// Between the layers and the call.
struct Door<R: Request> {
    /// Who has come and was not let in yet; `None` when the call is over.
    knocking: Mutex<Option<Knocking<R>>>,
    inside: AtomicWaker,
    is_in_transaction: bool,
    deadline: Option<Instant>,
}

pub(super) type Knocking<R> = SmallVec<[Knock<R>; 1]>;

/// A try: once, or more often if a layer tries again.
pub(super) struct Knock<R: Request> {
    pub(super) request: R,
    pub(super) answer: oneshot::Sender<Reply<R>>,
}

impl<R: Request> Door<R> {
    fn knock(&self, knock: Knock<R>) {
        if let Some(knocking) = &mut *self.knocking.lock().unwrap_or_else(PoisonError::into_inner) {
            knocking.push(knock);
        }
        self.inside.wake();
    }
}

/// Where the handler is. When it is dropped, nobody is let in any more.
pub(super) struct Inside<R: Request>(Arc<Door<R>>);

impl<R: Request> Inside<R> {
    /// Those who have come since; the task is woken when others do.
    pub(super) fn open(&self, task: &TaskContext<'_>) -> Knocking<R> {
        self.0.inside.register(task.waker());
        let mut knocking = self.0.knocking.lock().unwrap_or_else(PoisonError::into_inner);
        knocking.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl<R: Request> Drop for Inside<R> {
    fn drop(&mut self) {
        // Dropped out here: a request may do as it likes then.
        let _late = self.0.knocking.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
