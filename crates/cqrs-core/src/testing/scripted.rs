//! Answers that a test gives in place of handlers.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{Stream, StreamExt, stream};

use super::record::Recorder;
use crate::context::Context;
use crate::error::{Error, ErrorKind};
use crate::request::{Reply, Request, RequestHandler, StreamHandler, StreamRequest};

/// A closure that answers. It gets the request by reference, so that the recorder has it afterwards, without a `Clone`.
pub(super) struct Scripted<F> {
    pub(super) recorder: Arc<Recorder>,
    pub(super) answer: F,
}

impl<F> Scripted<F> {
    /// Answers, and keeps the request, also if the closure panics: a test that goes on then may look into it.
    fn answer<R: Send + 'static, T>(&self, name: &'static str, request: R) -> T
    where
        F: Fn(&R) -> T,
    {
        let slot = self.recorder.begun::<R>(name);
        let answered = catch_unwind(AssertUnwindSafe(|| (self.answer)(&request)));
        slot.get_or_init(|| Mutex::new(request));
        answered.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl<R: Request, F: Fn(&R) -> Reply<R> + Send + Sync + 'static> RequestHandler<R> for Scripted<F> {
    async fn handle(&self, request: R, _: &Context<'_>) -> Reply<R> {
        self.answer(R::name(), request)
    }
}

impl<R, I, F> StreamHandler<R> for Scripted<F>
where
    R: StreamRequest,
    I: IntoIterator<Item = Result<R::Item, R::Error>, IntoIter: Send> + 'static,
    F: Fn(&R) -> I + Send + Sync + 'static,
{
    fn handle(&self, request: R, _: &Context<'_>) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
        stream::once(async move { stream::iter(self.answer(R::name(), request)) }).flatten()
    }
}

/// One reply after the other, each once.
pub(super) fn in_turn<R: Request>(
    replies: impl IntoIterator<Item = Reply<R>>,
) -> impl Fn(&R) -> Reply<R> + Send + Sync + 'static {
    let replies: VecDeque<_> = replies.into_iter().collect();
    let total = replies.len();
    let waiting = Mutex::new(replies);
    move |_| {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        next.unwrap_or_else(|| {
            let text = format!(
                "the test has {total} answers to the request `{}`, and it was sent once more",
                R::name()
            );
            Err(Error::new(ErrorKind::MissingHandler, text).into())
        })
    }
}
