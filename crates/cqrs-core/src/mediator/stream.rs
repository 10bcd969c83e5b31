//! Streaming requests: to their handler, and the items back.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};

use super::request_mediator::Core;
use crate::context::{Context, Origin};
use crate::error::Error;
use crate::request::{StreamHandler, StreamRequest};

/// The handler of a streaming request.
pub(super) struct BoundStream<R: StreamRequest>(pub(super) Arc<dyn CallStream<R>>);

type Item<R> = Result<<R as StreamRequest>::Item, <R as StreamRequest>::Error>;

pub(super) trait CallStream<R: StreamRequest>: Send + Sync {
    fn call<'a>(&'a self, request: R, core: &'a Core, origin: Origin<'a>) -> BoxStream<'a, Item<R>>;
}

impl<R: StreamRequest, H: StreamHandler<R>> CallStream<R> for H {
    fn call<'a>(&'a self, request: R, core: &'a Core, origin: Origin<'a>) -> BoxStream<'a, Item<R>> {
        Box::pin(async_stream::stream! {
            let cx = Context::of_request(core, origin);
            let mut items = pin!(self.handle(request, &cx));
            loop {
                let item = items.next().await;
                let said = cx.take_said();
                // What was said for an item that failed is dropped with it.
                if !matches!(item, Some(Err(_)))
                    && let Some(said) = said
                    && let Err(error) = core.emitter().emit_of_request(&cx, said).await
                {
                    yield Err(error.into());
                    break;
                }
                match item {
                    Some(item) => yield item,
                    None => break,
                }
            }
        })
    }
}

/// The items that answer a streaming request, to be asked for one after the other.
#[must_use = "a streaming request is not handled until its items are asked for"]
pub struct Streaming<'a, R: StreamRequest>(BoxStream<'a, Item<R>>);

impl<'a, R: StreamRequest> Streaming<'a, R> {
    pub(crate) fn running(items: BoxStream<'a, Item<R>>) -> Self {
        Self(items)
    }

    pub(crate) fn refused(error: Error) -> Self {
        Self(Box::pin(stream::once(std::future::ready(Err(error.into())))))
    }
}

impl<R: StreamRequest> Stream for Streaming<'_, R> {
    type Item = Item<R>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}

impl<R: StreamRequest> fmt::Debug for Streaming<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Streaming<{}>", R::name())
    }
}
