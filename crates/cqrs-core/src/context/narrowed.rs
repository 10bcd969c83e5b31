//! A part of what happens, with options of its own.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_stream::stream;
use futures_util::{FutureExt, Stream, StreamExt};
use tokio_util::sync::CancellationToken;

use super::{Context, Received};
use crate::error::{Error, Result};
use crate::send_options::{SendOptions, cancelled, commit_cut_off, events_cut_off, items_cut_off, too_late};

/// A request from outside, or a part of what happens in a context, with options of its own.
pub(crate) struct Narrowed<'a> {
    pub(super) parent: Option<&'a Context<'a>>,
    /// The message that led here, which has no parent.
    pub(super) received: Option<&'a Received>,
    pub(super) options: &'a SendOptions,
    /// A token that is cancelled by that of the options and by those around it.
    pub(super) cancellation: Option<CancellationToken>,
    /// Commits in it that go on or are done: if its time is up now, nobody can tell what became of it.
    pub(super) commits: AtomicUsize,
    /// Whether nobody knows of one of them.
    pub(super) is_commit_unknown: AtomicBool,
    /// Whether a request in it has been carried out, and its events go out or have gone.
    pub(super) is_carried_out: AtomicBool,
    /// Which [`ConcurrencyLimit`](crate::ConcurrencyLimit) it has a place of.
    pub(super) place: Option<usize>,
}

impl<'a> Narrowed<'a> {
    pub(crate) fn new(parent: Option<&'a Context<'a>>, options: &'a SendOptions) -> Self {
        Self {
            parent,
            received: None,
            options,
            cancellation: options.cancellation.clone(),
            commits: AtomicUsize::new(0),
            is_commit_unknown: AtomicBool::new(false),
            is_carried_out: AtomicBool::new(false),
            place: None,
        }
    }

    pub(crate) fn of_received(received: &'a Received, options: &'a SendOptions) -> Self {
        Self { received: Some(received), ..Self::new(None, options) }
    }

    pub(crate) fn with_place(mut self, limit: Option<usize>) -> Self {
        self.place = limit;
        self
    }

    /// Whether its time is up.
    pub(crate) fn is_over(&self) -> bool {
        self.options.is_over()
    }

    /// Whether a commit goes on in it, or is done.
    pub(crate) fn has_commit_begun(&self) -> bool {
        self.commits.load(Ordering::Relaxed) > 0
    }

    /// Whether there is a commit in it of which nobody knows.
    pub(crate) fn is_commit_unknown(&self) -> bool {
        self.is_commit_unknown.load(Ordering::Relaxed)
    }

    /// Waits for the reply, but not for longer than until the deadline; not at all if the token is cancelled.
    pub(crate) async fn limit<T, E: From<Error>>(
        &self,
        request: &str,
        reply: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.begin(request)?;
        self.in_time(request, 0, reply).await
    }

    /// The same for a stream, whose items come until the deadline, which ends it with an error: one that is not retryable if items were
    /// given, for these would be given again.
    pub(crate) fn limit_items<T: Send, E: From<Error> + Send>(
        &self,
        request: &str,
        items: impl Stream<Item = Result<T, E>> + Send,
    ) -> impl Stream<Item = Result<T, E>> + Send {
        stream! {
            if let Err(error) = self.begin(request) {
                yield Err(error.into());
                return;
            }
            let mut items = pin!(items);
            let mut given = 0;
            loop {
                let next = self.in_time(request, given, items.next().map(Option::transpose)).await.transpose();
                // That was said of this item, or of what failed in its place: of the next one nothing is done yet.
                self.is_carried_out.store(false, Ordering::Relaxed);
                match next {
                    Some(Ok(item)) => {
                        given += 1;
                        yield Ok(item);
                    }
                    Some(Err(error)) => {
                        // One that the handler has given does not end it. Asked before the reader takes its time.
                        let is_over = self.is_over();
                        yield Err(error);
                        if is_over {
                            break;
                        }
                    }
                    None => break,
                }
            }
        }
    }

    /// Whether it may begin.
    fn begin(&self, request: &str) -> Result<()> {
        if self.options.is_cancelled() { Err(cancelled(request)) } else { Ok(()) }
    }

    /// Waits for a part of it, but not for longer than until the deadline.
    async fn in_time<T, E: From<Error>>(
        &self,
        request: &str,
        given: usize,
        reply: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let Some(deadline) = self.options.deadline else { return reply.await };
        let cut_off = || Err(self.cut_off(request, given).into());
        if self.is_over() {
            return cut_off();
        }
        tokio::time::timeout_at(deadline.into(), reply).await.unwrap_or_else(|_| cut_off())
    }

    /// What became of it when its time is up.
    #[cold]
    fn cut_off(&self, request: &str, given: usize) -> Error {
        if self.has_commit_begun() {
            commit_cut_off(request)
        } else if self.is_carried_out.load(Ordering::Relaxed) {
            events_cut_off(request)
        } else if given > 0 {
            items_cut_off(request, given)
        } else {
            too_late(request)
        }
    }
}
