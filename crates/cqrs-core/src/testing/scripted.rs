//! Answers that a test gives in place of handlers.

use std::collections::VecDeque;
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

impl<R: Request, F: Fn(&R) -> Reply<R> + Send + Sync + 'static> RequestHandler<R> for Scripted<F> {
    async fn handle(&self, request: R, _: &Context<'_>) -> Reply<R> {
        let slot = self.recorder.begun::<R>(R::name());
        let reply = (self.answer)(&request);
        slot.get_or_init(|| Mutex::new(request));
        reply
    }
}

impl<R, I, F> StreamHandler<R> for Scripted<F>
where
    R: StreamRequest,
    I: IntoIterator<Item = Result<R::Item, R::Error>, IntoIter: Send> + 'static,
    F: Fn(&R) -> I + Send + Sync + 'static,
{
    fn handle(&self, request: R, _: &Context<'_>) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
        let items = stream::once(async move {
            let slot = self.recorder.begun::<R>(R::name());
            let items = (self.answer)(&request).into_iter();
            slot.get_or_init(|| Mutex::new(request));
            stream::iter(items)
        });
        items.flatten()
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
