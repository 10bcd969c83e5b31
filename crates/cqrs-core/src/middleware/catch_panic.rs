use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures_util::{FutureExt, Stream, StreamExt, stream};

use super::StreamMiddleware;
use super::step::{Step, for_requests_and_events};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::request::{StreamHandler, StreamRequest};

/// Makes an error of kind [`Panic`](ErrorKind::Panic) of a panic, with what it said. A transaction of the handler is rolled back, and
/// what was said is dropped, as with any other error. A stream ends with it.
///
/// What a handler shares with others (a lock that it held, a value that it had changed by half) stays as the panic left it.
/// Where panics abort (`panic = "abort"`) it does nothing. Place it within [`Tracing`](crate::Tracing), so that it is logged.
#[derive(Clone, Copy, Debug, Default)]
pub struct CatchPanic;

impl CatchPanic {
    async fn around<T, E: From<Error>>(&self, step: impl Step<T, E>, cx: &Context<'_>) -> Result<T, E> {
        let name = step.name();
        // A handler may panic before it gives a future.
        let caught = AssertUnwindSafe(async { step.run(cx).await }).catch_unwind().await;
        caught.unwrap_or_else(|panic| Err(panicked(name, &*panic).into()))
    }
}

for_requests_and_events!(CatchPanic);

impl<R: StreamRequest> StreamMiddleware<R> for CatchPanic {
    fn call<N: StreamHandler<R>>(
        &self,
        request: R,
        cx: &Context<'_>,
        next: &N,
    ) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
        // What stands within may panic before it gives a stream.
        let items = stream::once(async move { next.handle(request, cx) }).flatten();
        AssertUnwindSafe(items)
            .catch_unwind()
            .map(|caught| caught.unwrap_or_else(|panic| Err(panicked(R::name(), &*panic).into())))
    }
}

#[cold]
fn panicked(name: &str, panic: &(dyn Any + Send)) -> Error {
    let text = said(panic);
    Error::new(ErrorKind::Panic, format!("the handler of `{name}` panicked: {text}"))
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}
